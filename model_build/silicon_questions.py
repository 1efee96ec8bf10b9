"""Small kmodels that find out what only a chip can tell: one question each, see kpu/silicon.py.

A question is one or more kmodels with their pictures, made so that every known answer gives different bytes. The
engine computes the bytes of each answer, so an answer is recognized by equal bytes or not at all. The questions are as
independent of each other as possible; a question that depends on another's answer comes later, and `settle`
computes with the answers found so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.arrays import Bytes
from model_build.engines.kpu import KpuEngine
from model_build.kpu import cycles, kmodel_v3, lower, silicon
from model_build.kpu.cycles import CycleModel
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import ACTIVATION_SEGMENTS, LEFT_TOP_2, Activation, BatchNorm, KpuLayer
from model_build.kpu.registers import LayerRegisters
from model_build.kpu.silicon import ASSUMED, SiliconProfile

_FIRST, _SECOND, _THIRD = 0, 4096, 8192
"""These lines of KPU RAM are far from each other."""
_UNUSED = (1 << 35) - 1
"""Segments that begin here are never reached."""
PASSES = 4


@dataclass(frozen=True)
class Probe:
    """One kmodel and its picture: the file, uint8 (3, height, width), and the number of output bytes."""

    kmodel: bytes
    planes: Bytes
    output_bytes: int


@dataclass(frozen=True)
class Question:
    """`name` is the profile's field; the answer is the bytes of all probes, one after the other."""

    name: str
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Finding:
    """What a chip answered.

    answer: None if no known answer gives these bytes; alike: other answers that give the same bytes.
    """

    name: str
    answer: str | None
    alike: tuple[str, ...] = ()


def _table(*segments: tuple[int, int, int, int]) -> Activation:
    """(x_start, y_mul, shift_number, bias) of the first segments; the rest are out of reach."""
    rows = [*segments, *[(_UNUSED, 0, 0, 255)] * (ACTIVATION_SEGMENTS - len(segments))]
    return Activation(*np.array(rows, np.int64).T)


_LOWEST = (lower.X_START_LEAST, 0, 0, 0)
# v from 0 to 255 unchanged. Nothing in it is rounded, clamped or ambiguous, so it asks nothing itself.
_IDENTITY = _table(_LOWEST, (0, 1, 0, 0), (255, 0, 0, 255))


def _norm(*channels: tuple[int, int, int]) -> BatchNorm:
    """(mul, shift, add) of each channel."""
    return BatchNorm(*np.array(channels, np.int64).T)


def _layer(
    weights: Sequence[object] | NDArray[np.int64],
    size: tuple[int, int],
    norm: BatchNorm | None = None,
    table: Activation = _IDENTITY,
    pool: int = 0,
    source: int = _FIRST,
    target: int = _SECOND,
    depthwise: bool = False,
    **values: int,
) -> KpuLayer:
    """A convolution at (width, height); weights as bytes, (out, in, k, k), (channels, 1, k, k), or (out, in) for 1x1.

    Without a zero point: arg_x, arg_w and arg_add are 0 unless given. norm: acc is unchanged by default.
    """
    stored = np.asarray(weights)
    if stored.ndim == 2:
        stored = stored[:, :, None, None]
    registers = LayerRegisters(
        depth_wise_layer=int(depthwise), kernel_type=int(stored.shape[2] == 3), load_para=1, load_coor=1, load_act=1,
        dma_burst_size=lower.DMA_BURST_SIZE,
    )  # fmt: skip
    made = KpuLayer(registers, stored.astype(np.uint8), norm or _norm(*[(1, 0, 0)] * len(stored)), table)
    return lower.place(made, source, target, size[1], size[0], pool).with_registers(**values)


def _kmodel(*layers: KpuLayer) -> KmodelV3:
    """A model whose last layer is its output."""
    places, main_bytes = kmodel_v3.place_outputs([layers[-1].out_bytes])
    last = replace(layers[-1], main_mem_address=places[0].address)
    ends = [max(la.source_line + la.in_lines, la.target_line + la.out_lines) for la in layers]
    return KmodelV3((*layers[:-1], last), places, main_bytes, max(ends))


def _probe(planes: Bytes, *layers: KpuLayer) -> Probe:
    return Probe(kmodel_v3.write(_kmodel(*layers)), planes, layers[-1].out_bytes)


def _ramp(width: int = 8, height: int = 8, start: int = 0, step: int = 1) -> Bytes:
    """Plane 0 counts from `start`; the others hold other numbers."""
    count = start + step * np.arange(width * height)
    planes = np.stack([count, 7 * count + 3, 13 * count + 5]).reshape(3, height, width)
    return np.asarray(planes, np.uint8)


_ONE = [[1, 0, 0]]  # v is the byte of plane 0


def _rounding() -> list[Probe]:
    # v / 8 and v / 2, with halves of odd and of even numbers.
    steps = [_table(_LOWEST, (0, 1, shift, 0)) for shift in (3, 1)]
    return [_probe(_ramp(), _layer(_ONE, (8, 8), table=table)) for table in steps]


def _negative_rounding() -> list[Probe]:
    # −v / 8, without halves.
    values = np.array([v for v in range(256) if v % 8 != 4][:64], np.uint8).reshape(1, 8, 8)
    table = _table(_LOWEST, (0, -1, 3, 100))
    return [_probe(np.repeat(values, 3, axis=0), _layer(_ONE, (8, 8), table=table))]


def _segment_start() -> list[Probe]:
    table = _table(_LOWEST, (10, 0, 0, 50), (20, 0, 0, 120), (40, 0, 0, 200))
    return [_probe(_ramp(), _layer(_ONE, (8, 8), table=table))]


def _saturation() -> list[Probe]:
    # 100 − v, and 100 + v where 1,000 is added.
    table = _table(_LOWEST, (0, -1, 0, 100), (1000, 1, 0, 100))
    norm = _norm((1, 0, 0), (1, 0, 1000))
    return [_probe(_ramp(step=4), _layer(_ONE * 2, (8, 8), norm, table))]


def _shift_number() -> list[Probe]:
    table = _table(_LOWEST, (0, 1, 66, 0))
    return [_probe(_ramp(), _layer(_ONE, (8, 8), _norm((16, 0, 0)), table))]


def _norm_shift() -> list[Probe]:
    # (x − 32) / 8 + 100: the sum of the weights is 1.
    return [_probe(_ramp(), _layer(_ONE, (8, 8), _norm((1, 3, 100)), arg_w=-32))]


def _sum_shift() -> list[Probe]:
    # −Σx / 8 + 250 over one plane and two of zeros.
    planes = _ramp()
    planes[1:] = 0
    return [_probe(planes, _layer([[0, 0, 0]], (8, 8), _norm((1, 0, 250)), arg_x=-1, shr_x=3))]


def _norm_mul() -> list[Probe]:
    # 128 ∓ x / 2 for the extreme factors, at the largest shift; then the extremes of what is added.
    table = _table((lower.X_START_LEAST, 0, 0, 3), (-65536, 1, 9, 0), (1 << 30, 0, 0, 77))
    norm = _norm(
        (-(1 << 23), 15, 0), ((1 << 23) - 1, 15, 0), (1, 0, (1 << 31) - 1), (1, 0, -(1 << 31)), (-(1 << 23), 15, 65536)
    )
    return [_probe(_ramp(step=2), _layer(_ONE * 5, (8, 8), norm, table))]


def _norm_width() -> list[Probe]:
    # 255·x·2^22 exceeds 2^35 from x = 33 on. The added value distinguishes a wrapped value from a clamped one.
    # All segments are in use, because unused ones would begin at the very value at which it is clamped.
    highest = [((1 << 35) - (1 << 20), 1, 14, 0)] * (ACTIVATION_SEGMENTS - 2)
    table = _table(_LOWEST, (0, 0, 0, 10), *highest)
    return [_probe(_ramp(step=3), _layer([[255, 0, 0]], (8, 8), _norm((1 << 22, 0, 5 << 14)), table))]


def _arg_add() -> list[Probe]:
    return [_probe(_ramp(), _layer(_ONE, (8, 8), arg_add=7))]


def _padding() -> list[Probe]:
    kernel = np.zeros((1, 3, 3, 3), np.int64)
    kernel[0, 0] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    norm = _norm((1, 6, 0))
    return [_probe(_ramp(start=40), _layer(kernel, (8, 8), norm, pad_value=200))]


def _weight_loads() -> list[Probe]:
    # Sixteen channels, then the same in reverse order, eight in each load.
    spread = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]] * 4)
    norm = _norm(*[(1, 1, channel) for channel in range(16)])
    backwards = np.eye(16, dtype=np.int64)[::-1]
    return [
        _probe(
            _ramp(),
            _layer(spread, (8, 8), norm),
            _layer(backwards, (8, 8), source=_SECOND, target=_THIRD, o_ch_num_coef=7, load_time=1, para_size=128),
        )
    ]


def _odd_pooling() -> list[Probe]:
    return [
        _probe(_ramp(width, height), _layer(_ONE, (width, height), pool=LEFT_TOP_2))
        for width, height in ((15, 9), (9, 8), (8, 9))
    ]


def _line_edges() -> list[Probe]:
    # Two layers at each width, with five channels between them. A chip with another layout would read lines that
    # nothing wrote; the planes there have weight 0, and there is only one output channel, so the bytes never vary.
    probes = []
    for width in (15, 16, 17, 31, 32, 33, 63, 64, 65):
        seen = (1, 0, 0) if width == 64 else (1, 2, 0)
        spread = np.array([seen] * 5)
        between = _norm(*[(1, 2, 10 * channel) for channel in range(5)])
        probes.append(
            _probe(
                _ramp(width, 4),
                _layer(spread, (width, 4), between),
                _layer([[1, 2, 3, 4, 5]], (width, 4), _norm((1, 4, 0)), pool=LEFT_TOP_2, source=_SECOND, target=_THIRD),
            )
        )
    return probes


_OVER = (40, 8)  # size of the maps that are written over: eight lines a channel
_LINES = 8
_FOUR = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])


def _spread(target: int) -> KpuLayer:
    """Four channels of the picture at `target`."""
    return _layer(_FOUR, _OVER, _norm((1, 0, 0), (1, 1, 20), (1, 1, 40), (1, 2, 0)), target=target)


def _copied(source: int) -> KpuLayer:
    """Copies the four channels there to the output."""
    return _layer(np.eye(4, dtype=np.int64), _OVER, source=source, target=_THIRD)


def _vertical(channels: int) -> NDArray[np.int64]:
    """Depthwise kernels that add the pixels above and below."""
    kernels = np.zeros((channels, 1, 3, 3), np.int64)
    kernels[:, 0, 0, 1] = kernels[:, 0, 2, 1] = 1
    return kernels


def _depthwise_overlap() -> list[Probe]:
    planes = _ramp(*_OVER)
    # The shift is one line less than a channel, so the rows of a channel overlap its own last row and the next channel.
    over = _layer(
        _vertical(4), _OVER, _norm(*[(1, 1, 0)] * 4), source=_SECOND, target=_SECOND + _LINES - 1, depthwise=True
    )
    own = _probe(planes, _spread(_SECOND), over, _copied(_SECOND + _LINES - 1))
    # The layouts' sliding form: two groups of channels, each written over the input of the group before.
    start, group = _SECOND + 2 * _LINES, 2 * _LINES
    slides = [
        _layer(_vertical(2), _OVER, _norm(*[(1, 1, 0)] * 2), source=start + at, target=_SECOND + at, depthwise=True)
        for at in (0, group)
    ]
    return [own, _probe(planes, _spread(start), *slides, _copied(_SECOND))]


def _conv_overlap() -> list[Probe]:
    kernels = np.zeros((4, 4, 3, 3), np.int64)
    for channel in range(4):
        kernels[channel, channel, 0, 1] = 1  # its own row above,
        kernels[channel, channel - 1, 1, 1] = 1  # and the channel before
    over = _layer(kernels, _OVER, _norm(*[(1, 1, 0)] * 4), source=_SECOND, target=_SECOND)
    return [_probe(_ramp(*_OVER), _spread(_SECOND), over, _copied(_SECOND))]


_MAKERS = {
    "rounding": _rounding,
    "negative_rounding": _negative_rounding,
    "segment_start": _segment_start,
    "saturation": _saturation,
    "shift_number": _shift_number,
    "norm_shift": _norm_shift,
    "sum_shift": _sum_shift,
    "norm_mul": _norm_mul,
    "norm_width": _norm_width,
    "arg_add": _arg_add,
    "padding": _padding,
    "weight_loads": _weight_loads,
    "odd_pooling": _odd_pooling,
    "line_edges": _line_edges,
    "depthwise_overlap": _depthwise_overlap,
    "conv_overlap": _conv_overlap,
}


@lru_cache(maxsize=1)
def questions() -> tuple[Question, ...]:
    """All questions to the KPU, in order."""
    return tuple(Question(name, tuple(_MAKERS[name]())) for name in silicon.names("kpu"))


def fingerprint() -> str:
    """This text changes whenever a question does, so that answers of two versions are never mixed."""
    digest = hashlib.sha256()
    for question in questions():
        for probe in question.probes:
            digest.update(probe.kmodel + probe.planes.tobytes())
    return digest.hexdigest()[:16]


def expected(question: Question, chip: SiliconProfile) -> bytes:
    """The bytes that this chip would answer."""
    return _expected(question.name, chip)


@lru_cache(maxsize=2048)
def _expected(name: str, chip: SiliconProfile) -> bytes:
    question = next(question for question in questions() if question.name == name)
    return b"".join(KpuEngine(probe.kmodel, 1, chip).run(probe.planes)[0].tobytes() for probe in question.probes)


def settle(said: Mapping[str, bytes]) -> tuple[SiliconProfile, list[Finding]]:
    """The profile of a chip that gave these bytes, by question. Questions that are missing keep the assumed answer."""
    profile = ASSUMED
    findings: list[Finding] = []
    for _ in range(PASSES):
        before = profile
        findings = []
        for question in questions():
            if question.name not in said:
                continue
            name = question.name
            fitting = [
                answer
                for answer in silicon.answers_of(name)
                if expected(question, silicon.with_answer(profile, name, answer)) == said[name]
            ]
            if fitting:
                profile = silicon.with_answer(profile, name, fitting[0])
            findings.append(Finding(name, fitting[0] if fitting else None, tuple(fitting[1:])))
        # An answer that is found later may explain an earlier one that was not understood.
        if profile == before:
            break
    return profile, findings


# -- time


@dataclass(frozen=True)
class TimedLayer:
    """A layer whose time is the difference between a model with `many` copies and one with `few`, per copy."""

    name: str
    layer: KpuLayer
    few: bytes
    many: bytes
    copies: int
    planes: Bytes


_CONVOLUTIONS = ((1, 16, 32, 32), (1, 32, 64, 32), (1, 64, 16, 16), (3, 16, 32, 32), (3, 48, 8, 8), (1, 96, 20, 16))
_DEPTHWISE = ((32, 32, 32), (64, 64, 16), (128, 8, 8), (96, 40, 16))
_COPIES = 8


@lru_cache(maxsize=1)
def timed_layers() -> tuple[TimedLayer, ...]:
    """Layers with different numbers of lines, weights and channels."""
    made = []
    for kernel, channels, width, height in _CONVOLUTIONS:
        weights = np.full((channels, channels, kernel, kernel), 1, np.int64)
        made.append(_timed(f"{kernel}x{kernel} {channels} channels {width}x{height}", weights, (width, height), False))
    for channels, width, height in _DEPTHWISE:
        weights = np.full((channels, 1, 3, 3), 1, np.int64)
        made.append(_timed(f"depthwise {channels} channels {width}x{height}", weights, (width, height), True))
    return tuple(made)


def _timed(name: str, weights: NDArray[np.int64], size: tuple[int, int], depthwise: bool) -> TimedLayer:
    channels = len(weights)
    first = _layer(np.ones((channels, 3), np.int64), size, _norm(*[(1, 2, 0)] * channels), target=_SECOND)
    # The last layer has little output, because the copy to main memory is not part of the measured layer.
    last = _layer(np.ones((4, channels), np.int64), size, _norm(*[(1, 8, 0)] * 4))
    places = (_SECOND, _THIRD * 2)

    def model(copies: int) -> bytes:
        middle = [
            _layer(weights, size, _norm(*[(1, 6, 0)] * channels), source=places[i % 2], target=places[(i + 1) % 2],
                   depthwise=depthwise)
            for i in range(copies)
        ]  # fmt: skip
        end = last.with_registers(image_src_addr=places[copies % 2], image_dst_addr=0)
        return kmodel_v3.write(_kmodel(first, *middle, end))

    layer = _layer(weights, size, depthwise=depthwise)
    return TimedLayer(name, layer, model(0), model(_COPIES), _COPIES, _ramp(*size))


def fit(times_us: Mapping[str, float], kpu_hz: float) -> CycleModel:
    """The cycle model fitted by least squares of relative errors to the µs of each timed layer, at the chip's KPU
    clock.

    If these times do not determine a coefficient (it comes out negative), the published model is scaled instead.
    """
    scale = kpu_hz / cycles.KPU_CLOCK_HZ
    layers = [timed for timed in timed_layers() if timed.name in times_us]
    found: list[float] = []
    for depthwise in (False, True):
        rows, values = [], []
        for timed in layers:
            layer = timed.layer
            if layer.depthwise != depthwise:
                continue
            value = times_us[timed.name] * scale
            lines = layer.in_lines if depthwise else layer.in_lines * layer.out_channels
            weights = layer.out_channels if depthwise else layer.weights.size
            rows.append([lines / 1000 / value, weights / 1000 / value, 1 / value])
            values.append(1.0)
        found += np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0].tolist() if len(rows) >= 3 else [-1.0]
    if len(found) == 6 and min(found) >= 0:
        return CycleModel(*(round(value, 3) for value in found))
    return cycles.PUBLISHED.slower(time_factor(times_us, kpu_hz))


def time_factor(times_us: Mapping[str, float], kpu_hz: float) -> float:
    """The time of all timed layers together, divided by the published model's estimate."""
    layers = [timed for timed in timed_layers() if timed.name in times_us]
    estimate = sum(cycles.layer_us(timed.layer) for timed in layers)
    return sum(times_us[timed.name] for timed in layers) * (kpu_hz / cycles.KPU_CLOCK_HZ) / max(estimate, 1e-9)


def model_error(times_us: Mapping[str, float], kpu_hz: float, model: CycleModel) -> float:
    """Root mean square of the relative errors of the model's estimates."""
    scale = kpu_hz / cycles.KPU_CLOCK_HZ
    errors = [
        cycles.layer_us(timed.layer, model) / (times_us[timed.name] * scale) - 1
        for timed in timed_layers()
        if timed.name in times_us
    ]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0
