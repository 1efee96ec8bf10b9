"""What quantization costs: each head of a built kmodel compared with float, on pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common.arrays import Bytes, Numbers
from model_build import float_forward
from model_build.manifest import HeadQuantization
from model_build.network import HEADS, Network

SCORE_THRESHOLD = 0.5
"""The keypoint error leaves out keypoints whose float score is lower."""


@dataclass(frozen=True)
class HeadQuality:
    """One head over all pictures, in the head's own unit (logits, pixels)."""

    name: str
    low: float
    high: float
    """The least and the greatest float value."""
    scale: float | list[float]
    """One number, or a list with one for each channel."""
    zero_point: int | list[int]
    rmse: float
    cosine: float
    """Both errors are measured against float values clamped to the range that bytes can express."""
    clipped: float
    """The fraction of values outside the range that bytes can express."""


@dataclass(frozen=True)
class Quality:
    """All heads, and the distances in pixels of the input between the places of keypoints in float and in bytes."""

    heads: tuple[HeadQuality, ...]
    pictures: int
    keypoints: int
    """The number of keypoints that were compared."""
    median_px: float | None
    p95_px: float | None
    moved: int
    """The number of keypoints that moved by more than two cells, to another place or person."""

    @property
    def distance(self) -> float:
        """How far the heads are from float, one number without unit: 1 − cosine, the mean of all heads."""
        return float(np.mean([1 - head.cosine for head in self.heads]))

    @property
    def found_by_float(self) -> bool:
        """Whether the float network itself is sure of at least one keypoint per picture on average."""
        return self.keypoints >= self.pictures

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    network: Network,
    heads: tuple[HeadQuantization, ...],
    pictures: Bytes,
    run: Callable[[Numbers], Mapping[str, Numbers]],
) -> Quality:
    """Compare `run` (uint8 (3, H, W) → uint8 heads CHW by name) with float on pictures uint8 (N, H, W, 3).

    Keypoint error: distance, in pixels of the input, between the best position of a keypoint in float and in
    bytes, for keypoints with a float score of at least 0.5, all pictures together.
    """
    wanted: dict[str, list[Numbers]] = {name: [] for name in HEADS}
    got: dict[str, list[Numbers]] = {name: [] for name in HEADS}
    errors_px: list[float] = []
    for picture in pictures:
        float_heads = float_forward.forward(network, picture)
        quantized = run(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        real = {head.name: head.dequantize(quantized[head.name]).transpose(1, 2, 0) for head in heads}
        for name in HEADS:
            wanted[name].append(float_heads[name].ravel())
            got[name].append(real[name].ravel())
        there, scores = keypoints(float_heads, network.output_stride)
        here, _ = keypoints(real, network.output_stride)
        errors_px += list(np.hypot(*(here - there).T)[scores >= SCORE_THRESHOLD])
    return Quality(
        heads=tuple(_head(head, np.concatenate(wanted[head.name]), np.concatenate(got[head.name])) for head in heads),
        pictures=len(pictures),
        keypoints=len(errors_px),
        median_px=round(float(np.median(errors_px)), 3) if errors_px else None,
        p95_px=round(float(np.percentile(errors_px, 95)), 3) if errors_px else None,
        moved=int((np.asarray(errors_px) > 2 * network.output_stride).sum()),
    )


def keypoints(heads: Mapping[str, Numbers], output_stride: int) -> tuple[Numbers, Numbers]:
    """Best position of each keypoint, (K, 2) as y, x in pixels, and its score: cell · stride + short offset there."""
    heatmap, offsets = heads["heatmap"], heads["short_offset"]
    height, width, count = heatmap.shape
    best = heatmap.reshape(-1, count).argmax(axis=0)
    rows, columns = np.divmod(best, width)
    which = np.arange(count)
    positions = np.stack([
        rows * output_stride + offsets[rows, columns, which],
        columns * output_stride + offsets[rows, columns, count + which],
    ], axis=1)  # fmt: skip
    return positions, 1 / (1 + np.exp(-heatmap[rows, columns, which]))


def _head(head: HeadQuantization, wanted: Numbers, got: Numbers) -> HeadQuality:
    scale, zero_point = np.asarray(head.scale, np.float64), np.asarray(head.zero_point)
    low, high = -zero_point * scale, (255 - zero_point) * scale
    by_channel = wanted.reshape(-1, head.channels)
    # Ranges end on purpose where decoding needs no more. Values beyond are counted but are no error.
    reachable = np.clip(by_channel, low, high).ravel()
    norms = float(np.linalg.norm(reachable) * np.linalg.norm(got))
    return HeadQuality(
        name=head.name,
        low=round(float(wanted.min()), 4),
        high=round(float(wanted.max()), 4),
        scale=head.scale,
        zero_point=head.zero_point,
        rmse=round(float(np.sqrt(np.mean((reachable - got) ** 2))), 5),
        cosine=round(float(reachable @ got) / norms, 6) if norms else 0.0,
        clipped=round(float(np.mean((by_channel < low - scale / 2) | (by_channel > high + scale / 2))), 6),
    )
