"""What lies where in a board's 16 MiB flash."""

from __future__ import annotations

FLASH_BYTES = 16 << 20
SECTOR_BYTES = 4096
"""A sector is the smallest piece that can be erased."""
BLOCK_BYTES = 65536
PAGE_BYTES = 256
"""A page is the largest piece that one command can program."""

KMODEL_ADDRESS = 0x300000
"""By MaixPy's custom models lie here: after the firmware (minimum builds end below 0x100000) and before the files."""
FILES_ADDRESS = 0xD00000
"""MaixPy's file system, /flash, reaches from here to the end."""
FILES_BYTES = FLASH_BYTES - FILES_ADDRESS
KMODEL_BYTES = FILES_ADDRESS - KMODEL_ADDRESS
"""This is the room between the model and the file system."""


def erased_flash() -> bytearray:
    """The contents of a new flash chip."""
    return bytearray(b"\xff") * FLASH_BYTES
