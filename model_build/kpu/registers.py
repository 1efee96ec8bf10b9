"""The twelve 64-bit registers that describe one KPU layer.

Names, positions and widths are those of `kpu_layer_argument_t` in the Kendryte standalone SDK (kpu.h).
Values are those of the hardware: every count and size field is stored minus one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

from common.errors import FormatError

REGISTER_COUNT = 12
REGISTERS_BYTES = 8 * REGISTER_COUNT

# Per register, from bit 0: (field, first bit, bits); a negative width marks a signed field.
_REGISTERS: tuple[tuple[tuple[str, int, int], ...], ...] = (
    # interrupt_enabe (sic)
    (("int_en", 0, 1), ("ram_flag", 1, 1), ("full_add", 2, 1), ("depth_wise_layer", 3, 1)),
    # image_addr
    (("image_src_addr", 0, 15), ("image_dst_addr", 32, 15)),
    # image_channel_num
    (("i_ch_num", 0, 10), ("o_ch_num", 32, 10), ("o_ch_num_coef", 48, 10)),
    # image_size
    (("i_row_wid", 0, 10), ("i_col_high", 10, 9), ("o_row_wid", 32, 10), ("o_col_high", 42, 9)),
    # kernel_pool_type_cfg
    (
        ("kernel_type", 0, 3),
        ("pad_type", 3, 1),
        ("pool_type", 4, 4),
        ("first_stride", 8, 1),
        ("bypass_conv", 9, 1),
        ("load_para", 10, 1),
        ("dma_burst_size", 16, 8),
        ("pad_value", 24, 8),
        ("bwsx_base_addr", 32, 32),
    ),
    # kernel_load_cfg
    (("load_coor", 0, 1), ("load_time", 1, 6), ("para_size", 15, 17), ("para_start_addr", 32, 32)),
    # kernel_offset
    (("coef_column_offset", 0, 4), ("coef_row_offset", 4, 12)),
    # kernel_calc_type_cfg
    (
        ("channel_switch_addr", 0, 15),
        ("row_switch_addr", 16, 4),
        ("coef_size", 20, 8),
        ("coef_group", 28, 3),
        ("load_act", 31, 1),
        ("active_addr", 32, 32),
    ),
    # write_back_cfg
    (("wb_channel_switch_addr", 0, 15), ("wb_row_switch_addr", 16, 4), ("wb_group", 20, 3)),
    # conv_value
    (("shr_w", 0, 4), ("shr_x", 4, 4), ("arg_w", 8, -24), ("arg_x", 32, -24)),
    # conv_value2
    (("arg_add", 0, -40),),
    # dma_parameter
    (("send_data_out", 0, 1), ("channel_byte_num", 16, 16), ("dma_total_byte", 32, 32)),
)


@dataclass(frozen=True)
class LayerRegisters:
    """One layer's registers by field name, raw (counts minus one); arg_w, arg_x, arg_add are signed."""

    int_en: int = 0
    ram_flag: int = 0
    full_add: int = 0
    depth_wise_layer: int = 0
    image_src_addr: int = 0
    image_dst_addr: int = 0
    i_ch_num: int = 0
    o_ch_num: int = 0
    o_ch_num_coef: int = 0
    i_row_wid: int = 0
    i_col_high: int = 0
    o_row_wid: int = 0
    o_col_high: int = 0
    kernel_type: int = 0
    pad_type: int = 0
    pool_type: int = 0
    first_stride: int = 0
    bypass_conv: int = 0
    load_para: int = 0
    dma_burst_size: int = 0
    pad_value: int = 0
    bwsx_base_addr: int = 0
    load_coor: int = 0
    load_time: int = 0
    para_size: int = 0
    para_start_addr: int = 0
    coef_column_offset: int = 0
    coef_row_offset: int = 0
    channel_switch_addr: int = 0
    row_switch_addr: int = 0
    coef_size: int = 0
    coef_group: int = 0
    load_act: int = 0
    active_addr: int = 0
    wb_channel_switch_addr: int = 0
    wb_row_switch_addr: int = 0
    wb_group: int = 0
    shr_w: int = 0
    shr_x: int = 0
    arg_w: int = 0
    arg_x: int = 0
    arg_add: int = 0
    send_data_out: int = 0
    channel_byte_num: int = 0
    dma_total_byte: int = 0


assert [field.name for field in fields(LayerRegisters)] == [name for reg in _REGISTERS for name, _, _ in reg]


def unpack(data: bytes) -> LayerRegisters:
    """Decode 96 little-endian bytes; reserved bits are ignored. Raises FormatError on a wrong length."""
    if len(data) != REGISTERS_BYTES:
        raise FormatError(f"KPU layer registers are {REGISTERS_BYTES} bytes, got {len(data)}")
    return unpack_words(struct.unpack("<12Q", data))


def unpack_words(words: tuple[int, ...] | list[int]) -> LayerRegisters:
    """Decode twelve 64-bit words in register order."""
    values: dict[str, int] = {}
    for word, layout in zip(words, _REGISTERS, strict=True):
        for name, first_bit, width in layout:
            bits = abs(width)
            value = (word >> first_bit) & ((1 << bits) - 1)
            if width < 0 and value >> (bits - 1):
                value -= 1 << bits
            values[name] = value
    return LayerRegisters(**values)


def pack(registers: LayerRegisters) -> bytes:
    """Encode to 96 little-endian bytes, reserved bits zero. Raises FormatError if a value does not fit."""
    words = []
    for layout in _REGISTERS:
        word = 0
        for name, first_bit, width in layout:
            value, bits = getattr(registers, name), abs(width)
            low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if width < 0 else (0, 1 << bits)
            if not low <= value < high:
                raise FormatError(f"KPU register field {name} = {value} does not fit its {bits} bits")
            word |= (value & ((1 << bits) - 1)) << first_bit
        words.append(word)
    return struct.pack("<12Q", *words)
