"""The image that the K210's ROM boots from flash address 0, as kflash.py writes it.

u8 flag, u32 length (little-endian), payload, SHA-256 of all that stands before it
"""

from __future__ import annotations

import hashlib

from common.errors import FormatError
from common.isp_protocol import SRAM_BYTES

HEADER_BYTES = 5
HASH_BYTES = 32
MAX_PAYLOAD_BYTES = SRAM_BYTES
"""A program cannot be longer, because it runs in SRAM."""
AES_FLAG = 1
DUAL_IO_FLAG = 2
"""This flag makes the ROM read the flash over two data lines, as kflash.py's default does (`-i dio`)."""
ALL_FLAGS = AES_FLAG | DUAL_IO_FLAG


def wrap(payload: bytes) -> bytes:
    """The payload as it lies in flash."""
    body = bytes([DUAL_IO_FLAG]) + len(payload).to_bytes(4, "little") + payload
    return body + hashlib.sha256(body).digest()


def stored_bytes(header: bytes) -> int:
    """How many bytes of flash an image takes, from its first five bytes; 0 if they do not begin an image."""
    length = int.from_bytes(header[1:HEADER_BYTES], "little")
    if header[0] & ~ALL_FLAGS or not 0 < length <= MAX_PAYLOAD_BYTES:
        return 0
    return HEADER_BYTES + length + HASH_BYTES


def unwrap(flash: bytes | bytearray | memoryview) -> bytes:
    """The payload of the image at the start of `flash`. FormatError if the ROM would not boot it."""
    header = bytes(flash[:HEADER_BYTES])
    end = stored_bytes(header) - HASH_BYTES
    if end < 0:
        length = int.from_bytes(header[1:], "little")
        raise FormatError(
            f"no firmware at flash address 0: flag byte {header[0]:#04x}, length {length}; flash one first"
        )
    if header[0] & AES_FLAG:
        raise FormatError("the firmware in flash is AES-encrypted, and the emulator has no key; use an unencrypted one")
    stored = bytes(flash[end : end + HASH_BYTES])
    actual = hashlib.sha256(bytes(flash[:end])).digest()
    if stored != actual:
        raise FormatError(
            f"firmware in flash is damaged: SHA-256 is {actual.hex()[:16]}…, stored {stored.hex()[:16]}…; flash again"
        )
    return bytes(flash[HEADER_BYTES:end])
