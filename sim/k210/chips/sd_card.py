"""SD card in SPI mode from an image file (SDHC, block addresses), or an empty slot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError

BLOCK_BYTES = 512
READY, IDLE = 0x00, 0x01
DATA_TOKEN, MULTI_WRITE_TOKEN, STOP_TOKEN, DATA_ACCEPTED = 0xFE, 0xFC, 0xFD, 0x05


class EmptySlot:
    """No card. An open line reads 0xFF, and MaixPy then probes for seconds; `level` 0 ends that at once."""

    def __init__(self, level: int = 0x00):
        self.level = level

    def select(self) -> None:
        pass

    def deselect(self) -> None:
        pass

    def enhanced(self, instruction: int, address: int, address_bits: int) -> None:
        pass

    def transfer(self, data: bytes) -> bytes:
        return bytes([self.level]) * len(data)

    def receive(self, length: int) -> bytes:
        return bytes([self.level]) * length


class SdCard(EmptySlot):
    """A card whose data are in an image file, read and written in place. The select line is a GPIO: see
    `chip_select`."""

    host_side = ("file", "chip_select")

    def __init__(self, path: Path, chip_select: Callable[[], int]):
        super().__init__(0xFF)
        try:
            self.file = open(path, "r+b")  # noqa: SIM115 (as long as the card is in the slot)
        except OSError as error:
            raise UserError(f"SD image {path}: {error.strerror}; give a writable image file") from error
        self.blocks = os.fstat(self.file.fileno()).st_size // BLOCK_BYTES
        if self.blocks < 1024:
            raise UserError(f"SD image {path} has {self.blocks} blocks of 512 bytes; at least 1024 are needed")
        self.chip_select = chip_select
        self.command = bytearray()
        self.answer = bytearray()
        self.application = False
        self.ready = False
        self.reading: int | None = None  # next block of a multi-block read
        self.writing: int | None = None
        self.multi_write = False
        self.incoming: bytearray | None = None  # a data block on its way in

    def receive(self, length: int) -> bytes:
        return self.transfer(b"\xff" * length)

    def transfer(self, data: bytes) -> bytes:
        if self.chip_select():
            self.command.clear()
            self.answer.clear()
            return b"\xff" * len(data)
        return bytes(self._exchange(byte) for byte in data)

    def _exchange(self, byte: int) -> int:
        reply = self.answer.pop(0) if self.answer else 0xFF
        if self.incoming is not None:
            self.incoming.append(byte)
            if len(self.incoming) == BLOCK_BYTES + 2:
                self._write_block(bytes(self.incoming[:BLOCK_BYTES]))
                self.incoming = None
        elif self.writing is not None and byte in (DATA_TOKEN, MULTI_WRITE_TOKEN):
            self.incoming = bytearray()
        elif self.writing is not None and byte == STOP_TOKEN:
            self.writing = None
        elif self.command or byte & 0xC0 == 0x40:
            self.command.append(byte)
            if len(self.command) == 6:
                frame, self.command = bytes(self.command), bytearray()
                self._execute(frame[0] & 0x3F, int.from_bytes(frame[1:5], "big"))
        elif self.reading is not None and not self.answer:
            self._queue_block(self.reading)
            self.reading += 1
        return reply

    def _execute(self, command: int, argument: int) -> None:
        application, self.application = self.application, False
        status = READY if self.ready else IDLE
        answer = bytearray(b"\xff")
        self.answer.clear()
        if command == 0:
            self.ready = False
            answer.append(IDLE)
        elif command == 8:
            answer += bytes([status]) + (argument & 0xFFF).to_bytes(4, "big")
        elif command == 55:
            self.application = True
            answer.append(status)
        elif command == 41 and application:
            self.ready = True
            answer.append(READY)
        elif command == 58:
            answer += bytes([status, 0xC0, 0xFF, 0x80, 0x00])
        elif command == 9:
            answer += bytes([READY, 0xFF, DATA_TOKEN]) + self._csd() + b"\0\0"
        elif command == 10:
            answer += bytes([READY, 0xFF, DATA_TOKEN]) + b"\x01MPposen\x10\0\0\0\1\0\x9b\1" + b"\0\0"
        elif command in (17, 18):
            answer.append(READY)
            self.answer += answer
            self._queue_block(argument)
            self.reading = argument + 1 if command == 18 else None
            return
        elif command in (24, 25):
            self.writing, self.multi_write = argument, command == 25
            answer.append(READY)
        elif command == 12:
            self.reading = self.writing = None
            answer.append(READY)
        else:
            answer.append(status if command in (13, 16, 23, 59) else status | 4)
            if command == 13:
                answer.append(0)
        self.answer += answer

    def _csd(self) -> bytes:
        """CSD version 2: capacity = (C_SIZE + 1) · 512 KiB."""
        size = max(0, self.blocks // 1024 - 1)
        return bytes([0x40, 0x0E, 0x00, 0x32, 0x5B, 0x59, 0x00, size >> 16 & 0x3F, size >> 8 & 0xFF, size & 0xFF,
                      0x7F, 0x80, 0x0A, 0x40, 0x00, 0x01])  # fmt: skip

    def _queue_block(self, block: int) -> None:
        if block >= self.blocks:
            self.answer += bytes([0xFF, 0x08])  # out of range
            return
        self.file.seek(block * BLOCK_BYTES)
        self.answer += bytes([0xFF, DATA_TOKEN]) + self.file.read(BLOCK_BYTES) + b"\0\0"

    def _write_block(self, data: bytes) -> None:
        assert self.writing is not None
        if self.writing < self.blocks:
            self.file.seek(self.writing * BLOCK_BYTES)
            self.file.write(data)
            self.file.flush()
            self.answer += bytes([DATA_ACCEPTED, 0x00, 0xFF])
        else:
            self.answer += bytes([0x0D, 0xFF])
        self.writing = self.writing + 1 if self.multi_write else None
