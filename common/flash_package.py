"""kfpkg packages: a zip of flash parts, as kflash.py and kflash_gui read and write them.

flash-list.json in the root names the parts; `address` must stand on a line of its own with a comma behind, or
kflash.py's own reader stumbles. Parts with sha256Prefix are firmware: they are wrapped in flag byte, length and
SHA-256 on their way to the flash (common/rom_image.py).
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from common import kfpkg, rom_image
from common.errors import FormatError
from common.files import atomic_path
from common.flash_map import FLASH_BYTES
from common.flash_parts import FlashPart, check_parts
from common.kfpkg import LIST_NAME, Entry


def write(path: Path, parts: Sequence[FlashPart], firmware: bytes | None = None) -> None:
    """A package of `parts` and, unwrapped at address 0, `firmware`."""
    check_parts(parts)
    entries = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        if firmware is not None:
            archive.writestr("maixpy.bin", firmware)
            entries.append((0, "maixpy.bin", "true"))
        for part in parts:
            name = Path(part.name).name
            archive.writestr(name, part.data)
            entries.append((part.address_bytes, name, "false"))
        lines = ",\n".join(
            f'    {{\n      "address": {address},\n      "bin": {json.dumps(name)},\n'
            f'      "sha256Prefix": {prefix}\n    }}'
            for address, name, prefix in entries
        )
        archive.writestr(LIST_NAME, f'{{\n  "version": "0.1.0",\n  "files": [\n{lines}\n  ]\n}}\n')


def read(path: Path) -> list[FlashPart]:
    """Parts of a package, firmware already wrapped; FormatError names what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [_part(archive, entry) for entry in kfpkg.entries(archive, str(path))]
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; give the path of a .kfpkg") from None
    except (
        zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError, NotImplementedError, RuntimeError, EOFError,
        RecursionError, AttributeError, UnicodeError, OverflowError, struct.error, IndexError, MemoryError,
    ) as error:  # fmt: skip
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} is no good kfpkg ({error}); make it again with `flash.py --kfpkg`") from None
    except Exception as error:  # zlib.error and what else zipfile lets through
        raise FormatError(f"{path} is damaged ({error}); make it again with `flash.py --kfpkg`") from None
    if not parts:
        raise FormatError(f"{path} lists no files in {LIST_NAME}; make it again with `flash.py --kfpkg`")
    return parts


def _part(archive: zipfile.ZipFile, entry: Entry) -> FlashPart:
    if not 0 <= entry.address_bytes < FLASH_BYTES or entry.size_bytes > FLASH_BYTES:
        raise FormatError(
            f"{archive.filename}: {entry.name} ({entry.size_bytes} bytes at 0x{entry.address_bytes:X}) does not fit "
            f"16 MiB of flash"
        )
    if entry.is_reversed:
        raise FormatError(
            f"{archive.filename}: {entry.name} wants reverse4Bytes, which kmodels do not; write it without"
        )
    data = archive.read(entry.name)
    return FlashPart(entry.name, entry.address_bytes, rom_image.wrap(data) if entry.is_program else data)
