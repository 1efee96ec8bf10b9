"""The list of files in a kfpkg package: one reader for what kflash.py, kflash_gui and this project write.

A kfpkg is a zip; flash-list.json in its root names the parts. Hexadecimal numbers and commas before a closing bracket
are no JSON, but common in these files, and kflash.py takes them.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass

from common.errors import FormatError
from common.flash_map import FLASH_BYTES

LIST_NAME = "flash-list.json"
MAX_LIST_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A part; `size_bytes` unpacked. A program is wrapped for the ROM on its way to the flash."""

    name: str
    address_bytes: int
    size_bytes: int
    is_program: bool
    is_reversed: bool


def check_unfolded(archive: zipfile.ZipFile, name: str, limit_bytes: int) -> None:
    """FormatError where the files of an archive say that they unfold to more than any good one has."""
    total = sum(info.file_size for info in archive.infolist())
    if total > limit_bytes:
        raise FormatError(f"{name} unfolds to {total} bytes, at most {limit_bytes} make sense; it is damaged or a trap")


def entries(archive: zipfile.ZipFile, name: str) -> list[Entry]:
    """What the package lists, in its order; FormatError names what is wrong with the list."""
    check_unfolded(archive, name, 2 * FLASH_BYTES)
    try:
        if archive.getinfo(LIST_NAME).file_size > MAX_LIST_BYTES:
            raise FormatError(f"{name}: {LIST_NAME} is longer than {MAX_LIST_BYTES} bytes")
        text = archive.read(LIST_NAME).decode("utf-8-sig")
        text = re.sub(r":\s*(0[xX][0-9a-fA-F]+)", r': "\1"', text)
        listing = json.loads(re.sub(r",(\s*[}\]])", r"\1", text))
        return [
            Entry(
                str(entry["bin"]), int(str(entry["address"]), 0), archive.getinfo(entry["bin"]).file_size,
                bool(entry.get("sha256Prefix")), bool(entry.get("reverse4Bytes")),
            )
            for entry in listing["files"]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{name}: {LIST_NAME} cannot be read ({' '.join(str(error).split())})") from None
