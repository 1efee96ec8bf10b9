"""The K210's serial loader: the mask ROM's ISP and the flash stub that runs from SRAM, over a NOR flash image.

Bytes in, actions out: no clock, no port, no thread. `SimulatedBoard` puts it behind a line; tests feed it by
hand. Protocol as spoken by kflash.py 1.1.6 (no public specification exists):

    frame    C0 … C0, inside it C0 → DB DC and DB → DB DD
    request  u16 op, u16 0, u32 crc32 of all that follows, u32 address, u32 length, data    (little-endian)
    reply    u8 op, u8 reason [text]

The greetings C2, D2, D5 and D9 come as 13 bytes with a zero checksum; they are answered as they are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

FLASH_BYTES = 16 * 1024 * 1024
SECTOR_BYTES = 4096
BLOCK_BYTES = 65536
PAGE_BYTES = 256
SRAM_ADDRESS = 0x80000000
SRAM_BYTES = 6 * 1024 * 1024
MAX_FRAME_BYTES = 2 * BLOCK_BYTES
"""Longest frame content that is kept; a longer one (its end was lost) is thrown away, as a buffer would overrun."""

END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE = 0xC0, 0xDB, 0xDC, 0xDD


class Op(IntEnum):
    """Operation codes; C… are the ROM's, D… the stub's."""

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
    """Second byte of a reply."""

    DEFAULT = 0x00
    OK = 0xE0
    BAD_LENGTH = 0xE1
    BAD_CHECKSUM = 0xE2
    INVALID_COMMAND = 0xE3
    BAD_INIT = 0xE4
    BAD_ERASE = 0xE5
    BAD_WRITE = 0xE6
    BUSY = 0xE7


@dataclass(frozen=True)
class Reply:
    """Bytes to send, `delay_s` after the request was complete (flash work takes time)."""

    data: bytes
    delay_s: float = 0.0


@dataclass(frozen=True)
class SetBaud:
    """The board's UART changes to `baud`."""

    baud: int


@dataclass(frozen=True)
class Restart:
    """The chip resets itself and boots from flash."""


Action = Reply | SetBaud | Restart


def slip_encode(content: bytes) -> bytes:
    """One SLIP frame (RFC 1055, with an END in front as well)."""
    escaped = content.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + escaped + b"\xc0"


def slip_unescape(escaped: bytes) -> bytes | None:
    """Content of one frame between its ENDs; None when an escape sequence is broken."""
    parts = escaped.split(b"\xdb")
    out = bytearray(parts[0])
    for part in parts[1:]:
        if part[:1] == b"\xdc":
            out.append(END)
        elif part[:1] == b"\xdd":
            out.append(ESCAPE)
        else:
            return None
        out += part[1:]
    return bytes(out)


class PowerCut(Exception):
    """The supply went away in the middle of a flash operation."""


@dataclass(frozen=True)
class FlashTiming:
    """Time that the flash chip needs, typical values of the W25Q128JV data sheet; zero for line-only runs."""

    page_program_s: float = 0.0004
    sector_erase_s: float = 0.045
    block_erase_s: float = 0.150

    @classmethod
    def instant(cls) -> FlashTiming:
        return cls(0.0, 0.0, 0.0)


@dataclass
class NorFlash:
    """A NOR flash: erasing sets whole sectors to FF, programming only clears bits.

    `pages_until_power_cut` counts page programs and sector erases down to a PowerCut; what was erased stays
    erased and what was not reached stays unprogrammed, as on a real chip.
    """

    image: bytearray = field(default_factory=lambda: bytearray(b"\xff" * FLASH_BYTES))
    timing: FlashTiming = field(default_factory=FlashTiming)
    pages_until_power_cut: int | None = None

    def _work(self) -> None:
        if self.pages_until_power_cut is not None:
            if self.pages_until_power_cut <= 0:
                self.pages_until_power_cut = None
                raise PowerCut()
            self.pages_until_power_cut -= 1

    def erase(self, address: int, length: int) -> float:
        """Erase all sectors that the range touches; return the time it takes, in seconds."""
        first = address // SECTOR_BYTES * SECTOR_BYTES
        end = -(-(address + length) // SECTOR_BYTES) * SECTOR_BYTES
        duration_s = 0.0
        while first < end:
            if first % BLOCK_BYTES == 0 and end - first >= BLOCK_BYTES:
                step, cost_s = BLOCK_BYTES, self.timing.block_erase_s
            else:
                step, cost_s = SECTOR_BYTES, self.timing.sector_erase_s
            self._work()
            self.image[first : first + step] = b"\xff" * step
            first += step
            duration_s += cost_s
        return duration_s

    def program(self, address: int, data: bytes) -> float:
        """Program erased cells; return the time it takes, in seconds."""
        pages = 0
        at = 0
        while at < len(data):
            step = min(len(data) - at, PAGE_BYTES - (address + at) % PAGE_BYTES)
            self._work()
            old = self.image[address + at : address + at + step]
            new = data[at : at + step]
            if old.count(0xFF) != step:
                new = bytes(a & b for a, b in zip(old, new, strict=True))
            self.image[address + at : address + at + step] = new
            at += step
            pages += 1
        return pages * self.timing.page_program_s


ReplyHook = Callable[[int], int | float | None]
"""Called with the op of a request before it is carried out: an int reason is sent instead of doing it, a float
delays the reply by as many seconds (inf: never sent), None changes nothing."""


class IspEndpoint:
    """The loader of one K210: state machine from received bytes to actions.

    `stub_program` is the program that a host uploads and boots; SRAM that holds anything else when booted is a
    chip that runs wild: silent until the next reset. `chip_type` is the FLASH_INIT argument that finds a flash
    (1: the module's flash on SPI0; 0: the one inside the package, SPI3).
    """

    def __init__(self, flash: NorFlash, stub_program: bytes, chip_type: int = 1, hook: ReplyHook | None = None):
        self.flash = flash
        self.stub_program = stub_program
        self.chip_type = chip_type
        self.hook = hook
        self.reset()

    def reset(self) -> None:
        """Back into the mask ROM; SRAM contents are undefined after a reset, here zero."""
        self.in_stub = False
        self.wild = False
        self.flash_ready = False
        self.sram: dict[int, bytes] = {}
        self._buffer = bytearray()
        self._in_frame = False

    def feed(self, data: bytes) -> list[Action]:
        """Take bytes from the line, in any pieces; return what the chip does about them.

        Raises PowerCut when the flash's budget ran out during one of the operations.
        """
        actions: list[Action] = []
        if self.wild:
            return actions
        pieces = data.split(b"\xc0")
        for index, piece in enumerate(pieces):
            if index:
                # An END both closes the frame that is open and opens the next: a lost END costs one frame only.
                if self._in_frame and self._buffer:
                    content = slip_unescape(bytes(self._buffer))
                    if content is not None:
                        actions += self._request(content)
                        if self.wild:
                            return actions
                self._buffer.clear()
                self._in_frame = True
            if self._in_frame:
                self._buffer += piece
                if len(self._buffer) > 2 * MAX_FRAME_BYTES:
                    self._buffer.clear()
                    self._in_frame = False
        return actions

    # -- requests ----------------------------------------------------------------------------------------

    def _reply(self, op: int, reason: int, delay_s: float = 0.0) -> list[Action]:
        return [Reply(slip_encode(bytes((op, reason))), delay_s)]

    def _request(self, content: bytes) -> list[Action]:
        op = content[0]
        extra_s = 0.0
        if self.hook is not None:
            fault = self.hook(op)
            if isinstance(fault, int):
                return self._reply(op, fault)
            extra_s = fault or 0.0
        actions = self._stub_request(op, content) if self.in_stub else self._rom_request(op, content)
        if extra_s:
            actions = [
                Reply(action.data, action.delay_s + extra_s) if isinstance(action, Reply) else action
                for action in actions
            ]
        return actions

    def _checked(self, op: int, content: bytes) -> tuple[int, int, bytes] | list[Action]:
        """(address, length field, data) of a full request, or the NAK that answers it."""
        if len(content) < 16:
            return self._reply(op, Reason.BAD_LENGTH)
        checksum, address, length = struct.unpack_from("<III", content, 4)
        if zlib.crc32(content[8:]) != checksum:
            return self._reply(op, Reason.BAD_CHECKSUM)
        return address, length, content[16:]

    def _rom_request(self, op: int, content: bytes) -> list[Action]:
        if op == Op.NOP:
            return self._reply(op, Reason.OK)
        if op == Op.ECHO:
            return [Reply(slip_encode(bytes((op, Reason.OK)) + content[16:]))]
        if op not in (Op.MEMORY_WRITE, Op.MEMORY_BOOT, Op.ROM_BAUD):
            return self._reply(op, Reason.INVALID_COMMAND)
        checked = self._checked(op, content)
        if isinstance(checked, list):
            return checked
        address, length, data = checked
        if op == Op.MEMORY_BOOT:
            # The ROM jumps and says nothing.
            self._boot(address)
            return []
        if length != len(data):
            return self._reply(op, Reason.BAD_LENGTH)
        if op == Op.ROM_BAUD:
            return [SetBaud(struct.unpack("<I", data)[0])] if length == 4 else self._reply(op, Reason.BAD_LENGTH)
        if not SRAM_ADDRESS <= address <= SRAM_ADDRESS + SRAM_BYTES - length:
            return self._reply(op, Reason.BAD_LENGTH)
        self.sram[address] = data
        return self._reply(op, Reason.OK)

    def _boot(self, address: int) -> None:
        program = bytearray()
        while (piece := self.sram.get(address + len(program))) is not None and piece:
            program += piece
        self.in_stub = address == SRAM_ADDRESS and bytes(program[: len(self.stub_program)]) == self.stub_program
        self.wild = not self.in_stub

    def _stub_request(self, op: int, content: bytes) -> list[Action]:
        if op == Op.STUB_NOP:
            return self._reply(op, Reason.OK)
        if op == Op.REBOOT:
            return [*self._reply(op, Reason.OK), Restart()]
        if op == Op.FLASH_STATUS:
            return self._reply(op, Reason.OK if self.flash_ready else Reason.BAD_INIT)
        if op not in (
            Op.STUB_BAUD, Op.FLASH_INIT, Op.FLASH_ERASE, Op.FLASH_ERASE_NONBLOCKING, Op.FLASH_WRITE,
        ):  # fmt: skip
            return self._reply(op, Reason.INVALID_COMMAND)
        checked = self._checked(op, content)
        if isinstance(checked, list):
            return checked
        address, length, data = checked
        if op == Op.STUB_BAUD:
            return [SetBaud(struct.unpack("<I", data)[0])] if len(data) == 4 else self._reply(op, Reason.BAD_LENGTH)
        if op == Op.FLASH_INIT:
            self.flash_ready = address == self.chip_type
            return self._reply(op, Reason.OK if self.flash_ready else Reason.BAD_INIT)
        if op == Op.FLASH_WRITE and (length != len(data) or length > BLOCK_BYTES):
            return self._reply(op, Reason.BAD_LENGTH)
        erase_all = op != Op.FLASH_WRITE and address == 0 and length == 0
        if not self.flash_ready or address + length > len(self.flash.image):
            return self._reply(op, Reason.BAD_WRITE if op == Op.FLASH_WRITE else Reason.BAD_ERASE)
        duration_s = self.flash.erase(address, len(self.flash.image) if erase_all else length)
        if op == Op.FLASH_WRITE:
            duration_s += self.flash.program(address, data)
        return self._reply(op, Reason.OK, duration_s)
