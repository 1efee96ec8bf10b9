"""Lowering: sets every register of the KPU layers for a quantized network.

One KPU layer computes, in this order (field names are those of `kpu_layer_argument_t` in the Kendryte SDK's kpu.h):

    sum      acc = Σ x·w + (arg_x·Σx >> shr_x) + (arg_w·Σw >> shr_w) + arg_add · input channels
    norm     v = (acc · norm_mul >> norm_shift) + norm_add                        per output channel
    table    byte = clamp(((v − x_start) · y_mul >> shift_number) + bias, 0, 255)  of 16 segments
    pooling  pool_type, here always "keep the left-top pixel of each 2×2 or 4×4"

The quantized formula (model_build/channel_quantization.py) is expressed in it exactly:

- Weights are stored as byte = integer + 128 and inputs have the zero point z. With arg_x = −128, arg_w = −z and
  arg_add = 128·z·(kernel pixels), acc = Σ (x − z)(w − 128). Outside of the picture pad_value = z is read, which stands
  for a real 0.
- Each output channel's factor and offset become its norm_mul, norm_shift and norm_add, with `fraction_bits` more
  bits than the byte; the table's middle segment rounds them away, and its outer segments clamp. ReLU and ReLU6 are that
  clamp: their zero is byte 0 and their scale puts 6 at or above byte 255.
- The KPU convolves every pixel. A stride becomes pooling, which drops the pixels that are not needed. Since a 3×3
  kernel pads by one on all sides, pixels 0, 2, 4, … are the network's (model_build/padding.py). Depthwise layers cannot
  pool: a 1×1 layer after one pools instead, with the same result; before any other layer the depthwise layer becomes a
  full convolution whose weights off the diagonal are zero.

`lower` sets what does not depend on the picture's size; `place` sets the rest once layout_search.py has found a place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.arrays import Floats
from common.errors import UserError
from model_build.channel_quantization import QuantizedLayer, QuantizedNetwork
from model_build.kpu import ram
from model_build.kpu.constraints import PARAMETER_MEMORY_BYTES
from model_build.kpu.layer import (
    ACTIVATION_SEGMENTS,
    LEFT_TOP_2,
    LEFT_TOP_4,
    POOL_STRIDE,
    Activation,
    BatchNorm,
    KpuLayer,
)
from model_build.kpu.program import INPUT, KpuProgram, ProgramOutput
from model_build.kpu.registers import LayerRegisters
from model_build.network import HEADS, Conv, Network

WEIGHT_ZERO_POINT = 128
LEFT_TOP = {1: 0, 2: LEFT_TOP_2, 4: LEFT_TOP_4}
"""For each stride, this pool_type keeps the top-left pixel of each stride × stride block."""

NORM_MUL_LARGEST = 2**23 - 1  # s24
NORM_SHIFT_LARGEST = 15
X_START_LEAST = -(1 << 35)
DMA_BURST_SIZE = 15
"""The DMA burst size in words minus one, as every K210 compiler sets it."""


def check_dilation(network: Network) -> None:
    """UserError if a layer is dilated: the KPU's kernels read adjacent pixels only."""
    for layer in network.layers():
        if layer.dilation != 1:
            raise UserError(
                f"layer {layer.name} of {network.name} is dilated by {layer.dilation}, which the KPU cannot do; import "
                f"the network at a larger output stride (this one has {network.output_stride})"
            )


def lower(network: QuantizedNetwork) -> KpuProgram:
    """One KPU layer for each layer of the network: trunk in order, then the heads in HEADS order as outputs."""
    layers: list[KpuLayer] = []
    left_to_do = 1  # This is the stride of the preceding depthwise layer, which could not pool.
    for quantized, following in zip(network.trunk, [*network.trunk[1:], None], strict=True):
        conv = quantized.conv
        stride = conv.stride * left_to_do
        left_to_do = 1
        if conv.kind == "depthwise" and stride > 1:
            if following is not None and following.conv.kernel == 1:
                left_to_do, stride = stride, 1
                layers.append(lower_layer(quantized))
            else:
                layer = diagonal(lower_layer(quantized))
                layers.append(layer.with_registers(pool_type=LEFT_TOP[stride]))
        else:
            layers.append(lower_layer(quantized, stride))
    trunk_end = len(layers) - 1
    heads = [network.heads[name] for name in HEADS]
    layers += [lower_layer(head) for head in heads]
    outputs = [
        ProgramOutput(trunk_end + 1 + index, head.output.constant, head.output.zero_point, name)
        for index, (name, head) in enumerate(zip(HEADS, heads, strict=True))
    ]
    sources = [INPUT, *range(trunk_end), *[trunk_end] * len(heads)]
    return KpuProgram(tuple(layers), tuple(sources), tuple(outputs))


def lower_layer(quantized: QuantizedLayer, stride: int = 1) -> KpuLayer:
    """One layer; `stride` is the stride of its pooling, which may differ from the layer's own."""
    conv = quantized.conv
    # (kh, kw, in, out) → (out, in, kh, kw); depthwise (kh, kw, channels, 1) → (channels, 1, kh, kw).
    stored = (quantized.weights + WEIGHT_ZERO_POINT).astype(np.uint8)
    stored = stored.transpose((2, 3, 0, 1) if conv.kind == "depthwise" else (3, 2, 0, 1))
    norm, table = norm_and_table(quantized.factor, quantized.offset)
    registers = convolution_registers(conv, quantized.input_zero_point, stride)
    return KpuLayer(registers, np.ascontiguousarray(stored), norm, table, name=conv.name)


def convolution_registers(conv: Conv, input_zero_point: int, stride: int) -> LayerRegisters:
    """Registers of a convolution that do not depend on the picture's size. The following are always 0 here:

    int_en, ram_flag, full_add (the runtime's, or unused), pad_type, first_stride, bypass_conv (nothing but
    convolutions, padded with a constant), bwsx_base_addr, para_start_addr, active_addr, send_data_out (the runtime's),
    coef_column_offset, coef_row_offset, coef_size (weights are packed), shr_x, shr_w (see the sum above).
    """
    return LayerRegisters(
        depth_wise_layer=int(conv.kind == "depthwise"),
        i_ch_num=conv.in_channels - 1,
        o_ch_num=conv.out_channels - 1,
        kernel_type=int(conv.kernel == 3),
        pool_type=LEFT_TOP[stride],
        load_para=1,  # The batch norm is loaded with the layer,
        load_coor=1,  # and so are the weights,
        load_act=1,  # and the activation table
        dma_burst_size=DMA_BURST_SIZE,
        pad_value=input_zero_point,
        arg_x=-WEIGHT_ZERO_POINT,
        arg_w=-input_zero_point,
        arg_add=WEIGHT_ZERO_POINT * input_zero_point * conv.kernel**2,
    )


def norm_and_table(factor: Floats, offset: Floats) -> tuple[BatchNorm, Activation]:
    """Batch norm and activation for byte = clamp(round(acc·factor + offset)); factor > 0, offset float64 (out,).

    There are as many fraction bits as fit into v's registers, and every mul is as precise as 24 bits allow. With so
    many bits there is hardly ever a tie in the activation's shift, where implementations differ.
    """
    largest_offset = max(1.0, float(np.abs(offset).max()))
    fraction_bits = 20
    while fraction_bits > 4 and (
        factor.max() * 2.0**fraction_bits >= NORM_MUL_LARGEST or largest_offset * 2.0**fraction_bits >= 2**30
    ):
        fraction_bits -= 1
    multiplier = factor * 2.0**fraction_bits
    shift = np.clip(np.floor(np.log2(NORM_MUL_LARGEST / multiplier)), 0, NORM_SHIFT_LARGEST).astype(np.int64)
    mul = np.rint(multiplier * 2.0**shift).astype(np.int64)
    add = np.rint(offset * 2.0**fraction_bits).astype(np.int64)
    # (x_start, y_mul, shift_number, bias): below, between, and above; unused segments begin beyond.
    rows = [(X_START_LEAST, 0, 0, 0), (0, 1, fraction_bits, 0)]
    rows += [((256 << fraction_bits) + index, 0, 0, 255) for index in range(ACTIVATION_SEGMENTS - len(rows))]
    return BatchNorm(mul, shift, add), Activation(*np.array(rows, np.int64).T)


def diagonal_arg_add(layer: KpuLayer, channels: int | None = None) -> int | None:
    """arg_add of the full convolution that equals this depthwise layer (or `channels` of it), or None if there is none.

    Off the diagonal the weight is −arg_x (the weights' zero), which adds nothing to Σ x·(w + arg_x). What remains
    is (arg_w·Σw) >> shr_w over C times the weights and arg_add taken C times instead of once.
    """
    regs = layer.registers
    if not layer.depthwise or layer.kernel_size != 3 or regs.shr_x or layer.weights.dtype != np.uint8:
        return None
    if not 0 <= -regs.arg_x <= 255 or (regs.shr_w and regs.arg_w):
        return None
    channels = channels or layer.out_channels
    extra = regs.arg_w * 9 * (channels - 1) * -regs.arg_x
    arg_add, rest = divmod(regs.arg_add - extra, channels)
    return arg_add if rest == 0 and -(1 << 39) <= arg_add < 1 << 39 else None


def diagonal(layer: KpuLayer, first: int = 0, last: int | None = None) -> KpuLayer:
    """A depthwise layer's channels first … last − 1 as a full convolution, which can pool: the same bytes.

    UserError if there is no such convolution.
    """
    part = slice(first, last)
    kernels = layer.weights[part, 0]
    count = len(kernels)
    arg_add = diagonal_arg_add(layer, count)
    if arg_add is None:
        raise UserError(f"{layer.name}: a band of {count} channels has no exact diagonal form")
    weights = np.full((count, count, 3, 3), -layer.registers.arg_x, np.uint8)
    weights[np.arange(count), np.arange(count)] = kernels
    full = layer.with_registers(depth_wise_layer=0, arg_add=arg_add)
    return replace(full, weights=weights, batch_norm=layer.batch_norm[part])


def place(
    layer: KpuLayer, source_line: int, target_line: int, in_height: int, in_width: int, pool_type: int
) -> KpuLayer:
    """The layer with all registers that depend on size, channels, pooling and place. Counts are stored minus one."""
    stride = POOL_STRIDE[pool_type]
    out_height, out_width = in_height // stride, in_width // stride
    out_channels, in_channels = layer.weights.shape[:2]
    if layer.depthwise:
        in_channels, per_load = out_channels, out_channels
        load_bytes = layer.weights.size
    else:
        channel_bytes = in_channels * layer.kernel_size**2
        per_load = min(out_channels, PARAMETER_MEMORY_BYTES // channel_bytes)
        load_bytes = per_load * channel_bytes
    # A map's lines: `group` channels share one; row lines make a row of pixels, and `switch` lines a channel.
    source, target = ram.row_layout(in_width), ram.row_layout(out_width)
    pixels = out_height * out_width
    return layer.with_registers(
        image_src_addr=source_line,
        image_dst_addr=target_line,
        i_ch_num=in_channels - 1,
        o_ch_num=out_channels - 1,
        o_ch_num_coef=per_load - 1,
        i_row_wid=in_width - 1,
        i_col_high=in_height - 1,
        o_row_wid=out_width - 1,
        o_col_high=out_height - 1,
        pool_type=pool_type,
        load_time=-(-out_channels // per_load) - 1,
        para_size=load_bytes * layer.weights.itemsize,
        channel_switch_addr=source.row_lines * in_height,
        row_switch_addr=source.row_lines,
        coef_group=source.groups,
        wb_channel_switch_addr=target.row_lines * out_height,
        wb_row_switch_addr=target.row_lines,
        wb_group=target.groups,
        # This is read only if the output goes to main memory, where constraints.py checks that it fits.
        channel_byte_num=(pixels - 1) & 0xFFFF,
        dma_total_byte=pixels * out_channels - 1,
    )
