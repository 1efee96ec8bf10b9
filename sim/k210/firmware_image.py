"""Firmware images: what the ROM finds in flash, and the rewriting that makes time virtual.

Format (ROM loader, as kflash writes it): a flag byte, u32 length, the payload, SHA-256 of all of it.
"""

from __future__ import annotations

import hashlib
import re

from common.errors import FormatError

HEADER_BYTES = 5
HASH_BYTES = 32
MAX_BYTES = 6 << 20
AES_FLAG = 1

# `csrr rd, mcycle` and `rdcycle rd` become `ld rd, CYCLE_OFFSET(x0)`: the counter inside Unicorn is the host's.
CYCLE_OFFSET = 0x7F8
_CSR_CYCLE = re.compile(rb"(?=[\x73\xf3][\x20-\x2f]\x00[\xb0\xc0])", re.S)


def rewrite_cycle_reads(image: bytes) -> bytes:
    """The image with every read of the cycle counter turned into a load from the emulator's."""
    out = bytearray(image)
    for match in _CSR_CYCLE.finditer(image):
        at = match.start()
        word = int.from_bytes(image[at : at + 4], "little")
        csr, source, function = word >> 20, (word >> 15) & 31, (word >> 12) & 7
        if at % 2 == 0 and csr in (0xB00, 0xC00) and source == 0 and function == 2:
            register = (word >> 7) & 31
            out[at : at + 4] = (CYCLE_OFFSET << 20 | 3 << 12 | register << 7 | 0x03).to_bytes(4, "little")
    return bytes(out)


def wrap(payload: bytes, flag: int = 2) -> bytes:
    """The payload as it lies in flash; flag 2 is what kflash writes by default (dual SPI)."""
    body = bytes([flag]) + len(payload).to_bytes(4, "little") + payload
    return body + hashlib.sha256(body).digest()


def unwrap(flash: bytes | bytearray | memoryview) -> bytes:
    """The payload of the image at the start of `flash`. Raises FormatError when the ROM would not boot it."""
    flag, length = flash[0], int.from_bytes(bytes(flash[1:HEADER_BYTES]), "little")
    if not 0 < length <= MAX_BYTES or flag & ~3:
        raise FormatError(f"no firmware at flash address 0: flag byte {flag:#04x}, length {length}; flash one first")
    if flag & AES_FLAG:
        raise FormatError("the firmware in flash is AES-encrypted: the key of a chip is not emulated, use a plain one")
    end = HEADER_BYTES + length
    stored = bytes(flash[end : end + HASH_BYTES])
    actual = hashlib.sha256(bytes(flash[:end])).digest()
    if stored != actual:
        raise FormatError(
            f"firmware in flash is damaged: SHA-256 is {actual.hex()[:16]}…, stored {stored.hex()[:16]}…; flash again"
        )
    return bytes(flash[HEADER_BYTES:end])


def check_raw(image: bytes, name: str) -> bytes:
    """A raw image (a .bin as downloaded), or the payload of one saved with its flash header."""
    if len(image) > 8 and 0 < image[0] <= 3 and int.from_bytes(image[1:5], "little") == len(image) - 37:
        return unwrap(image)
    # The SDK's start code: a jump over the word 0xdeadbeef or the like; any image starts with an instruction.
    if len(image) < 256 or len(image) > MAX_BYTES or not any(image[:4]) or image[:4] == b"\xff\xff\xff\xff":
        raise FormatError(f"{name} ({len(image)} bytes) is no K210 firmware image; give a MaixPy .bin")
    return image
