"""Compares a board's results with the simulator's, stage by stage.

Each stage is computed again from the board's own input of that stage: heads by the simulated KPU from the planes that
the board's KPU got, the decoder's integers by the same decoder from the board's heads, the drawing from the board's
poses. So a fault shows only in its own stage, and a second fault in a later stage is seen as well. These are pure
functions over arrays, without I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.arrays import Bytes, Numbers
from common.pose import PIXEL_Q8, SCORE_ONE_Q15
from model_build.manifest import dequantize
from model_build.network import HEADS

STAGES = ("input", *HEADS, "decoder", "drawing")
PLANES = "RGB"
STALE_BYTE = (
    "only the last byte: MaixPy copies one byte too few of an output whose width is a multiple of 64; "
    "the board's driver, not the network"
)


@dataclass(frozen=True)
class First:
    """The first place where two stages differ: where, in words, and both values."""

    where: str
    board: int
    simulator: int


@dataclass(frozen=True)
class StageDifference:
    """One stage of one picture. Differences are board − simulator, for heads in quantization steps."""

    stage: str
    equal: bool
    total: int
    differing: int = 0
    first: First | None = None
    max_abs: int = 0
    rms: float = 0.0
    histogram: dict[int, int] = field(default_factory=dict)
    looks_like: str = ""
    compared: bool = True


@dataclass(frozen=True)
class Metrics:
    """One row as on-target validation tools print it. `b` is the reference: l2r = ‖a − b‖ / ‖b‖."""

    acc: float
    rmse: float
    mae: float
    l2r: float
    cos: float


@dataclass(frozen=True)
class BoardFrame:
    """The board's results for one picture.

    `sent` is RGB565 memory as sent, or None for a frame of its own camera; planes uint8 (3, h, w); heads uint8
    (c, mh, mw); poses int32 (n, 1 + 3·keypoints); `drawn` and `before_drawing` RGB565 memory.
    """

    name: str
    sent: bytes | None
    planes: Bytes
    heads: dict[str, Bytes]
    multi: NDArray[np.int32]
    single: NDArray[np.int32]
    before_drawing: bytes
    drawn: bytes
    times_us: dict[str, int]


@dataclass(frozen=True)
class SimulatedFrame:
    """The simulator's result for each of the board's stages (see the module's docstring); planes: None if no picture
    was sent.

    `chain` are the decoder's poses for the simulator's own heads, single-pose, int32 (n, 1 + 3·keypoints). `real`
    are the float network's heads in real values and `real_chain` the reference decoder's poses for them, rounded
    to the same integers; None: not computed.
    """

    planes: Bytes | None
    heads: dict[str, Bytes]
    multi: NDArray[np.int32]
    single: NDArray[np.int32]
    drawn: bytes | None
    chain: NDArray[np.int32] | None = None
    real: dict[str, NDArray[np.float32]] | None = None
    real_chain: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Distances:
    """Keypoints of two single-pose decodings, in pixels of the field, for keypoints with a score above one half in the
    reference."""

    keypoints: int
    median_px: float
    max_px: float


@dataclass(frozen=True)
class PictureResult:
    """The results of all stages for one picture."""

    name: str
    stages: tuple[StageDifference, ...]
    keypoints_px: dict[str, Distances]
    metrics: dict[str, dict[str, Metrics]]
    times_us: dict[str, int]

    @property
    def first_fault(self) -> str | None:
        """The first stage that differs; None if all are equal."""
        return next((stage.stage for stage in self.stages if not stage.equal), None)


def compare_arrays(stage: str, board: Numbers, simulator: Numbers, axes: Sequence[str]) -> StageDifference:
    """Compare integer arrays of one shape exactly; `axes` names the coordinates, "channel y x" for heads."""
    if board.shape != simulator.shape:
        return StageDifference(
            stage, False, int(simulator.size), int(simulator.size),
            looks_like=f"the board gives {board.shape}, the simulator {simulator.shape}",
        )  # fmt: skip
    difference = board.astype(np.int64) - simulator.astype(np.int64)
    wrong = np.flatnonzero(difference)
    if not wrong.size:
        return StageDifference(stage, True, int(board.size))
    place = np.unravel_index(int(wrong[0]), board.shape)
    where = ", ".join(f"{axis} {int(index)}" for axis, index in zip(axes, place, strict=True))
    values, counts = np.unique(difference, return_counts=True)
    order = np.argsort(-counts)[:33]
    return StageDifference(
        stage,
        equal=False,
        total=int(board.size),
        differing=int(wrong.size),
        first=First(where, int(board[place]), int(simulator[place])),
        max_abs=int(np.abs(difference).max()),
        rms=float(np.sqrt(np.mean(difference.astype(np.float64) ** 2))),
        histogram={int(values[i]): int(counts[i]) for i in sorted(order.tolist())},
    )


def compare_input(board: Bytes, simulator: Bytes) -> StageDifference:
    """Compare the planes, and describe a difference of a known kind."""
    result = compare_arrays("input", board, simulator, ("plane", "y", "x"))
    if result.equal or board.shape != simulator.shape:
        return result
    return replace(result, looks_like=_explain_input(board, simulator))


def _explain_input(board: Bytes, simulator: Bytes) -> str:
    for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        if np.array_equal(board, simulator[list(order)]):
            return f"planes swapped: the board's are {''.join(PLANES[i] for i in order)}, should be RGB"
    shifted = _explain_shift(board, simulator)
    if shifted:
        return shifted
    repeated = rgb565.widen(rgb565.truncate(simulator.transpose(1, 2, 0)), True).transpose(2, 0, 1)
    if np.array_equal(board, repeated):
        return "5/6 bits widened by bit replication instead of MaixPy's rounded tables"
    same = [PLANES[i] for i in range(3) if np.array_equal(board[i], simulator[i])]
    if same:
        return f"plane {' and '.join(same)} equal, the rest not"
    return _explain_rows(board, simulator)


def _explain_shift(board: Numbers, simulator: Numbers) -> str:
    """Tell whether all rows or columns are shifted by the same number."""
    for axis, what in ((1, "row"), (2, "column")):
        for by in (1, -1, 2, -2):
            moved = np.roll(simulator, by, axis=axis)
            keep: list[slice] = [slice(None)] * 3
            keep[axis] = slice(by, None) if by > 0 else slice(None, by)
            if board.shape[axis] > abs(by) and np.array_equal(board[tuple(keep)], moved[tuple(keep)]):
                return f"all {what}s shifted by {by:+d}"
    return ""


def _explain_rows(board: Numbers, simulator: Numbers) -> str:
    """Tell whether only some rows differ, and which."""
    wrong = np.flatnonzero((board != simulator).any(axis=(0, 2)))
    if not wrong.size or wrong.size == board.shape[1]:
        return ""
    rows = f"row {wrong[0]}" if wrong.size == 1 else f"rows {wrong[0]}…{wrong[-1]}"
    for other in (wrong[0] - 1, wrong[0] + 1):
        if 0 <= other < board.shape[1] and np.array_equal(board[:, wrong[0]], simulator[:, other]):
            return f"{rows} differ; row {wrong[0]} holds what belongs in row {other}"
    return f"only {rows} differ"


def compare_heads(board: Mapping[str, Bytes], simulator: Mapping[str, Bytes]) -> list[StageDifference]:
    """Compare all heads, in the order of HEADS."""
    results = []
    for name in HEADS:
        result = compare_arrays(name, board[name], simulator[name], ("channel", "y", "x"))
        if not result.equal and board[name].shape == simulator[name].shape:
            result = replace(result, looks_like=_explain_head(name, board, simulator))
        results.append(result)
    return results


def _explain_head(name: str, board: Mapping[str, Bytes], simulator: Mapping[str, Bytes]) -> str:
    ours, theirs = board[name], simulator[name]
    wrong = np.argwhere(ours != theirs)
    if len(wrong) == 1 and tuple(wrong[0]) == tuple(n - 1 for n in ours.shape):
        return STALE_BYTE
    for other in HEADS:
        if other != name and simulator[other].shape == ours.shape and np.array_equal(ours, simulator[other]):
            return f"this is {other}: outputs in the wrong order"
    shifted = _explain_shift(ours, theirs)
    if shifted:
        return shifted
    difference = ours.astype(int) - theirs
    inside = (ours > 0) & (ours < 255) & (theirs > 0) & (theirs < 255)
    if inside.any() and (difference[inside] == difference[inside][0]).all() and difference[inside][0]:
        return f"every value {difference[inside][0]:+d}: another zero point or bias"
    if all(not np.array_equal(board[head], simulator[head]) for head in HEADS):
        return "all heads differ: another kmodel, or a fault in the layers before the heads"
    channels = sorted({int(c) for c in wrong[:, 0]})
    if len(channels) < ours.shape[0]:
        shown = ", ".join(str(c) for c in channels[:8]) + ("…" if len(channels) > 8 else "")
        return f"{len(channels)} of {ours.shape[0]} channels: {shown}; weights or bias of these in the last layer"
    return _explain_rows(ours, theirs)


FIELDS = ("x", "y", "score")


def compare_poses(
    board: tuple[NDArray[np.int32], NDArray[np.int32]],
    simulator: tuple[NDArray[np.int32], NDArray[np.int32]],
    keypoints: Sequence[str],
) -> StageDifference:
    """Compare the decoder's integers, multi-pose then single-pose, each int32 (n, 1 + 3·keypoints)."""
    for what, ours, theirs in zip(("multi", "single"), board, simulator, strict=True):
        if len(ours) != len(theirs):
            total = int(theirs.size)
            return StageDifference(
                "decoder", False, total, abs(int(ours.size) - total),
                First(f"{what}-pose, number of poses", len(ours), len(theirs)),
                looks_like=f"{what}-pose: the board finds {len(ours)} poses, the simulator {len(theirs)}",
            )  # fmt: skip
    flat = [np.concatenate([part.reshape(-1) for part in side]) for side in (board, simulator)]
    result = compare_arrays("decoder", flat[0], flat[1], ("integer",))
    if result.equal or result.first is None:
        return result
    at = int(np.flatnonzero(flat[0] != flat[1])[0])
    width = 1 + 3 * len(keypoints)
    what, at = ("multi", at) if at < board[0].size else ("single", at - board[0].size)
    pose, place = divmod(at, width)
    name = "pose score" if place == 0 else f"{keypoints[(place - 1) // 3]} {FIELDS[(place - 1) % 3]}"
    unit = " (1/256 px)" if place and (place - 1) % 3 < 2 else " (1/32768)"
    where = f"{what}-pose, pose {pose}, {name}{unit}"
    looks_like = ""
    difference = flat[0] - flat[1]
    moved = sorted({int(v) for v in difference[difference != 0]})
    if len(moved) == 1:
        looks_like = f"every differing integer is off by {moved[0]:+d}"
    return replace(result, first=First(where, result.first.board, result.first.simulator), looks_like=looks_like)


def compare_drawings(board: bytes, simulator: bytes | None, width: int, height: int) -> StageDifference:
    """Compare RGB565 memory after drawing, pixel by pixel; with `simulator` None there is nothing to compare."""
    if simulator is None:
        return StageDifference("drawing", True, 0, compared=False)
    ours, theirs = (np.frombuffer(side, ">u2").reshape(height, width) for side in (board, simulator))
    return compare_arrays("drawing", ours, theirs, ("y", "x"))


def compare(frame: BoardFrame, simulated: SimulatedFrame, manifest: Mapping[str, Any]) -> PictureResult:
    """Compare all stages of one picture; `manifest` is posenet.json as a dictionary."""
    height, width = frame.planes.shape[1:]
    if simulated.planes is None:
        stages = [StageDifference("input", True, int(frame.planes.size), compared=False)]
    else:
        stages = [compare_input(frame.planes, simulated.planes)]
    stages += compare_heads(frame.heads, simulated.heads)
    stages.append(
        compare_poses((frame.multi, frame.single), (simulated.multi, simulated.single), manifest["keypoints"])
    )
    stages.append(compare_drawings(frame.drawn, simulated.drawn, width, height))
    return PictureResult(
        frame.name,
        tuple(stages),
        keypoint_distances(frame, simulated),
        head_metrics(frame.heads, simulated.heads, simulated.real, manifest),
        frame.times_us,
    )


def keypoint_distances(frame: BoardFrame, simulated: SimulatedFrame) -> dict[str, Distances]:
    """The distances by row, for the rows that can be computed."""
    board, ours, real = frame.single, simulated.chain, simulated.real_chain
    pairs = zip(ROWS, ((board, ours), (ours, real), (board, real)), strict=True)
    return {row: found for row, (a, b) in pairs if (found := _distances(a, b)) is not None}


def _distances(a: NDArray[np.int32] | None, b: NDArray[np.int32] | None) -> Distances | None:
    if a is None or b is None or len(a) != 1 or len(b) != 1:
        return None
    ours, theirs = (side[0, 1:].reshape(-1, 3) for side in (a, b))
    sure = theirs[:, 2] >= SCORE_ONE_Q15 // 2
    if not sure.any():
        return None
    distance = np.hypot(*((ours - theirs)[sure, :2] / PIXEL_Q8).T)
    return Distances(int(sure.sum()), float(np.median(distance)), float(distance.max()))


def metrics(a: Numbers, b: Numbers, is_heatmap: bool) -> Metrics:
    """Compare real values (c, h, w) with a reference.

    acc of a heatmap: the share of keypoints whose best cell is the same; of other heads: the share of values within
    half a pixel.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    if is_heatmap:
        flat = (len(x), -1)
        acc = float(np.mean(x.reshape(flat).argmax(axis=1) == y.reshape(flat).argmax(axis=1)))
    else:
        acc = float(np.mean(np.abs(x - y) <= 0.5))
    error = x - y
    norm_x, norm_y = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    same = bool(np.array_equal(x, y))
    return Metrics(
        acc=acc,
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        l2r=0.0 if same else float(np.linalg.norm(error)) / max(norm_y, 1e-12),
        cos=1.0 if same else float(np.sum(x * y)) / max(norm_x * norm_y, 1e-12),
    )


ROWS = ("target vs simulator", "simulator vs float", "target vs float")


def head_metrics(
    board: Mapping[str, Bytes],
    simulator: Mapping[str, Bytes],
    real: Mapping[str, Numbers] | None,
    manifest: Mapping[str, Any],
) -> dict[str, dict[str, Metrics]]:
    """The figures by row and head; rows with float are absent if there is no float network."""
    rows: dict[str, dict[str, Metrics]] = {row: {} for row in (ROWS if real else ROWS[:1])}
    for facts in manifest["heads"]:
        name = facts["name"]
        is_heatmap = name == "heatmap"
        ours, theirs = (dequantize(heads[name], facts["scale"], facts["zero_point"]) for heads in (board, simulator))
        if ours.shape != theirs.shape:
            continue
        rows[ROWS[0]][name] = metrics(ours, theirs, is_heatmap)
        if real:
            rows[ROWS[1]][name] = metrics(theirs, real[name], is_heatmap)
            rows[ROWS[2]][name] = metrics(ours, real[name], is_heatmap)
    return rows


def unpack_poses(data: bytes, keypoints: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The board's POSES buffer: u32 count, u32 count of single poses, then int32; ValueError if it is malformed."""
    width = 1 + 3 * keypoints
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes of poses; at least 8 are needed")
    multi, single = struct.unpack_from("<II", data)
    if len(data) != 8 + 4 * width * (multi + single):
        raise ValueError(f"{len(data)} bytes do not hold {multi} + {single} poses of {width} integers")
    poses = np.frombuffer(data, "<i4", offset=8).reshape(-1, width).astype(np.int32)
    return poses[:multi], poses[multi:]


def to_json(pictures: Sequence[PictureResult], context: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report for --json."""
    return {
        "format": 1,
        "equal": all(picture.first_fault is None for picture in pictures),
        "first_fault": next(((p.name, p.first_fault) for p in pictures if p.first_fault), None),
        **context,
        "pictures": [{**asdict(picture), "first_fault": picture.first_fault} for picture in pictures],
    }
