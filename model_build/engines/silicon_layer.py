"""A KPU that computes as a silicon profile says: layers in KPU RAM, by the formula, in integers.

This is the second way to compute a layer, and a slow one. kpu_layer.py is tested against nncase's kernels and is fast
because it relies on their rules. Here every place where a chip may differ is one line that reads the profile.
With the assumed profile both give the same bytes (tests/model_build/test_silicon.py).

    acc = Σ x·w + (arg_x·Σx >> shr_x) + (arg_w·Σw >> shr_w) + arg_add · inputs
    v   = (acc·mul >> shift) + add
    y   = clamp(round((v − x_start)·y_mul / 2^shift_number) + bias)        of the last segment that begins before v
"""

from __future__ import annotations

import numpy as np

from common.arrays import Bytes, Integers
from common.errors import UserError
from model_build.engines.kpu_layer import PICKING, pool
from model_build.kpu import ram
from model_build.kpu.layer import Activation, KpuLayer
from model_build.kpu.silicon import SiliconProfile

_V_BITS = 36
_LARGEST_SHIFT = 62
"""Products stay below 2^62, so a larger shift has the same effect as this one."""
_EDGE_WIDTHS = (16, 32, 64)


def execute_as(layer: KpuLayer, kpu_ram: Bytes, silicon: SiliconProfile) -> Bytes:
    """Run one layer on KPU RAM (uint8, 2 MiB): reads its map, writes its output.

    Returns the output, uint8 (channels, height, width).
    """
    shape = layer.out_channels, layer.out_height, layer.out_width
    target = _view(kpu_ram, layer.target_line, *shape, silicon)
    groups = target.shape[1]
    out = np.zeros(shape, np.uint8)
    rule = silicon.depthwise_overlap if layer.depthwise else silicon.conv_overlap
    if rule == "whole" or not _overlaps(layer):
        out[:] = run_layer(layer, _read(layer, kpu_ram, silicon), silicon)
        for channel in range(shape[0]):
            target[channel // groups, channel % groups] = out[channel]
        return out
    for channel in range(shape[0]):
        rows = [slice(None)] if rule == "channel" else [slice(row, row + 1) for row in range(shape[1])]
        for part in rows:
            # The layer reads some of what it has just written.
            now = run_layer(layer, _read(layer, kpu_ram, silicon), silicon)
            out[channel, part] = now[channel, part]
            target[channel // groups, channel % groups, part] = now[channel, part]
    return out


def _view(kpu_ram: Bytes, line: int, channels: int, height: int, width: int, silicon: SiliconProfile) -> Bytes:
    """A writable view (blocks, groups, height, width) of a map at the place where this chip keeps it."""
    laid_out = width + 1 if silicon.line_edges == "next" and width in _EDGE_WIDTHS else width
    try:
        return ram.view(kpu_ram, line, channels, height, laid_out)[..., :width]
    except ValueError as error:
        raise UserError(f"this chip would need more KPU RAM than there is: {error}; take a smaller model") from None


def _read(layer: KpuLayer, kpu_ram: Bytes, silicon: SiliconProfile) -> Bytes:
    height, width = layer.in_height, layer.in_width
    grouped = _view(kpu_ram, layer.source_line, layer.in_channels, height, width, silicon)
    return np.ascontiguousarray(grouped).reshape(-1, height, width)[: layer.in_channels]


def _overlaps(layer: KpuLayer) -> bool:
    source, target = layer.source_line, layer.target_line
    return source < target + layer.out_lines and target < source + layer.in_lines


def run_layer(layer: KpuLayer, feature_map: Bytes, silicon: SiliconProfile) -> Bytes:
    """uint8 (in_channels, in_height, in_width) → uint8 (out_channels, out_height, out_width)."""
    regs = layer.registers
    if regs.bypass_conv or regs.full_add or regs.first_stride:
        raise UserError(f"{layer.name or 'KPU layer'}: bypass_conv, full_add and first_stride are not simulated")
    full = activate_as(_normed(layer, _sums(layer, feature_map, silicon), silicon), layer.activation, silicon)
    # These are the pixels that pooling keeps of an odd size.
    top = layer.in_height % layer.pool_stride if silicon.odd_pooling == "last" else 0
    left = layer.in_width % layer.pool_stride if silicon.odd_pooling == "last" else 0
    full = full[:, top:, left:]
    if layer.pool_type in PICKING:
        stride, column = PICKING[layer.pool_type]
        full = full[:, ::stride, column::stride]
        return np.ascontiguousarray(full[:, : layer.out_height, : layer.out_width])
    return pool(full, layer.pool_type)


def _sums(layer: KpuLayer, feature_map: Bytes, silicon: SiliconProfile) -> Integers:
    """acc, int64 (out_channels, height, width)."""
    regs = layer.registers
    channels, height, width = feature_map.shape
    if layer.kernel_size == 3:
        if silicon.padding == "edge":
            padded = np.pad(feature_map, ((0, 0), (1, 1), (1, 1)), mode="edge")
        else:
            value = regs.pad_value if silicon.padding == "value" else 0
            padded = np.pad(feature_map, ((0, 0), (1, 1), (1, 1)), constant_values=value)
        taps = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    else:
        taps = [feature_map]
    # Products of bytes, at most 9,216 of them: exact in float64, and much faster than in int64.
    stacked = np.stack(taps, axis=1).astype(np.float64)  # (channels, taps, height, width)
    weights = layer.weights.astype(np.int64).reshape(layer.out_channels, -1)
    if silicon.weight_loads == "first":
        weights = weights[np.arange(layer.out_channels) % (regs.o_ch_num_coef + 1)]
    if layer.depthwise:
        acc = (stacked * weights[:, :, None, None]).sum(axis=1)
        sum_x = stacked.sum(axis=1)
    else:
        acc = (weights.astype(np.float64) @ stacked.reshape(weights.shape[1], -1)).reshape(-1, height, width)
        sum_x = stacked.sum(axis=(0, 1))[None]
    inputs = 1 if layer.depthwise or silicon.arg_add == "once" else channels
    constant = ((regs.arg_w * weights.sum(axis=1)) >> regs.shr_w) + regs.arg_add * inputs
    of_inputs = _shifted(regs.arg_x * sum_x.astype(np.int64), regs.shr_x, silicon.sum_shift)
    total: Integers = acc.astype(np.int64) + of_inputs + constant[:, None, None]
    return total


def _shifted(value: Integers, shift: Integers | int, rule: str) -> Integers:
    """value / 2^shift in whole numbers."""
    floor = value >> shift
    if rule == "floor":
        return floor
    rest = value - (floor << shift)
    if rule == "to_zero":
        return floor + ((value < 0) & (rest > 0))
    # Rounding to nearest, for negative values only.
    return floor + ((value < 0) & (2 * rest >= (np.int64(1) << shift)) & (shift > 0))


def _normed(layer: KpuLayer, acc: Integers, silicon: SiliconProfile) -> Integers:
    """v of acc, both int64 (channels, height, width)."""
    mul, shift, add = (part[:, None, None] for part in (layer.batch_norm.mul, layer.batch_norm.shift,
                                                        layer.batch_norm.add))  # fmt: skip
    if silicon.norm_mul == "unsigned":
        mul = mul & 0xFFFFFF
    v: Integers = _shifted(acc * mul, shift, silicon.norm_shift) + add
    largest = (1 << (_V_BITS - 1)) - 1
    if silicon.norm_width == "saturate":
        return np.clip(v, -largest - 1, largest)
    if silicon.norm_width == "wrap":
        wrapped: Integers = ((v + largest + 1) & ((1 << _V_BITS) - 1)) - largest - 1
        return wrapped
    return v


def activate_as(v: Integers, table: Activation, silicon: SiliconProfile) -> Bytes:
    """The activation table on int64 `v`, any shape: uint8."""
    # As staircase.activate: the last segment that begins before v, whatever the order of the starts.
    lowest_from_here = np.minimum.accumulate(table.x_start[::-1])[::-1]
    side = "right" if silicon.segment_start == "inside" else "left"
    segment = np.maximum(np.searchsorted(lowest_from_here, v, side=side) - 1, 0)  # type: ignore[call-overload]
    number = table.shift & 63 if silicon.shift_number == "six_bits" else table.shift
    shift = np.minimum(number, _LARGEST_SHIFT)[segment]
    product = (v - table.x_start[segment]) * table.mul[segment]
    rounded = _rounded(product, shift, silicon)
    bias = table.bias[segment]
    if silicon.saturation == "wrap":
        wrapped: Bytes = ((rounded + bias) & 0xFF).astype(np.uint8)
        return wrapped
    if silicon.saturation == "before_bias":
        rounded = np.clip(rounded, 0, 255)
    held: Bytes = np.clip(rounded + bias, 0, 255).astype(np.uint8)
    return held


def _rounded(product: Integers, shift: Integers, silicon: SiliconProfile) -> Integers:
    """product / 2^shift in whole numbers."""
    whole = product >> shift
    fraction = product & ((np.int64(1) << shift) - 1)
    half = np.int64(1) << np.maximum(shift - 1, 0)
    above, tie = fraction > half, fraction == half
    carry = {
        "half_even": above | (tie & (whole & 1 == 1)),
        "half_up": above | tie,
        "half_down": above,
        "floor": above,  # of results below zero only, see below
    }[silicon.rounding] & (shift > 0)
    upwards = np.zeros_like(whole) if silicon.rounding == "floor" else carry.astype(np.int64)
    negative = {"below": -carry.astype(np.int64), "nearest": carry.astype(np.int64), "floor": np.zeros_like(whole)}
    made: Integers = whole + np.where(product < 0, negative[silicon.negative_rounding], upwards)
    return made
