"""The K210's serial loader on the wire: operation codes, replies and framing of the mask ROM and of kflash's stub.

No public specification exists; this is what kflash.py 1.1.6 speaks:

    frame    C0 … C0, inside it C0 → DB DC and DB → DB DD (SLIP, RFC 1055)
    request  u16 op, u16 0, u32 crc32 of all that follows, u32 address, u32 length, data    (little-endian)
    reply    u8 op, u8 reason [text]

The greetings C2, D2, D5 and D9 come as 13 bytes with a zero checksum; they are answered as they are.
"""

from __future__ import annotations

import binascii
import functools
import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum

from common.errors import UserError
from common.flash_map import BLOCK_BYTES

SRAM_ADDRESS = 0x80000000
SRAM_BYTES = 6 << 20
SRAM_FRAME_BYTES = 1024
FLASH_FRAME_BYTES = BLOCK_BYTES
MAX_FRAME_BYTES = 2 * BLOCK_BYTES
"""The content of a frame is kept up to this length; a longer frame has lost its END and is discarded."""

END, ESCAPE = b"\xc0", b"\xdb"
ESCAPED_END, ESCAPED_ESCAPE = b"\xdb\xdc", b"\xdb\xdd"


class Op(IntEnum):
    """Operation codes: those that begin with C belong to the ROM, those that begin with D to the stub."""

    ECHO = 0xC1
    NOP = 0xC2
    MEMORY_WRITE = 0xC3
    MEMORY_READ = 0xC4
    MEMORY_BOOT = 0xC5
    ROM_BAUD = 0xC6
    DEBUG_TEXT = 0xD1
    STUB_NOP = 0xD2
    FLASH_ERASE = 0xD3
    FLASH_WRITE = 0xD4
    REBOOT = 0xD5
    STUB_BAUD = 0xD6
    FLASH_INIT = 0xD7
    FLASH_ERASE_NONBLOCKING = 0xD8
    FLASH_STATUS = 0xD9


class Reason(IntEnum):
    """The reason is the second byte of a reply."""

    DEFAULT = 0x00
    OK = 0xE0
    BAD_LENGTH = 0xE1
    BAD_CHECKSUM = 0xE2
    INVALID_COMMAND = 0xE3
    BAD_INIT = 0xE4
    BAD_ERASE = 0xE5
    BAD_WRITE = 0xE6
    BUSY = 0xE7


def slip_encode(content: bytes) -> bytes:
    """One SLIP frame (RFC 1055), with an END at the beginning as well."""
    return END + content.replace(ESCAPE, ESCAPED_ESCAPE).replace(END, ESCAPED_END) + END


def slip_unescape(escaped: bytes) -> bytes | None:
    """Content of one frame between its ENDs; None if an escape sequence is broken."""
    parts = escaped.split(ESCAPE)
    out = bytearray(parts[0])
    for part in parts[1:]:
        plain = {ESCAPED_END: END, ESCAPED_ESCAPE: ESCAPE}.get(ESCAPE + part[:1])
        if plain is None:
            return None
        out += plain + part[1:]
    return bytes(out)


class SlipFrames:
    """Makes the contents of frames out of bytes as they arrive; bytes that are not a frame are discarded."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._in_frame = False

    def of(self, data: bytes) -> Iterator[bytes]:
        """The contents of the frames that end in `data`."""
        for index, piece in enumerate(data.split(END)):
            if index:
                # An END both closes the open frame and opens the next, so that a lost END costs only one frame.
                content = slip_unescape(bytes(self._kept))
                self._kept.clear()
                self._in_frame = True
                if content:
                    yield content
            if self._in_frame:
                self._kept += piece
                if len(self._kept) > 2 * MAX_FRAME_BYTES:
                    self._kept.clear()
                    self._in_frame = False


def request(op: int, address: int, length: int, data: bytes = b"") -> bytes:
    """One framed request with its checksum."""
    body = struct.pack("<II", address, length) + data
    return slip_encode(struct.pack("<HHI", op, 0, zlib.crc32(body)) + body)


def greeting(op: int) -> bytes:
    """The short probe that kflash sends: op and twelve zeros, no checksum."""
    return slip_encode(bytes((op,)) + bytes(12))


@functools.cache
def stub_program() -> bytes:
    """The flash stub (RISC-V code for 0x80000000) that kflash carries as a constant of its `process` function."""
    import kflash

    for constant in kflash.KFlash.process.__code__.co_consts:
        if isinstance(constant, str) and len(constant) > 10_000 and constant.startswith("789c"):
            return zlib.decompress(binascii.unhexlify(constant))
    raise UserError("the installed kflash package holds no flash stub; install kflash 1.1.6 (uv sync)")
