"""Bounds-checked reading of FlatBuffers tables.

Format: FlatBuffers internals (flatbuffers.dev, "FlatBuffer Internals"). The official accessors do not
check offsets, so damaged bytes lead to any exception; these raise only FormatError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError


class Table:
    """One table inside a buffer; fields are read by their index in the schema."""

    __slots__ = ("buffer", "position", "_vtable", "_vtable_bytes", "what")

    def __init__(self, buffer: bytes, position: int, what: str):
        self.buffer = buffer
        self.position = position
        self.what = what
        self._vtable = position - _read(buffer, "<i", position, what)
        self._vtable_bytes = _read(buffer, "<H", self._vtable, what)
        if self._vtable_bytes < 4:
            raise FormatError(f"{what}: vtable of {self._vtable_bytes} bytes at {self._vtable}; the file is damaged")

    def _field(self, index: int) -> int:
        """The position of a field in the buffer, 0 if it is absent."""
        entry = 4 + 2 * index
        if entry + 2 > self._vtable_bytes:
            return 0
        offset = _read(self.buffer, "<H", self._vtable + entry, self.what)
        return self.position + offset if offset else 0

    def scalar(self, index: int, form: str, default: int = 0) -> int:
        """An integer field; `form` is its struct letter."""
        position = self._field(index)
        return _read(self.buffer, "<" + form, position, self.what) if position else default

    def table(self, index: int, what: str) -> Table | None:
        """A table field."""
        position = self._field(index)
        return Table(self.buffer, self._follow(position), what) if position else None

    def text(self, index: int) -> str:
        """A string field, empty if absent; bytes that are not UTF-8 are replaced."""
        count, start = self._vector(index, 1)
        return self.buffer[start : start + count].decode("utf-8", "replace")

    def bytes(self, index: int) -> bytes:
        """A vector of bytes."""
        count, start = self._vector(index, 1)
        return self.buffer[start : start + count]

    def array(self, index: int, dtype: str) -> Numbers:
        """A vector of scalars as a NumPy array."""
        kind = np.dtype(dtype)
        count, start = self._vector(index, kind.itemsize)
        return np.frombuffer(self.buffer, kind, count, start) if count else np.zeros(0, kind)

    def tables(self, index: int, what: str) -> Iterator[Table]:
        """A vector of tables."""
        count, start = self._vector(index, 4)
        for i in range(count):
            yield Table(self.buffer, self._follow(start + 4 * i), f"{what} {i}")

    def _follow(self, position: int) -> int:
        return position + _read(self.buffer, "<I", position, self.what)

    def _vector(self, index: int, item_bytes: int) -> tuple[int, int]:
        position = self._field(index)
        if not position:
            return 0, 0
        start = self._follow(position)
        count = _read(self.buffer, "<I", start, self.what)
        if start + 4 + count * item_bytes > len(self.buffer):
            raise FormatError(
                f"{self.what}: a list of {count} items of {item_bytes} bytes at {start} passes the end of the file "
                f"({len(self.buffer)} bytes); the file is damaged or truncated"
            )
        return count, start + 4


def root(buffer: bytes, identifier: bytes, what: str) -> Table:
    """The root table; FormatError unless the buffer carries the file identifier."""
    if len(buffer) < 8 or buffer[4:8] != identifier:
        raise FormatError(
            f"{what}: bytes 4…7 are {buffer[4:8]!r} instead of {identifier!r}; the file is of another kind"
        )
    return Table(buffer, _read(buffer, "<I", 0, what), what)


def _read(buffer: bytes, form: str, position: int, what: str) -> int:
    if position < 0 or position + struct.calcsize(form) > len(buffer):
        raise FormatError(
            f"{what}: an offset leads to byte {position} of {len(buffer)}; the file is damaged or truncated"
        )
    return int(struct.unpack_from(form, buffer, position)[0])
