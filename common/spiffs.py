"""MaixPy's file system /flash as an image that is made from files and read back into files.

It is SPIFFS (github.com/pellepl/spiffs, spiffs_nucleus.h has the format), with the numbers that every build of MaixPy
and CanMV sets in its config_defaults.mk: blocks of 128 KiB, pages of 4 KiB, names of 128 bytes.

The first page of a block is its lookup table: for each other page the number of the file it belongs to, with the top
bit set for the page that holds the file's name, length and list of pages. The table ends with a magic number, by which
MaixPy knows that it need not format, and with a count of erasures. A page begins with the file's number, its own place
in the file and flags; on NOR flash, which only clears bits, a flag is set when its bit is 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from common.errors import FormatError, UserError
from common.flash_map import FILES_BYTES

PAGE_BYTES = 4096
BLOCK_BYTES = 0x20000
NAME_BYTES = 128
"""This is the space for a name with the slash before it and the zero after it."""
BLOCKS = FILES_BYTES // BLOCK_BYTES
PAGES_PER_BLOCK = BLOCK_BYTES // PAGE_BYTES
SPARE_BLOCKS = 2
"""SPIFFS stops writing when fewer blocks than this are free: it needs them to move pages out of other blocks."""

FREE, DELETED, INDEX = 0xFFFF, 0, 0x8000
"""Entries of a lookup table, and the bit of those that name an index page."""
INDEX_FLAGS, DATA_FLAGS = 0xF8, 0xFC
"""Flags of a page that is used, complete and not deleted, with the file's name or with its data."""
INDEX_FLAGS_MASK, DATA_FLAGS_MASK = 0xC7, 0x87
"""The bits of them that say so."""
PLAIN_FILE = 1
NO_LENGTH = 0xFFFFFFFF
"""The length of a file to which nothing was written."""
_PAGE = struct.Struct("<HHB")
_INDEX = struct.Struct(f"<HHB3xIB{NAME_BYTES}sx")  # The list of pages after it is aligned to 2 bytes.
DATA_BYTES = PAGE_BYTES - _PAGE.size


def taken_bytes(length_bytes: int) -> int:
    """What a file of this length takes of the file system: pages for its data and one for its name."""
    return (1 + -(-length_bytes // DATA_BYTES)) * PAGE_BYTES


def image(files: Mapping[str, bytes]) -> bytes:
    """The whole file system, FILES_BYTES long, with `files`: name without a slash → contents.

    UserError if a name does not fit or the files need more pages than there are.
    """
    area = bytearray(b"\xff" * FILES_BYTES)
    for block in range(BLOCKS):
        struct.pack_into("<HH", area, block * BLOCK_BYTES + PAGE_BYTES - 4, _magic(block), 0)
    pages = _file_pages(BLOCKS - SPARE_BLOCKS)

    def take(entry: int) -> int:
        page = next(pages, None)
        if page is None:
            total = sum(len(data) for data in files.values())
            raise UserError(f"{len(files)} files of {total} bytes do not fit MaixPy's file system; leave some out")
        struct.pack_into("<H", area, _entry_place(page), entry)
        return page

    for number, (name, data) in enumerate(files.items(), 1):
        encoded = rooted(name).encode()
        index = take(number | INDEX)
        pieces = [data[at : at + DATA_BYTES] for at in range(0, len(data), DATA_BYTES)]
        held = [take(number) for _ in pieces]
        _INDEX.pack_into(
            area, index * PAGE_BYTES, number | INDEX, 0, INDEX_FLAGS, len(data) or NO_LENGTH, PLAIN_FILE, encoded
        )
        struct.pack_into(f"<{len(held)}H", area, index * PAGE_BYTES + _INDEX.size, *held)
        for span, (page, piece) in enumerate(zip(held, pieces, strict=True)):
            at = page * PAGE_BYTES
            _PAGE.pack_into(area, at, number, span, DATA_FLAGS)
            area[at + _PAGE.size : at + _PAGE.size + len(piece)] = piece
    return bytes(area)


def files(area: bytes) -> dict[str, bytes]:
    """Name without a slash → contents of all complete files, whether we or MaixPy wrote them.

    FormatError if `area` is not such a file system, or a damaged one.
    """
    if len(area) != FILES_BYTES:
        raise FormatError(f"{len(area)} bytes cannot be a file system of MaixPy, which has {FILES_BYTES}")
    for block in range(BLOCKS):
        (magic,) = struct.unpack_from("<H", area, block * BLOCK_BYTES + PAGE_BYTES - 4)
        if magic != _magic(block):
            raise FormatError(
                f"this is not a file system of MaixPy: block {block} has the magic number {magic:#06x} instead "
                f"of {_magic(block):#06x}"
            )
    found: dict[str, bytes] = {}
    for page in _file_pages(BLOCKS):
        (entry,) = struct.unpack_from("<H", area, _entry_place(page))
        if entry in (FREE, DELETED) or not entry & INDEX:
            continue
        number, span, flags, length, kind, encoded = _INDEX.unpack_from(area, page * PAGE_BYTES)
        if number != entry or span or flags & INDEX_FLAGS_MASK != INDEX_FLAGS & INDEX_FLAGS_MASK or kind != PLAIN_FILE:
            continue  # This page was being written or removed when the power failed.
        name = _name(encoded)
        if name in found:
            raise FormatError(f"the file system holds {name} twice")
        found[name] = _contents(area, page, number & ~INDEX, 0 if length == NO_LENGTH else length, name)
    return found


def _contents(area: bytes, index: int, number: int, length: int, name: str) -> bytes:
    count = -(-length // DATA_BYTES)
    if count > (PAGE_BYTES - _INDEX.size) // 2:
        raise FormatError(f"{name}: {length} bytes are more than the file system has")
    data = bytearray()
    for span, page in enumerate(struct.unpack_from(f"<{count}H", area, index * PAGE_BYTES + _INDEX.size)):
        if page >= BLOCKS * PAGES_PER_BLOCK or page % PAGES_PER_BLOCK == 0:
            raise FormatError(f"{name}: the list of pages puts piece {span} in page {page}, which cannot hold data")
        owner, place, flags = _PAGE.unpack_from(area, page * PAGE_BYTES)
        if (owner, place) != (number, span) or flags & DATA_FLAGS_MASK != DATA_FLAGS & DATA_FLAGS_MASK:
            raise FormatError(f"{name}: page {page} does not hold its piece {span}")
        data += area[page * PAGE_BYTES + _PAGE.size : (page + 1) * PAGE_BYTES]
    return bytes(data[:length])


def _magic(block: int) -> int:
    """The magic number of a block; it depends on the number of blocks that follow, and so on the file system's
    length."""
    return (0x20140529 ^ PAGE_BYTES ^ (BLOCKS - block)) & 0xFFFF


def _file_pages(blocks: int) -> Iterator[int]:
    """The pages of the first `blocks` blocks that no lookup table takes."""
    return (page for page in range(blocks * PAGES_PER_BLOCK) if page % PAGES_PER_BLOCK)


def _entry_place(page: int) -> int:
    """Where the lookup table of its block has the entry of a page."""
    block, place = divmod(page, PAGES_PER_BLOCK)
    return block * BLOCK_BYTES + 2 * (place - 1)


def rooted(name: str) -> str:
    """The name as SPIFFS keeps it, from the root of its one folder; UserError if it is too long or has folders."""
    if not name or "/" in name or "\0" in name or len(name.encode()) + 2 > NAME_BYTES:
        raise UserError(
            f"{name!r} cannot be a name on /flash: it must have no slash and at most {NAME_BYTES - 2} bytes"
        )
    return f"/{name}"


def _name(encoded: bytes) -> str:
    text = encoded.split(b"\0")[0].decode("utf-8", "replace")
    name = text.removeprefix("/")
    if not name or name in (".", "..") or set(name) & set("/\\:\ufffd"):
        raise FormatError(f"the file system has a file with the impossible name {text!r}")
    return name
