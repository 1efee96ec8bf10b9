"""The mask ROM's serial loader. The program that a host uploads and starts runs on the emulated core.

Framing and codes are those of common/isp_protocol.py; here C3 writes into the emulated SRAM and C5 starts
hart 0 there, so kflash's own flash stub does the rest by driving the SPI block and the flash chip.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.isp_protocol import SRAM_ADDRESS, SRAM_BYTES, Op, Reason, SlipFrames, slip_encode

if TYPE_CHECKING:
    from sim.k210.soc import Soc

HEADER_BYTES = 16


class MaskRom:
    """Takes bytes from the line, answers through `send`, calls `start(address)` on C5."""

    def __init__(
        self, soc: Soc, send: Callable[[bytes], None], start: Callable[[int], None], baud: Callable[[int], None]
    ):
        self.soc = soc
        self.send = send
        self.start = start
        self.baud = baud
        self._frames = SlipFrames()

    def feed(self, data: bytes) -> None:
        """Take bytes in any pieces, up to a boot request."""
        for content in self._frames.of(data):
            self._request(content)

    def _reply(self, op: int, reason: int, data: bytes = b"") -> None:
        self.send(slip_encode(bytes((op, reason)) + data))

    def _request(self, content: bytes) -> None:
        op = content[0]
        if op == Op.NOP:
            return self._reply(op, Reason.OK)
        if op not in (Op.ECHO, Op.MEMORY_WRITE, Op.MEMORY_READ, Op.MEMORY_BOOT, Op.ROM_BAUD):
            return self._reply(op, Reason.INVALID_COMMAND)
        if len(content) < HEADER_BYTES:
            return self._reply(op, Reason.BAD_LENGTH)
        checksum, address, length = struct.unpack_from("<III", content, 4)
        data = content[HEADER_BYTES:]
        if zlib.crc32(content[8:]) != checksum:
            return self._reply(op, Reason.BAD_CHECKSUM)
        if op == Op.ECHO:
            return self._reply(op, Reason.OK, data)
        if op == Op.MEMORY_BOOT:
            return self.start(address)
        if op == Op.ROM_BAUD:
            return self.baud(struct.unpack("<I", data[:4])[0]) if len(data) >= 4 else None
        inside = 0 <= address - SRAM_ADDRESS <= SRAM_BYTES - length
        if not inside or (op == Op.MEMORY_WRITE and length != len(data)):
            return self._reply(op, Reason.BAD_LENGTH)
        memory = self.soc.ram_slice(address, length)
        if op == Op.MEMORY_READ:
            return self._reply(op, Reason.OK, bytes(memory))
        memory[:] = data
        return self._reply(op, Reason.OK)
