"""Quantization tables computed here: weights, batch norm and activation of every KPU layer.

nncase gives every activation tensor one scale. The KPU's batch-norm stage multiplies each output channel by a
factor of its own, so each channel can have its own scale at no cost: a channel that only reaches 0.4 then uses
all 256 steps, not 17 of them. The next layer takes the scales back in its weights (cross-layer equalisation,
arXiv 1906.04721 §4.1), which are themselves quantized per output channel. ReLU6 needs no table of its own:
a channel's range never exceeds 6, and the clamp to 255 is the upper bound.

Layer by layer, with the quantized inputs that the layer will really see, the mean error of each channel over
the calibration pictures is taken out of the bias (bias correction, same paper §4.2).

Arithmetic of the KPU (registers as in the Kendryte SDK's kpu.h):
    acc = Σ x·w + (arg_x·Σx >> shr_x) + (arg_w·Σw >> shr_w) + arg_add·(input channels)
    v   = (acc·mul >> shift) + add,   byte = clamp(((v − x_start)·y_mul >> act_shift) + bias, 0, 255)
With weights centred on 128 and inputs on their zero point z, acc = Σ (x − z)(w − 128), exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from model_build.network import HEADS, Conv, Network

WEIGHT_ZERO_POINT = 128
INPUT_ZERO_POINT = 128
INPUT_SCALE = 1 / 128
RELU6_MAX = 6.0
BN_MUL_BITS = 23  # s24, without its sign
BN_SHIFT_MAX = 15
SEGMENTS = 16
X_START_MIN = -(1 << 35)


@dataclass(frozen=True)
class Choices:
    """What is chosen per build; each default is justified in docs/accuracy.md by a row with and without it."""

    per_channel_activations: bool = True
    per_channel_weights: bool = True
    bias_correction: bool = True
    limit_heads: bool = True
    range_percentile: float = 100.0
    range_margin: float = 1.1
    heatmap_logits: tuple[float, float] = (-4.0, 8.0)
    short_offset_px: float = 36.0
    displacement_margin: float = 1.2
    displacement_floor_px: float = 64.0
    head_cell_logit: float = -3.0  # offsets count where their keypoint's heatmap is above this


@dataclass(frozen=True)
class LayerTables:
    """Tables of one KPU layer.

    weights: uint8, (out, in, kh, kw) or depthwise (channels, kh, kw); bn_*: int64 (out,);
    activation: int64 (16, 4) rows of x_start, y_mul, shift, bias; scale: float64 (out,), zero_point: of the
    output bytes; arg_add: per input channel, as the register wants it.
    """

    weights: np.ndarray
    arg_x: int
    arg_w: int
    arg_add: int
    pad_value: int
    bn_mul: np.ndarray
    bn_shift: np.ndarray
    bn_add: np.ndarray
    activation: np.ndarray
    scale: np.ndarray
    zero_point: int


@dataclass(frozen=True)
class NetworkTables:
    """Tables of a whole network: trunk in order, then heads in HEADS order."""

    trunk: list[LayerTables]
    heads: dict[str, LayerTables]
    choices: Choices = field(default_factory=Choices)


def convolve(inputs: np.ndarray, conv: Conv, weights: np.ndarray, pad_value: float = 0.0) -> np.ndarray:
    """Convolution as the KPU runs it, before bias: inputs float32 (C, H, W) → float32 (O, H', W').

    `weights` in the layout of `conv.weights` (kh, kw, in, out), depthwise (3, 3, C, 1). 3×3 kernels pad by one
    on all sides, with `pad_value`; a stride keeps the left-top pixel of each stride × stride block.
    """
    kernel = weights.shape[0]
    stride = conv.stride
    channels, height, width = inputs.shape
    if kernel == 1:
        kept = inputs[:, ::stride, ::stride]
        flat = kept.reshape(channels, -1)
        return (weights[0, 0].T @ flat).reshape(-1, *kept.shape[1:])
    padded = np.pad(inputs, ((0, 0), (1, 1), (1, 1)), constant_values=pad_value)
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    taps = [
        padded[:, dy : dy + (out_height - 1) * stride + 1 : stride, dx : dx + (out_width - 1) * stride + 1 : stride]
        for dy in range(kernel)
        for dx in range(kernel)
    ]
    flat_weights = weights.reshape(kernel * kernel, *weights.shape[2:])
    if conv.kind == "depthwise":
        total = np.zeros((channels, out_height, out_width), np.float32)
        for tap, weight in zip(taps, flat_weights, strict=True):
            total += tap * weight.reshape(-1, 1, 1)
        return total
    columns = np.concatenate([tap.reshape(channels, -1) for tap in taps])
    return (flat_weights.reshape(-1, weights.shape[3]).T @ columns).reshape(-1, out_height, out_width)


def activate(values: np.ndarray, activation: str) -> np.ndarray:
    """ReLU6, ReLU or nothing."""
    if activation == "relu6":
        return np.clip(values, 0, RELU6_MAX)
    return np.maximum(values, 0) if activation == "relu" else values


def scale_weights(conv: Conv, input_scale: np.ndarray) -> np.ndarray:
    """Weights that take quantized inputs: each input channel's scale folded in (shape of conv.weights)."""
    return np.asarray(conv.weights, np.float64) * input_scale.reshape(1, 1, -1, 1)


def quantize_weights(scaled: np.ndarray, depthwise: bool, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scaled weights → integers −127…127 (same shape) and the step of each output channel, float64 (out,)."""
    axes = (0, 1, 3) if depthwise else (0, 1, 2)
    largest = np.abs(scaled).max(axis=axes)
    if not per_channel:
        largest = np.full_like(largest, largest.max())
    step = np.where(largest > 0, largest, 1.0) / 127
    shaped = step.reshape(1, 1, -1, 1) if depthwise else step.reshape(1, 1, 1, -1)
    return np.rint(scaled / shaped).astype(np.int64), step


def batch_norm(factor: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Registers of byte = acc·factor + offset: (mul, shift, add, fraction bits of v); factor > 0, (out,).

    As many fraction bits as keep v inside the registers and each mul as precise as its 24 bits allow.
    """
    largest_add = max(1.0, float(np.abs(offset).max()))
    for fraction_bits in range(20, 3, -1):
        fits_mul = factor.max() * 2.0**fraction_bits < 2**BN_MUL_BITS - 1
        if fits_mul and largest_add * 2.0**fraction_bits < 2**30:
            break
    multiplier = factor * 2.0**fraction_bits
    shift = np.clip(np.floor(np.log2((2**BN_MUL_BITS - 1) / multiplier)), 0, BN_SHIFT_MAX).astype(np.int64)
    mul = np.rint(multiplier * 2.0**shift).astype(np.int64)
    add = np.rint(offset * 2.0**fraction_bits).astype(np.int64)
    return mul, shift, add, fraction_bits


def clamp_activation(fraction_bits: int) -> np.ndarray:
    """Activation table that rounds v to a byte and clamps: int64 (16, 4), rows x_start, y_mul, shift, bias."""
    rows = [(X_START_MIN, 0, 0, 0), (0, 1, fraction_bits, 0)]
    top = 256 << fraction_bits
    rows += [(top + index, 0, 0, 255) for index in range(SEGMENTS - len(rows))]
    return np.array(rows, np.int64)


def _ranges(values: Sequence[np.ndarray], choices: Choices) -> np.ndarray:
    """Upper end of each channel's range over the calibration pictures: values (C, H, W) each → (C,)."""
    joined = np.concatenate([v.reshape(v.shape[0], -1) for v in values], axis=1)
    if choices.range_percentile >= 100:
        top = joined.max(axis=1)
    else:
        top = np.percentile(joined, choices.range_percentile, axis=1)
    top = top.astype(np.float64) * choices.range_margin
    # A channel that calibration hardly lights up keeps room for pictures that do.
    top = np.maximum(top, 0.02 * max(float(top.max()), 1e-6))
    return top if choices.per_channel_activations else np.full_like(top, top.max())


def _quantize_layer(
    conv: Conv,
    inputs: Sequence[np.ndarray],
    input_scale: np.ndarray,
    input_zero_point: int,
    wanted: Sequence[np.ndarray],
    output_scale: np.ndarray,
    output_zero_point: int,
    choices: Choices,
) -> tuple[LayerTables, list[np.ndarray]]:
    """Tables of one layer, and its output bytes (float32 arrays of integers) on the calibration pictures.

    inputs: bytes (C, H, W) of each picture; wanted: float outputs of the same pictures after activation.
    """
    depthwise = conv.kind == "depthwise"
    scaled = scale_weights(conv, input_scale)
    integers, step = quantize_weights(scaled, depthwise, choices.per_channel_weights)
    sums = [convolve(x - np.float32(input_zero_point), conv, integers.astype(np.float32)) for x in inputs]
    factor = step / output_scale
    bias = np.asarray(conv.bias, np.float64).copy()
    column = (-1, 1, 1)

    def output_bytes() -> list[np.ndarray]:
        offset = bias / output_scale + output_zero_point
        return [
            np.clip(np.rint(s * factor.reshape(column) + offset.reshape(column)), 0, 255).astype(np.float32)
            for s in sums
        ]

    if choices.bias_correction:
        target = np.concatenate([w.reshape(w.shape[0], -1) for w in wanted], axis=1)
        low, high = -output_zero_point * output_scale, (255 - output_zero_point) * output_scale
        for _ in range(2):
            got = np.concatenate([b.reshape(b.shape[0], -1) for b in output_bytes()], axis=1)
            real = (got - output_zero_point) * output_scale[:, None]
            reachable = np.clip(target, low[:, None], high[:, None])
            # The mean over what is not clamped; clamped pixels do not answer to the bias.
            live = (got > 0) & (got < 255)
            count = live.sum(axis=1)
            error = np.where(live, reachable - real, 0.0).sum(axis=1) / np.maximum(count, 1)
            bias += np.where(count >= 32, error, 0.0)
    outputs = output_bytes()
    mul, shift, add, fraction_bits = batch_norm(factor, bias / output_scale + output_zero_point)
    stored = (integers + WEIGHT_ZERO_POINT).astype(np.uint8)
    stored = stored[..., 0].transpose(2, 0, 1) if depthwise else stored.transpose(3, 2, 0, 1)
    kernel_area = conv.weights.shape[0] * conv.weights.shape[1]
    tables = LayerTables(
        weights=np.ascontiguousarray(stored),
        arg_x=-WEIGHT_ZERO_POINT,
        arg_w=-input_zero_point,
        arg_add=WEIGHT_ZERO_POINT * input_zero_point * kernel_area,
        pad_value=input_zero_point,
        bn_mul=mul,
        bn_shift=shift,
        bn_add=add,
        activation=clamp_activation(fraction_bits),
        scale=output_scale,
        zero_point=output_zero_point,
    )
    return tables, outputs


def _head_scale(
    name: str, values: Sequence[np.ndarray], heatmaps: Sequence[np.ndarray], network: Network, choices: Choices
) -> tuple[np.ndarray, int]:
    """Scale (out,) and zero point of a head's bytes.

    With `limit_heads`, only what decoding can use deserves range: heatmap logits inside `heatmap_logits`, short
    offsets inside the disk they were trained on, displacements at cells where their keypoint may be.
    """
    channels = values[0].shape[0]
    if not choices.limit_heads:
        low = min(float(v.min()) for v in values)
        high = max(float(v.max()) for v in values)
        scale = (high - low) / 255
        return np.full(channels, scale), int(np.clip(round(-low / scale), 0, 255))
    if name == "heatmap":
        low, high = choices.heatmap_logits
        scale = (high - low) / 255
        return np.full(channels, scale), int(round(-low / scale))
    if name == "short_offset":
        return np.full(channels, choices.short_offset_px / 127), 128
    parents, children = zip(*network.edges, strict=True)
    source = parents if name == "displacement_fwd" else children
    reach = np.full(channels, choices.displacement_floor_px)
    for value, heatmap in zip(values, heatmaps, strict=True):
        for channel in range(channels):
            used = heatmap[source[channel % len(source)]] > choices.head_cell_logit
            if used.any():
                largest = float(np.abs(value[channel][used]).max()) * choices.displacement_margin
                reach[channel] = max(reach[channel], largest)
    return reach / 127, 128


def make_tables(network: Network, pictures: Sequence[np.ndarray], choices: Choices | None = None) -> NetworkTables:
    """Quantization tables of every layer from calibration pictures: uint8 (3, H, W) each, already letterboxed."""
    choices = choices or Choices()
    real = [(p.astype(np.float32) - INPUT_ZERO_POINT) * np.float32(INPUT_SCALE) for p in pictures]
    quantized = [p.astype(np.float32) for p in pictures]
    scale, zero_point = np.full(3, INPUT_SCALE), INPUT_ZERO_POINT
    trunk = []
    for conv in network.trunk:
        bias = np.asarray(conv.bias, np.float32).reshape(-1, 1, 1)
        weights = np.asarray(conv.weights, np.float32)
        real = [activate(convolve(x, conv, weights) + bias, conv.activation) for x in real]
        top = _ranges(real, choices)
        if conv.activation == "relu6":
            top = np.minimum(top, RELU6_MAX)
        tables, quantized = _quantize_layer(conv, quantized, scale, zero_point, real, top / 255, 0, choices)
        trunk.append(tables)
        scale, zero_point = tables.scale, 0
    outputs = {
        name: [
            convolve(x, network.heads[name], np.asarray(network.heads[name].weights, np.float32))
            + np.asarray(network.heads[name].bias, np.float32).reshape(-1, 1, 1)
            for x in real
        ]
        for name in HEADS
    }
    heads = {}
    for name in HEADS:
        head_scale, head_zero = _head_scale(name, outputs[name], outputs["heatmap"], network, choices)
        heads[name], _ = _quantize_layer(
            network.heads[name], quantized, scale, zero_point, outputs[name], head_scale, head_zero, choices
        )
    return NetworkTables(trunk, heads, choices)
