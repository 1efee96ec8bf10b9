"""The K210's serial loader: the mask ROM's ISP and the flash stub that runs from SRAM, over a NOR flash image.

It turns bytes into actions, without a clock, port or thread. `SimulatedBoard` puts it on a line; tests feed it
directly. The protocol is that of common/isp_protocol.py.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from common.flash_map import BLOCK_BYTES, PAGE_BYTES, SECTOR_BYTES, erased_flash
from common.isp_protocol import SRAM_ADDRESS, SRAM_BYTES, Op, Reason, SlipFrames, slip_encode


@dataclass(frozen=True)
class Reply:
    """Bytes to send `delay_s` after the request was complete, since flash operations take time."""

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


class PowerCutError(Exception):
    """The power failed in the middle of a flash operation."""


@dataclass(frozen=True)
class FlashTiming:
    """The flash chip's times, typical values of the W25Q128JV data sheet; zero if only the line matters."""

    page_program_s: float = 0.0004
    sector_erase_s: float = 0.045
    block_erase_s: float = 0.150

    @classmethod
    def instant(cls) -> FlashTiming:
        return cls(0.0, 0.0, 0.0)


@dataclass
class NorFlash:
    """A NOR flash: erasing sets whole sectors to FF, programming only clears bits.

    `pages_until_power_cut` counts page programs and sector erases down to a PowerCutError; after it, erased sectors
    stay erased and pages that were not reached stay unprogrammed, as on a real chip.
    """

    image: bytearray = field(default_factory=erased_flash)
    timing: FlashTiming = field(default_factory=FlashTiming)
    pages_until_power_cut: int | None = None

    def _work(self) -> None:
        if self.pages_until_power_cut is not None:
            if self.pages_until_power_cut <= 0:
                self.pages_until_power_cut = None
                raise PowerCutError()
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
"""Called with the op of a request before it is carried out: an int is sent as the reason for a refusal, a float
delays the reply by this many seconds (inf: it is never sent), None changes nothing."""


class IspEndpoint:
    """The loader of one K210: state machine from received bytes to actions.

    `stub_program` is the program that a host uploads and boots; if the SRAM holds anything else when it is booted, the
    chip does not answer until the next reset. `chip_type` is the FLASH_INIT argument that finds a flash (1: the
    module's flash on SPI0; 0: the one inside the package, SPI3).
    """

    def __init__(self, flash: NorFlash, stub_program: bytes, chip_type: int = 1, hook: ReplyHook | None = None):
        self.flash = flash
        self.stub_program = stub_program
        self.chip_type = chip_type
        self.hook = hook
        self.reset()

    def reset(self) -> None:
        """Return to the mask ROM; the contents of SRAM after a reset are undefined on silicon and zero here."""
        self.in_stub = False
        self.wild = False
        self.flash_ready = False
        self.sram: dict[int, bytes] = {}
        self._frames = SlipFrames()

    def feed(self, data: bytes) -> list[Action]:
        """Take bytes from the line, in any pieces; return what the chip does about them.

        Raises PowerCutError if the power failed during one of the operations.
        """
        actions: list[Action] = []
        for content in self._frames.of(data):
            if self.wild:
                break
            actions += self._request(content)
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
            # The ROM starts the program without an answer.
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
