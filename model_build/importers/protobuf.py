"""Reading protocol buffer messages: fields by number, FormatError on anything malformed.

Format: protobuf.dev, "Encoding". Supported is what GraphDef needs: varint, 32-bit, 64-bit and length-delimited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZE_BYTES = {_FIXED64: 8, _FIXED32: 4}


class Message:
    """One message. A field that is absent, or has another wire type, reads as empty or 0."""

    def __init__(self, data: memoryview, what: str):
        self.what = what
        self._fields: dict[int, list[tuple[int, memoryview]]] = defaultdict(list)
        for number, wire, payload in _fields(data, what):
            self._fields[number].append((wire, payload))

    def numbers(self) -> list[int]:
        """The numbers of the fields that are present, in their order."""
        return list(self._fields)

    def all_bytes(self, number: int) -> list[memoryview]:
        """All contents of a length-delimited field."""
        return [payload for wire, payload in self._fields.get(number, ()) if wire == _BYTES]

    def bytes(self, number: int) -> memoryview:
        """The contents of a length-delimited field: as everywhere in this format, the last one counts."""
        return (self.all_bytes(number) or [memoryview(b"")])[-1]

    def texts(self, number: int) -> list[str]:
        """A repeated string field; bytes that are not UTF-8 are replaced."""
        return [str(payload, "utf-8", "replace") for payload in self.all_bytes(number)]

    def text(self, number: int) -> str:
        """A string field."""
        return (self.texts(number) or [""])[-1]

    def messages(self, number: int, what: str) -> Iterator[Message]:
        """A repeated message field; `what` names one of them in errors."""
        for i, payload in enumerate(self.all_bytes(number)):
            yield Message(payload, f"{self.what}: {what} {i}")

    def message(self, number: int, what: str) -> Message:
        """A message field."""
        return Message(self.bytes(number), f"{self.what}: {what}")

    def integers(self, number: int) -> list[int]:
        """A repeated integer field, packed or not, as int64."""
        found = []
        for wire, payload in self._fields.get(number, ()):
            position = 0
            while position < len(payload) and wire in (_VARINT, _BYTES):
                value, position = _varint(payload, position, self.what)
                found.append(value - (1 << 64) if value >= 1 << 63 else value)
        return found

    def integer(self, number: int) -> int:
        """An integer field, as int64."""
        return (self.integers(number) or [0])[-1]

    def floats(self, number: int) -> Numbers:
        """A float field, repeated or not, packed or not: float32 (n,)."""
        parts = [np.zeros(0, "<f4")]
        for wire, payload in self._fields.get(number, ()):
            if len(payload) % 4 or wire not in (_BYTES, _FIXED32):
                raise FormatError(f"{self.what}: {len(payload)} bytes are not a list of floats")
            parts.append(np.frombuffer(payload, "<f4"))
        return np.concatenate(parts)

    def float(self, number: int) -> float:
        """A float field."""
        return float((self.floats(number).tolist() or [0])[-1])


def _fields(data: memoryview, what: str) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, bytes of the value) of a message's fields in order."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position, what)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, end = _varint(data, position, what)
        elif wire == _BYTES:
            size, position = _varint(data, position, what)
            end = position + size
        elif wire in _SIZE_BYTES:
            end = position + _SIZE_BYTES[wire]
        else:
            raise FormatError(f"{what}: wire type {wire} at byte {position}; this is not a protocol buffer")
        if end > len(data):
            raise FormatError(f"{what}: field {number} passes the end; the file is damaged or truncated")
        yield number, wire, data[position:end]
        position = end


def _varint(data: memoryview, position: int, what: str) -> tuple[int, int]:
    """(unsigned value, position after it)."""
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
