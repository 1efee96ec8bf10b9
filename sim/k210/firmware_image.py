"""Firmware images: what is one, and the rewriting that makes time virtual."""

from __future__ import annotations

import re

from common import rom_image
from common.errors import FormatError

# `csrr rd, mcycle` and `rdcycle rd` become `ld rd, CYCLE_OFFSET(x0)`, because the counter inside Unicorn is the host's.
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


def check_raw(image: bytes, name: str) -> bytes:
    """A raw image (a .bin as downloaded), or the payload of one saved with its flash header."""
    if image[:1] > b"\0" and rom_image.stored_bytes(image[: rom_image.HEADER_BYTES]) == len(image):
        return rom_image.unwrap(image)
    if image[:4] in (b"PK\x03\x04", b"\x7fELF"):
        kind = "a zip" if image[:2] == b"PK" else "an ELF file"
        raise FormatError(f"{name} is {kind}, not a firmware image; give a MaixPy .bin or a .kfpkg")
    # The SDK's start code: a jump over the word 0xdeadbeef or the like; any image starts with an instruction.
    starts = any(image[:4]) and image[:4] != b"\xff\xff\xff\xff"
    if not (starts and 256 <= len(image) <= rom_image.MAX_PAYLOAD_BYTES):
        raise FormatError(f"{name} ({len(image)} bytes) is not a K210 firmware image; give a MaixPy .bin")
    return image
