"""FlexBuffers, the schema-less form in which custom operators store their options.

Format: "FlexBuffers" and "FlexBuffer Internals" in the FlatBuffers documentation. Values are read from the
end: root width, root type, root; offsets point backwards.
"""

from __future__ import annotations

import struct
from typing import Any

from common.errors import FormatError

_NULL, _INT, _UINT, _FLOAT, _KEY, _STRING, _INDIRECT_INT, _INDIRECT_UINT, _INDIRECT_FLOAT = range(9)
_MAP, _VECTOR, _TYPED_FIRST, _TYPED_LAST, _BLOB, _BOOL, _VECTOR_BOOL = 9, 10, 11, 24, 25, 26, 36

MAX_DEPTH = 16
MAX_VALUES = 10_000


def read(data: bytes, what: str = "custom options") -> Any:
    """The value in a FlexBuffer: None, numbers, text, bytes, lists and dictionaries; FormatError if damaged."""
    if len(data) < 3:
        raise FormatError(f"{what}: {len(data)} bytes are not a FlexBuffer")
    reader = _Reader(data, what)
    root_width = data[-1]
    if root_width not in (1, 2, 4, 8) or len(data) < 2 + root_width:
        raise FormatError(f"{what}: root width {root_width}; this is not a FlexBuffer")
    return reader.value(len(data) - 2 - root_width, root_width, data[-2], 0)


class _Reader:
    def __init__(self, data: bytes, what: str):
        self.data, self.what = data, what
        self.values_left = MAX_VALUES

    def number(self, position: int, width: int, kind: str) -> Any:
        if position < 0 or position + width > len(self.data):
            raise FormatError(f"{self.what}: an offset leads to byte {position} of {len(self.data)}; it is damaged")
        if kind == "f" and width < 4:
            return 0.0
        form = {"i": "bhiq", "u": "BHIQ", "f": "??fd"}[kind][(1, 2, 4, 8).index(width)]
        return struct.unpack_from("<" + form, self.data, position)[0]

    def follow(self, position: int, width: int) -> int:
        return position - int(self.number(position, width, "u"))

    def value(self, position: int, width: int, packed: int, depth: int) -> Any:
        self.values_left -= 1
        if depth > MAX_DEPTH or self.values_left < 0:
            raise FormatError(f"{self.what}: values are nested too deeply; it is damaged")
        kind, inner = packed >> 2, 1 << (packed & 3)
        if kind == _NULL:
            return None
        if kind in (_INT, _UINT, _FLOAT, _BOOL):
            number = self.number(position, width, {_INT: "i", _FLOAT: "f"}.get(kind, "u"))
            return bool(number) if kind == _BOOL else number
        if kind > _VECTOR_BOOL or 26 < kind < _VECTOR_BOOL:
            raise FormatError(f"{self.what}: a value of type {kind}; this is not a FlexBuffer")
        at = self.follow(position, width)
        if kind == _KEY:
            return self.key(at)
        if kind in (_INDIRECT_INT, _INDIRECT_UINT, _INDIRECT_FLOAT):
            return self.number(at, inner, {_INDIRECT_INT: "i", _INDIRECT_UINT: "u"}.get(kind, "f"))
        if kind in (_STRING, _BLOB):
            size = self.size(at, inner, 1)
            content = self.data[at : at + size]
            if kind == _BLOB:
                return content
            try:
                return content.decode()
            except UnicodeDecodeError:
                # Some writers keep binary data in strings (the Edge TPU compiler does).
                return content
        if kind == _MAP:
            return self.map(at, inner, depth)
        if kind == _VECTOR:
            return self.vector(at, inner, depth)
        return self.typed(at, inner, kind)

    def size(self, at: int, width: int, item: int) -> int:
        count = int(self.number(at - width, width, "u"))
        if at < 0 or count * item > len(self.data) - at:
            raise FormatError(f"{self.what}: {count} items at byte {at} of {len(self.data)}; it is damaged")
        return count

    def key(self, at: int) -> str:
        end = self.data.find(b"\0", at) if 0 <= at < len(self.data) else -1
        if end < 0:
            raise FormatError(f"{self.what}: a name without end at byte {at}; it is damaged")
        return self.data[at:end].decode("utf-8", "replace")

    def vector(self, at: int, width: int, depth: int) -> list[Any]:
        count = self.size(at, width, width + 1)
        types = at + count * width
        return [self.value(at + i * width, width, self.data[types + i], depth + 1) for i in range(count)]

    def typed(self, at: int, width: int, kind: int) -> list[Any]:
        if kind == _VECTOR_BOOL:
            kind, count = _UINT, self.size(at, width, width)
        elif kind <= 15:
            kind, count = kind - _TYPED_FIRST + _INT, self.size(at, width, width)
        else:
            # Fixed lengths 2, 3, 4 of INT, UINT, FLOAT.
            kind, count = (kind - 16) % 3 + _INT, (kind - 16) // 3 + 2
        if kind == _STRING:
            kind = _KEY
        return [self.value(at + i * width, width, kind << 2 | (width.bit_length() - 1), 0) for i in range(count)]

    def map(self, at: int, width: int, depth: int) -> dict[str, Any]:
        count = self.size(at, width, width + 1)
        keys_width = self.number(at - 2 * width, width, "u")
        if keys_width not in (1, 2, 4, 8):
            raise FormatError(f"{self.what}: names {keys_width} bytes wide; it is damaged")
        keys_at = self.follow(at - 3 * width, width)
        types = at + count * width
        return {
            self.key(self.follow(keys_at + i * keys_width, keys_width)): self.value(
                at + i * width, width, self.data[types + i], depth + 1
            )
            for i in range(count)
        }
