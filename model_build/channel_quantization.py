"""Post-training quantization with a scale for every channel: Network and pictures → integers for each layer.

    byte = clamp(round(Σ (input byte − input zero point) · weight · factor + offset), 0, 255)

Each output channel has its own factor, so on hardware that multiplies sums per channel, as the KPU does
(model_build/kpu/lower.py), a scale for each channel costs nothing. The next layer's weights, which are themselves
quantized per output channel, undo the scales (cross-layer equalisation, arXiv 1906.04721 §4.1). A channel's range is at
least half of the largest range in its layer: weaker channels would gain less from finer steps than they would lose on
pictures that drive them higher than calibration did (docs/accuracy-log.md). ReLU6 needs no table of its own: a
channel's range never exceeds 6, and the clamp to 255 is the upper bound.

Layers are quantized one after the other, each on the quantized inputs that it will get on the chip. Weights are rounded
so that the layer's sums change least (model_build.gptq), and each channel's mean error over the calibration pictures
is subtracted from its bias (bias correction, same paper §4.2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common.arrays import Bytes, Floats, Numbers
from model_build import float_forward
from model_build.float_forward import normalise, reproducible
from model_build.gptq import round_layer
from model_build.network import HEADS, Conv, Network

RELU6_MAX = 6.0
BIAS_PIXELS = 16_000
"""A bias is corrected on this many pixels; more would change the mean by about a hundredth of a step."""
LIVE_PIXELS = 32
"""With fewer unclamped pixels than this, a channel's bias is not corrected."""


@dataclass(frozen=True)
class Choices:
    """The choices of a build; docs/accuracy-log.md measures each default against its alternatives."""

    per_channel_activations: bool = True
    per_channel_weights: bool = True
    compensated_rounding: bool = True
    camera_reach: bool = True
    bias_correction: bool = True
    limit_heads: bool = True
    range_percentile: float = 100.0
    range_margin: float = 1.6
    range_floor: float = 0.5  # least range of a channel, as part of its layer's largest
    heatmap_logits: tuple[float, float] = (-4.0, 8.0)
    short_offset_px: float = 36.0  # trained inside a disk of 32 px around each keypoint
    displacement_margin: float = 1.2
    displacement_floor_px: float = 64.0
    head_cell_logit: float = -3.0  # displacements count where their keypoint's heatmap is above this


@dataclass(frozen=True, eq=False)
class ChannelQuantization:
    """real = (byte − zero_point) · scale of each channel. scale: float64 (C,)."""

    scale: Floats
    zero_point: int

    @property
    def constant(self) -> float | tuple[float, ...]:
        """The scale, as one number if it is the same for all channels."""
        scales = tuple(float(one) for one in self.scale)
        return scales[0] if len(set(scales)) == 1 else scales


INPUT = ChannelQuantization(np.full(3, 1 / 128), 128)
"""This is the quantization of the input: camera bytes go into the KPU unchanged."""


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """What one layer computes: the formula at the top of this file.

    conv: the float layer that it stands for; weights: int64 −127…127 of the same shape; factor, offset: float64
    (out,), in steps of the output's byte.
    """

    conv: Conv
    weights: Numbers
    factor: Floats
    offset: Floats
    input_zero_point: int
    output: ChannelQuantization


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """The layers of a network in integers: the trunk in order, the heads by name."""

    trunk: tuple[QuantizedLayer, ...]
    heads: dict[str, QuantizedLayer]


def quantize_weights(scaled: Floats, depthwise: bool, per_channel: bool) -> tuple[Floats, Floats]:
    """Weights (kh, kw, in, out) → integers −127…127 of the same shape, and each output channel's step (out,)."""
    axes = (0, 1, 3) if depthwise else (0, 1, 2)
    largest = np.abs(scaled).max(axis=axes)
    if not per_channel:
        largest = np.full_like(largest, largest.max())
    step = np.where(largest > 0, largest, 1.0) / 127
    per_output = step.reshape(1, 1, -1, 1) if depthwise else step.reshape(1, 1, 1, -1)
    return np.rint(scaled / per_output).astype(np.int64), step


def _flat(maps: Sequence[Floats]) -> Floats:
    """Pixels of all pictures: (H, W, C) each → (pixels, C)."""
    return np.concatenate([one.reshape(-1, one.shape[-1]) for one in maps])


def camera_reach(first: Conv) -> Floats:
    """The largest possible value of each channel of the first layer, whatever the camera sees; float64 (C,)."""
    weights = np.asarray(first.weights, np.float64)
    darkest, brightest = ((byte - INPUT.zero_point) * INPUT.scale[0] for byte in (0, 255))
    most: Floats = np.maximum(weights * darkest, weights * brightest).sum(axis=(0, 1, 2)) + first.bias
    return most


def _trunk_quantization(conv: Conv, wanted: Sequence[Floats], reach: Floats, choices: Choices) -> ChannelQuantization:
    """Scale of each channel of a ReLU layer, from its values on the calibration pictures.

    reach: what each channel cannot exceed.
    """
    if choices.range_percentile == 100.0:
        top = functools.reduce(np.maximum, wanted).max(axis=(0, 1)).astype(np.float64)
    else:
        top = np.percentile(_flat(wanted), choices.range_percentile, axis=0).astype(np.float64)
    top *= choices.range_margin
    if choices.camera_reach:
        top = np.minimum(top, reach)
    if conv.activation == "relu6":
        top = np.minimum(top, RELU6_MAX)
    # A channel that is small on the calibration pictures may be larger on others.
    top = np.maximum(top, max(choices.range_floor * float(top.max()), 1e-6))
    if not choices.per_channel_activations:
        top = np.full_like(top, top.max())
    return ChannelQuantization(top / 255, 0)


def _head_quantization(
    name: str, network: Network, wanted: Sequence[Floats], heatmaps: Sequence[Floats], choices: Choices
) -> ChannelQuantization:
    """Scale of each channel of a head.

    With `limit_heads`, the range covers only what decoding can use: heatmap logits inside `heatmap_logits`, short
    offsets inside the disk they were trained on, displacements at cells where their keypoint may be.
    """
    channels = wanted[0].shape[-1]
    if not choices.limit_heads or name == "heatmap":
        low, high = choices.heatmap_logits
        if not choices.limit_heads:
            low, high = float(min(one.min() for one in wanted)), float(max(one.max() for one in wanted))
        low, high = min(low, 0.0), max(high, 1e-6)
        return ChannelQuantization(np.full(channels, (high - low) / 255), round(-low * 255 / (high - low)))
    if name == "short_offset":
        return ChannelQuantization(np.full(channels, choices.short_offset_px / 127), 128)
    parents, children = zip(*network.edges, strict=True)
    start = np.array(parents if name == "displacement_fwd" else children)
    used = np.tile(_flat(heatmaps)[:, start] > choices.head_cell_logit, 2)  # y, then x of every edge
    reach = np.where(used, np.abs(_flat(wanted)), 0).max(axis=0).astype(np.float64)
    scale = np.maximum(reach * choices.displacement_margin, choices.displacement_floor_px) / 127
    return ChannelQuantization(scale, 128)


def to_bytes(sums: Floats, offset: Floats, out: Floats | None = None) -> Floats:
    """Bytes (…, C) as float32 of sums float32 (…, C), in steps of the byte, and each channel's offset."""
    steps = np.add(sums, offset.astype(np.float32), out=out)
    np.rint(steps, out=steps)
    np.maximum(steps, 0, out=steps)
    return np.minimum(steps, 255, out=steps)


def mean_error(sums: Floats, offset: Floats, wanted: Floats) -> Floats:
    """By how much the bytes of each channel are too low on average, float64 (C,).

    sums, and the bytes wanted, with fractions: float32 (pixels, C). Clamped pixels do not depend on
    the bias and do not count; if nearly all are clamped, the result is 0.
    """
    got = to_bytes(sums, offset)
    live = (got > 0) & (got < 255)
    missing = ((wanted - got) * live).sum(axis=0, dtype=np.float64)
    count = live.sum(axis=0)
    return np.where(count >= LIVE_PIXELS, missing / np.maximum(count, 1), 0.0)


def _sampled(maps: Sequence[Floats]) -> Floats:
    """About BIAS_PIXELS pixels, spread evenly over the maps: (H, W, C) each → (pixels, C)."""
    height, width, channels = maps[0].shape
    step = max(1, len(maps) * height * width // BIAS_PIXELS)
    while math.gcd(step, width) > 1:
        step += 1  # Otherwise whole columns would be left out.
    return np.concatenate([one.reshape(-1, channels)[::step] for one in maps])


def _quantize_layer(
    conv: Conv,
    given: ChannelQuantization,
    inputs: Sequence[Floats],
    output: ChannelQuantization,
    wanted: Sequence[Floats],
    choices: Choices,
) -> tuple[QuantizedLayer, list[Floats]]:
    """One layer in integers, and its output bytes on the calibration pictures.

    inputs: bytes (H, W, C) as float32 of each picture; wanted: the float network's outputs of the same layer.
    """
    depthwise = conv.kind == "depthwise"
    # Each output channel's weights times the scales of the inputs that its group reads: (in / groups, out).
    scales = np.repeat(given.scale.reshape(conv.groups, -1), conv.weights.shape[3] // conv.groups, axis=0).T
    scaled = np.asarray(conv.weights, np.float64) * scales
    integers: Numbers
    integers, step = quantize_weights(scaled, depthwise, choices.per_channel_weights)
    centred = [one - np.float32(given.zero_point) for one in inputs] if given.zero_point else inputs
    if choices.compensated_rounding:
        integers = round_layer(conv, scaled, step, centred)
    # From here on values are in steps of the output's byte.
    factor = step / output.scale
    offset = np.asarray(conv.bias, np.float64) / output.scale + output.zero_point
    sums = []
    for one in centred:
        sums.append(exact_sums(conv, integers, one))
        sums[-1] *= factor.astype(np.float32)
    if choices.bias_correction:
        sampled = _sampled(sums)
        target = np.clip(_sampled(wanted) / output.scale + output.zero_point, 0, 255).astype(np.float32)
        for _ in range(2):
            offset += mean_error(sampled, offset, target)
    layer = QuantizedLayer(conv, integers, factor, offset, given.zero_point, output)
    return layer, [to_bytes(one, offset, out=one) for one in sums]


def exact_sums(conv: Conv, integers: Numbers, inputs: Floats) -> Floats:
    """Σ input · weight as float32 (H', W', O), of bytes less zero point (H, W, C) as float32.

    The sums are exact, so their order does not matter: integers below 2^24 in float32, or float64 if a channel can
    exceed that.
    """
    axes = (0, 1, 3) if conv.kind == "depthwise" else (0, 1, 2)
    small = 255 * np.abs(integers).sum(axis=axes).max() < 1 << 24
    return float_forward.sums(conv, integers.astype(np.float32 if small else np.float64), inputs).astype(
        np.float32, copy=False
    )


def quantize(network: Network, pictures: Sequence[Bytes], choices: Choices | None = None) -> QuantizedNetwork:
    """The network in integers, from calibration pictures: uint8 (H, W, 3), letterboxed to one size.

    The last bit of a sum can decide how a weight is rounded, and that decides others. So all such sums are exact, and
    builds are the same on all processors, Pythons and BLAS libraries. One thread is used, because the few inexact steps
    (the inverse in model_build.gptq) are left to LAPACK.
    """
    layers = len(network.trunk) + len(HEADS)
    with (
        threadpool_limits(1),
        tqdm(total=layers, desc="quantizing", unit=" layers", disable=None, leave=False) as bar,  # on a terminal only
    ):
        return _quantize(network, pictures, choices or Choices(), bar)


def _quantize(network: Network, pictures: Sequence[Bytes], choices: Choices, bar: tqdm) -> QuantizedNetwork:
    real = [normalise(picture) for picture in pictures]
    quantized: list[Floats] = [picture.astype(np.float32) for picture in pictures]
    given = INPUT
    trunk = []
    reach = camera_reach(network.trunk[0])
    for conv in network.trunk:
        real = [*map(reproducible(conv), real)]
        output = _trunk_quantization(conv, real, reach, choices)
        reach = np.full(1, np.inf)
        layer, quantized = _quantize_layer(conv, given, quantized, output, real, choices)
        trunk.append(layer)
        given = output
        bar.update()
    wanted = {name: [*map(reproducible(network.heads[name]), real)] for name in HEADS}
    heads = {}
    for name in HEADS:
        output = _head_quantization(name, network, wanted[name], wanted["heatmap"], choices)
        heads[name], _ = _quantize_layer(network.heads[name], given, quantized, output, wanted[name], choices)
        bar.update()
    return QuantizedNetwork(tuple(trunk), heads)
