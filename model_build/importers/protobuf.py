"""Reading the protocol buffer wire format: fields by number, FormatError on anything that is not in order.

Format: protobuf.dev, "Encoding". Only what GraphDef needs: varint, 32-bit, 64-bit and length-delimited.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(data: memoryview, what: str) -> Iterator[tuple[int, int, int, memoryview]]:
    """(field number, wire type, integer value, payload) of a message's fields in order.

    Integers come unsigned in the third place; the fourth is the payload of length-delimited fields.
    """
    position, end = 0, len(data)
    empty = data[:0]
    while position < end:
        key, position = varint(data, position, what)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = varint(data, position, what)
            yield number, wire, value, empty
        elif wire == BYTES:
            size, position = varint(data, position, what)
            if size > end - position:
                raise FormatError(f"{what}: field {number} of {size} bytes passes the end; the file is damaged")
            yield number, wire, size, data[position : position + size]
            position += size
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
            if size > end - position:
                raise FormatError(f"{what}: field {number} passes the end; the file is damaged or truncated")
            value = int.from_bytes(data[position : position + size], "little")
            yield number, wire, value, data[position : position + size]
            position += size
        else:
            raise FormatError(f"{what}: wire type {wire} at byte {position}; this is no protocol buffer")


def varint(data: memoryview, position: int, what: str) -> tuple[int, int]:
    """(unsigned value, position behind it)."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise FormatError(f"{what}: a number at byte {position} has no end; the file is damaged or truncated")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7


def signed(value: int) -> int:
    """An int64 field's value."""
    return value - (1 << 64) if value >= 1 << 63 else value


def text(payload: memoryview) -> str:
    """A string field; bytes that are no UTF-8 are replaced."""
    return bytes(payload).decode("utf-8", "replace")


def integers(wire: int, value: int, payload: memoryview, what: str) -> list[int]:
    """Values of a repeated integer field, packed or not."""
    if wire != BYTES:
        return [signed(value)]
    found, position = [], 0
    while position < len(payload):
        number, position = varint(payload, position, what)
        found.append(signed(number))
    return found


def floats(wire: int, payload: memoryview, what: str) -> Numbers:
    """Values of a repeated float field, packed or not."""
    if len(payload) % 4 or wire not in (BYTES, FIXED32):
        raise FormatError(f"{what}: {len(payload)} bytes are no list of floats")
    return np.frombuffer(payload, "<f4")


def float32(value: int) -> float:
    """A float field's value from its bits."""
    return float(struct.unpack("<f", struct.pack("<I", value & 0xFFFF_FFFF))[0])
