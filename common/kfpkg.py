"""kfpkg packages: a zip of flash parts, as kflash.py, kflash_gui and this project read and write them.

flash-list.json in the root names the parts. Hexadecimal numbers and commas before a closing bracket are not JSON, but
they are common in these files, and kflash.py accepts them. On the other hand, `address` must stand on a line of its own
and end with a comma, or kflash.py cannot read the list. Parts with sha256Prefix are firmware: they are wrapped in flag
byte, length and SHA-256 on their way to the flash (common/rom_image.py).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import rom_image
from common.errors import FormatError
from common.files import atomic_path
from common.flash_map import FLASH_BYTES
from common.flash_parts import FlashPart, check_parts

LIST_NAME = "flash-list.json"
MAX_LIST_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A part of the package, `size_bytes` long when unpacked. A program is wrapped for the ROM when it is flashed."""

    name: str
    address_bytes: int
    size_bytes: int
    is_program: bool
    is_reversed: bool


def check_unpacked(archive: zipfile.ZipFile, name: str, limit_bytes: int) -> None:
    """FormatError if the files of an archive, by its own list, unpack to more than any valid one holds."""
    total = sum(info.file_size for info in archive.infolist())
    if total > limit_bytes:
        raise FormatError(
            f"{name} unpacks to {total} bytes, more than the {limit_bytes} that are possible; it is damaged or "
            f"malicious"
        )


def entries(archive: zipfile.ZipFile, name: str) -> list[Entry]:
    """The parts that the package lists, in its order; FormatError names what is wrong with the list."""
    check_unpacked(archive, name, 2 * FLASH_BYTES)
    try:
        if archive.getinfo(LIST_NAME).file_size > MAX_LIST_BYTES:
            raise FormatError(f"{name}: {LIST_NAME} is longer than {MAX_LIST_BYTES} bytes")
        text = archive.read(LIST_NAME).decode("utf-8-sig")
        text = re.sub(r":\s*(0[xX][0-9a-fA-F]+)", r': "\1"', text)
        listing = json.loads(re.sub(r",(\s*[}\]])", r"\1", text))
        found = [
            Entry(
                str(entry["bin"]), int(str(entry["address"]), 0), archive.getinfo(entry["bin"]).file_size,
                bool(entry.get("sha256Prefix")), bool(entry.get("reverse4Bytes")),
            )
            for entry in listing["files"]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{name}: {LIST_NAME} cannot be read ({' '.join(str(error).split())})") from None
    for entry in found:
        if not 0 <= entry.address_bytes < FLASH_BYTES or entry.size_bytes > FLASH_BYTES:
            raise FormatError(
                f"{name}: {entry.name} ({entry.size_bytes} bytes at {entry.address_bytes:#x}) does not fit "
                f"16 MiB of flash"
            )
    return found


def write(path: Path, parts: Sequence[FlashPart], firmware: bytes | None = None) -> None:
    """A package of `parts` and, unwrapped at address 0, `firmware`."""
    image = [FlashPart("maixpy.bin", 0, rom_image.wrap(firmware))] if firmware is not None else []
    check_parts([*image, *parts])
    listed = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        if firmware is not None:
            archive.writestr("maixpy.bin", firmware)
            listed.append((0, "maixpy.bin", "true"))
        for part in parts:
            name = Path(part.name).name
            archive.writestr(name, part.data)
            listed.append((part.address_bytes, name, "false"))
        lines = ",\n".join(
            f'    {{\n      "address": {address},\n      "bin": {json.dumps(name)},\n'
            f'      "sha256Prefix": {prefix}\n    }}'
            for address, name, prefix in listed
        )
        archive.writestr(LIST_NAME, f'{{\n  "version": "0.1.0",\n  "files": [\n{lines}\n  ]\n}}\n')


def read(path: Path) -> list[FlashPart]:
    """Parts of a package, firmware already wrapped; FormatError names what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [_part(archive, entry) for entry in entries(archive, str(path))]
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; give the path of a .kfpkg") from None
    except Exception as error:  # zipfile passes on whatever its decompressors and a damaged directory raise
        raise FormatError(f"{path} is not a readable kfpkg ({error}); make it again with `flash.py --kfpkg`") from None
    if not parts:
        raise FormatError(f"{path} lists no files in {LIST_NAME}; make it again with `flash.py --kfpkg`")
    return parts


def _part(archive: zipfile.ZipFile, entry: Entry) -> FlashPart:
    if entry.is_reversed:
        raise FormatError(
            f"{archive.filename}: {entry.name} asks for reverse4Bytes, which no kmodel needs; make the package "
            f"without it"
        )
    data = archive.read(entry.name)
    return FlashPart(entry.name, entry.address_bytes, rom_image.wrap(data) if entry.is_program else data)
