"""One KPU layer: registers plus the parameters that they point to."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

import numpy as np

from common.arrays import Integers
from common.errors import FormatError
from model_build.kpu import ram, registers
from model_build.kpu.registers import LayerRegisters

ACTIVATION_SEGMENTS = 16
ACTIVATION_BYTES = 8 * ACTIVATION_SEGMENTS + ACTIVATION_SEGMENTS

POOL_NAMES = {
    0: "none",
    1: "max 2x2 s2",
    2: "mean 2x2 s2",
    3: "max 4x4 s4",
    4: "mean 4x4 s4",
    5: "left-top 2x2 s2",
    6: "right-top 2x2 s2",
    7: "left-top 4x4 s4",
    8: "mean 2x2 s1",
    9: "max 2x2 s1",
}
LEFT_TOP_2, RIGHT_TOP_2, LEFT_TOP_4 = 5, 6, 7
"""These pools keep one pixel of each block, so that they are strides."""
POOL_STRIDE = {0: 1, 1: 2, 2: 2, 3: 4, 4: 4, 5: 2, 6: 2, 7: 4, 8: 1, 9: 1}


def _signed(value: Integers, bits: int) -> Integers:
    value = value.astype(np.int64)
    return value - ((value >> (bits - 1)) << bits)


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Per output channel: v = ((acc · mul) >> shift) + add; mul s24, shift 4 bits, add s32, all int64 here."""

    mul: Integers
    shift: Integers
    add: Integers

    @staticmethod
    def unpack(data: bytes) -> BatchNorm:
        """One little-endian u64 per channel: norm_mul 24, norm_add 32, norm_shift 4 bits (SDK kpu.h)."""
        words = np.frombuffer(data, "<u8")
        return BatchNorm(
            _signed(words & 0xFFFFFF, 24),
            ((words >> np.uint64(56)) & 0xF).astype(np.int64),
            _signed((words >> np.uint64(24)) & 0xFFFFFFFF, 32),
        )

    def pack(self) -> bytes:
        """The inverse of unpack."""
        mul, shift, add = (array.astype(np.uint64) for array in (self.mul, self.shift, self.add))
        words = (
            (mul & np.uint64(0xFFFFFF))
            | (add & np.uint64(0xFFFFFFFF)) << np.uint64(24)
            | (shift & np.uint64(0xF)) << np.uint64(56)
        )
        return bytes(words.astype("<u8").tobytes())

    def __getitem__(self, channels: slice) -> BatchNorm:
        return BatchNorm(self.mul[channels], self.shift[channels], self.add[channels])


@dataclass(frozen=True, eq=False)
class Activation:
    """Sixteen segments: y = round((v − x_start) · mul / 2^shift) + bias, by the last segment with v > x_start.

    x_start s36, mul s16, shift 8 bits, bias u8; int64 arrays of 16.
    """

    x_start: Integers
    mul: Integers
    shift: Integers
    bias: Integers

    @staticmethod
    def unpack(data: bytes) -> Activation:
        """144 bytes: 16 × u64 {shift_number 8, y_mul 16, x_start 36 bits}, then 16 × u8 (SDK kpu.h)."""
        if len(data) != ACTIVATION_BYTES:
            raise FormatError(f"a KPU activation table is {ACTIVATION_BYTES} bytes, got {len(data)}")
        words = np.frombuffer(data, "<u8", ACTIVATION_SEGMENTS)
        return Activation(
            _signed((words >> np.uint64(24)) & np.uint64((1 << 36) - 1), 36),
            _signed((words >> np.uint64(8)) & 0xFFFF, 16),
            (words & 0xFF).astype(np.int64),
            np.frombuffer(data, np.uint8, ACTIVATION_SEGMENTS, 8 * ACTIVATION_SEGMENTS).astype(np.int64),
        )

    def pack(self) -> bytes:
        """The inverse of unpack."""
        words = [
            (int(shift) & 0xFF) | (int(mul) & 0xFFFF) << 8 | (int(start) & ((1 << 36) - 1)) << 24
            for start, mul, shift in zip(self.x_start, self.mul, self.shift, strict=True)
        ]
        return struct.pack("<16Q", *words) + self.bias.astype(np.uint8).tobytes()


@dataclass(frozen=True, eq=False)
class KpuLayer:
    """A convolution as the KPU runs it: stride 1, 1x1 or 3x3 (padded by one), then batch norm, table, pooling.

    weights: uint8 or uint16, (out, in, k, k), or (channels, 1, k, k) when depthwise.
    main_mem_address: byte offset in main memory where the output also goes, or None.
    """

    registers: LayerRegisters
    weights: Integers
    batch_norm: BatchNorm
    activation: Activation
    main_mem_address: int | None = None
    name: str = ""

    @property
    def depthwise(self) -> bool:
        return bool(self.registers.depth_wise_layer)

    @property
    def in_channels(self) -> int:
        return self.registers.i_ch_num + 1

    @property
    def out_channels(self) -> int:
        return self.registers.o_ch_num + 1

    @property
    def in_width(self) -> int:
        return self.registers.i_row_wid + 1

    @property
    def in_height(self) -> int:
        return self.registers.i_col_high + 1

    @property
    def out_width(self) -> int:
        return self.registers.o_row_wid + 1

    @property
    def out_height(self) -> int:
        return self.registers.o_col_high + 1

    @property
    def kernel_size(self) -> int:
        return 3 if self.registers.kernel_type else 1

    @property
    def pool_type(self) -> int:
        return self.registers.pool_type

    @property
    def pool_stride(self) -> int:
        return POOL_STRIDE[self.registers.pool_type]

    @property
    def source_line(self) -> int:
        return self.registers.image_src_addr

    @property
    def target_line(self) -> int:
        return self.registers.image_dst_addr

    @property
    def in_lines(self) -> int:
        return ram.lines(self.in_channels, self.in_height, self.in_width)

    @property
    def out_lines(self) -> int:
        return ram.lines(self.out_channels, self.out_height, self.out_width)

    @property
    def out_bytes(self) -> int:
        return self.out_channels * self.out_height * self.out_width

    def with_registers(self, **values: int) -> KpuLayer:
        """A copy with some register fields changed (raw values)."""
        return replace(self, registers=replace(self.registers, **values))


def weight_shape(regs: LayerRegisters) -> tuple[int, int, int, int]:
    """The shape of the weights of a layer with these registers, as in KpuLayer."""
    kernel = 3 if regs.kernel_type else 1
    return regs.o_ch_num + 1, 1 if regs.depth_wise_layer else regs.i_ch_num + 1, kernel, kernel


def weight_count(regs: LayerRegisters) -> int:
    """Number of weights that a layer with these registers has."""
    return math.prod(weight_shape(regs))


def build(
    register_bytes: bytes,
    weights: bytes,
    batch_norm: bytes,
    activation: bytes,
    main_mem_address: int | None = None,
    name: str = "",
    weight_bytes: int = 1,
) -> KpuLayer:
    """Decode a layer from its raw parts; `weights` and `batch_norm` may be longer than needed.

    Raises FormatError if the registers describe something that the KPU cannot run, or a part is too short.
    """
    regs = registers.unpack(register_bytes)
    label = name or "KPU layer"
    if regs.kernel_type > 1:
        raise FormatError(f"{label}: kernel type {regs.kernel_type} is neither 0 (1x1) nor 1 (3x3)")
    if regs.pool_type not in POOL_STRIDE:
        raise FormatError(f"{label}: pool type {regs.pool_type} is not one of 0 to 9")
    if regs.depth_wise_layer and regs.i_ch_num != regs.o_ch_num:
        raise FormatError(f"{label}: depthwise with {regs.i_ch_num + 1} input and {regs.o_ch_num + 1} output channels")
    stride = POOL_STRIDE[regs.pool_type]
    expected = ((regs.i_row_wid + 1) // stride, (regs.i_col_high + 1) // stride)
    if (regs.o_row_wid + 1, regs.o_col_high + 1) != expected:
        raise FormatError(
            f"{label}: output {regs.o_row_wid + 1}x{regs.o_col_high + 1} does not follow from input "
            f"{regs.i_row_wid + 1}x{regs.i_col_high + 1} with pooling {POOL_NAMES[regs.pool_type]}"
        )
    count = weight_count(regs)
    out_channels = regs.o_ch_num + 1
    if len(weights) < count * weight_bytes or len(batch_norm) < 8 * out_channels:
        raise FormatError(f"{label}: parameters are cut short")
    array: Integers = np.frombuffer(weights, np.uint8 if weight_bytes == 1 else np.dtype("<u2"), count)
    return KpuLayer(
        regs,
        array.reshape(weight_shape(regs)),
        BatchNorm.unpack(batch_norm[: 8 * out_channels]),
        Activation.unpack(activation[:ACTIVATION_BYTES]),
        main_mem_address,
        name,
    )
