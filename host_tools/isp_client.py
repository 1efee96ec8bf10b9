"""Client for the K210's serial loader: resets into the ROM, loads the flash stub into SRAM, and writes the flash.

It is written for bad cables. A request that is refused or not answered is repeated at the same address. After every
error the line is brought back into step before any answer counts. If a rate is unreliable, the session starts again at
the next lower one and continues where the flash is known to be right. An error that no loader can notice (a flipped bit
that turns a refusal into an approval) is found when the board itself reads the flash back.

The protocol is that of common/isp_protocol.py. The stub program is the one inside the installed kflash package.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from common.errors import UserError
from common.flash_map import SECTOR_BYTES
from common.flash_parts import FlashPart, check_parts
from common.isp_protocol import (
    END,
    FLASH_FRAME_BYTES,
    SRAM_ADDRESS,
    SRAM_FRAME_BYTES,
    Op,
    Reason,
    greeting,
    request,
    stub_program,
)
from common.transport import BITS_PER_BYTE, CONSOLE_BAUD, Transport
from common.wiring import AUTOMATIC, WIRINGS, ResetStrategy

BAUD_FALLBACK = (1_500_000, 750_000, 115_200)
"""CH552 bridges fail above 1.5 Mbaud; the ROM starts at 115200 baud."""

GREETING_TIMEOUT_S = 0.4
"""The ROM answers within a millisecond; the rest of this time is for the USB bridge."""
GREETINGS_PER_RESET = 2
RESET_ROUNDS = 3
"""The board is given up after this many rounds over all wirings."""
REPLY_MARGIN_S = 1.0
"""An answer is awaited for this long, beyond the time that the request itself needs on the line."""
STUB_BOOT_S = 0.1
BAUD_SETTLE_S = 0.05
"""The stub changes its rate after its frame has been sent; kflash waits this long too."""
WRITE_TIMEOUT_S = 3.0
"""Erasing and programming 64 KiB takes 0.3 s typically, and 2.5 s by the data sheets' limits."""
RESYNC_LIMIT_S = 10.0
"""A slow erase may keep the stub from answering for this long; after that the session starts again."""
ERASE_ALL_TIMEOUT_S = 200.0
"""Erasing all 16 MiB takes 40 s typically, 200 s at most (W25Q128JV)."""
REQUEST_TRIES = 5
SESSIONS_PER_BAUD = 2
BUSY_PAUSE_S = 0.5

ON_BOARD_FLASH = 1

REASONS: dict[int, str] = {
    Reason.BAD_LENGTH: "bad length", Reason.BAD_CHECKSUM: "bad checksum", Reason.INVALID_COMMAND: "invalid command",
    Reason.BAD_INIT: "flash not found", Reason.BAD_ERASE: "erase failed", Reason.BAD_WRITE: "write failed",
    Reason.BUSY: "flash busy",
}  # fmt: skip

Progress = Callable[[int, int], None]
"""It is called with the bytes done and the bytes in all."""


class NoAnswerError(UserError):
    """There is no answer from the other end, whatever was tried."""


class IspSessionError(Exception):
    """This session is lost; another one may succeed."""

    def __init__(self, cause: str, lower_baud: bool = True):
        super().__init__(cause)
        self.lower_baud = lower_baud


def frames_of(parts: Sequence[FlashPart]) -> list[tuple[FlashPart, int, bytes]]:
    """(part, address, data) of every flash frame: parts are cut at multiples of 64 KiB."""
    frames = []
    for part in parts:
        at = 0
        while at < len(part.data):
            address = part.address_bytes + at
            step = min(len(part.data) - at, FLASH_FRAME_BYTES - address % FLASH_FRAME_BYTES)
            frames.append((part, address, part.data[at : at + step]))
            at += step
    return frames


def line_time_s(frame_bytes: int, baud: int) -> float:
    """The time that this many bytes take on the wire (8N1)."""
    return frame_bytes * BITS_PER_BYTE / baud


class IspClient:
    """Writes parts into a board's flash over `transport`.

    `wirings` are tried in turn until the ROM answers; the one that did is kept in `wiring`. `note` receives one
    line of text whenever something had to be repeated.
    """

    def __init__(
        self,
        transport: Transport,
        wirings: Sequence[str] = AUTOMATIC,
        bauds: Sequence[int] = BAUD_FALLBACK,
        chip: int = ON_BOARD_FLASH,
        note: Callable[[str], None] = lambda text: None,
        manual_wait_s: float = 60.0,
    ):
        self.transport = transport
        self.strategies = [WIRINGS[name] for name in wirings]
        self.bauds = tuple(bauds)
        self.chip = chip
        self.note = note
        self.manual_wait_s = manual_wait_s
        self.wiring: ResetStrategy | None = None
        self.baud = CONSOLE_BAUD
        self.retries = 0
        self._received = bytearray()

    # -- frames ------------------------------------------------------------------------------------------

    def _read_reply(self, op: int, timeout_s: float) -> int | None:
        """Reason of the next reply to `op`; None if none came in time. Other replies are dropped."""
        deadline = self.transport.now() + timeout_s
        while True:
            while (end := self._received.find(END)) >= 0:
                content = bytes(self._received[:end])
                del self._received[: end + 1]
                if len(content) >= 2 and content[0] == op:
                    return content[1]
                if content[:1] == bytes((Op.DEBUG_TEXT,)):
                    self.note("board says: " + content[2:].decode("ascii", "replace").strip())
            left_s = deadline - self.transport.now()
            if left_s <= 0:
                return None
            self._received += self.transport.read(left_s)

    def _forget_input(self) -> None:
        self._received.clear()
        self.transport.discard_input()

    def _send(self, frame: bytes) -> float:
        """Send bytes, and return the time that the line needs for them."""
        self.transport.write(frame)
        return line_time_s(len(frame), self.baud)

    def _greet(self, op: int, timeout_s: float) -> bool:
        self._send(greeting(op))
        return self._read_reply(op, timeout_s) is not None

    def _resync(self) -> None:
        """Wait until the stub has answered everything sent so far, and drop those answers.

        It works in order, so its answer to a fresh greeting comes after all others. Without this a late answer
        to one frame could be taken for that of the next.
        """
        deadline = self.transport.now() + RESYNC_LIMIT_S
        while self.transport.now() < deadline:
            if self._greet(Op.STUB_NOP, REPLY_MARGIN_S):
                # Greetings that were sent while it was busy are answered now. Their op differs from that of any
                # request, so they do no harm.
                return
        raise IspSessionError(f"no answer for {RESYNC_LIMIT_S:.0f} s")

    def _ask(self, frame: bytes, op: int, what: str, timeout_s: float = REPLY_MARGIN_S, in_stub: bool = True) -> None:
        """Send one request until it is approved; IspSessionError if it never is."""
        cause = ""
        for attempt in range(REQUEST_TRIES):
            if attempt:
                self.retries += 1
                self.note(f"{what}: {cause}, trying again")
            reason = self._read_reply(op, self._send(frame) + timeout_s)
            if reason == Reason.OK or (reason == Reason.DEFAULT and not in_stub):
                return
            cause = "no answer" if reason is None else REASONS.get(reason, f"reason 0x{reason:02X}")
            if reason == Reason.BUSY:
                self.transport.sleep(BUSY_PAUSE_S)
            if in_stub:
                self._resync()
            else:
                self._send(END)
                self.transport.sleep(0.01)
                self._forget_input()
        if op == Op.FLASH_INIT and cause == REASONS[Reason.BAD_INIT]:
            raise UserError(
                "the board's flash was not found on SPI0; "
                "is it one of the boards in `flash.py --list-boards`? Reconnect it and try again"
            )
        if cause in (REASONS[Reason.BAD_WRITE], REASONS[Reason.BAD_ERASE]):
            raise UserError(
                f"{what}: the flash chip says '{cause}' every time; "
                f"it is write-protected, worn out or smaller than 16 MiB: try another board"
            )
        raise IspSessionError(f"{what}: {cause}, {REQUEST_TRIES} times")

    # -- session -----------------------------------------------------------------------------------------

    def enter_rom(self) -> None:
        """Reset into the ROM's loader, trying every wiring; UserError if nothing ever answers."""
        self.baud = CONSOLE_BAUD
        self.transport.set_baud(CONSOLE_BAUD)
        strategies = [self.wiring] if self.wiring else self.strategies
        if getattr(self.transport, "has_lines", True) is False:
            strategies = [WIRINGS["manual"]]
            self.note("this port cannot reset the board: hold BOOT, press RESET, let BOOT go")
        started_s = self.transport.now()
        round_number = 0
        while True:
            for strategy in strategies:
                strategy.enter_isp(self.transport)
                self._forget_input()
                for _ in range(GREETINGS_PER_RESET):
                    if self._greet(Op.NOP, GREETING_TIMEOUT_S):
                        self.wiring = strategy
                        return
            round_number += 1
            if strategies == [WIRINGS["manual"]]:
                if self.transport.now() - started_s > self.manual_wait_s:
                    break
            elif round_number >= RESET_ROUNDS:
                break
        tried = ", ".join(strategy.name for strategy in strategies)
        raise NoAnswerError(
            f"{self.transport.name}: the K210 does not answer (reset wirings tried: {tried}); "
            f"check that the cable carries data, then hold BOOT while pressing RESET and try again"
        )

    def load_stub(self) -> None:
        """Upload the flash stub through the ROM and start it."""
        program = stub_program()
        for at in range(0, len(program), SRAM_FRAME_BYTES):
            piece = program[at : at + SRAM_FRAME_BYTES]
            address = SRAM_ADDRESS + at
            frame = request(Op.MEMORY_WRITE, address, len(piece), piece)
            self._ask(frame, Op.MEMORY_WRITE, f"stub at 0x{address:08X}", in_stub=False)
        self._send(request(Op.MEMORY_BOOT, SRAM_ADDRESS, 0))
        self.transport.sleep(STUB_BOOT_S + line_time_s(32, self.baud))
        if not any(self._greet(Op.STUB_NOP, REPLY_MARGIN_S) for _ in range(REQUEST_TRIES)):
            raise IspSessionError("the flash stub does not start", lower_baud=False)

    def change_baud(self, baud: int) -> None:
        """Bring both sides to `baud`; IspSessionError if the stub does not answer at that rate."""
        if baud == self.baud:
            return
        self._send(request(Op.STUB_BAUD, 0, 4, struct.pack("<I", baud)))
        self.transport.sleep(BAUD_SETTLE_S)
        self.transport.set_baud(baud)
        self.baud = baud
        self._forget_input()
        if not any(self._greet(Op.STUB_NOP, GREETING_TIMEOUT_S) for _ in range(3)):
            raise IspSessionError(f"no answer at {baud} baud")

    def connect(self, baud: int) -> None:
        """Bring the board from any state to a stub that is ready to write, at `baud`."""
        self.enter_rom()
        self.load_stub()
        self.change_baud(baud)
        self._ask(request(Op.FLASH_INIT, self.chip, 0), Op.FLASH_INIT, "flash start")

    def _over_sessions(self, body: Callable[[], None]) -> None:
        """Run `body` in a connected session; after an error connect again, at a lower rate if necessary, and
        continue."""
        cause = "no rate given"
        for baud in self.bauds:
            for _ in range(SESSIONS_PER_BAUD):
                try:
                    self.connect(baud)
                    body()
                    return
                except IspSessionError as trouble:
                    cause = str(trouble)
                    self.retries += 1
                    self.note(f"{cause}; starting over")
                    if trouble.lower_baud and "no answer at" in cause:
                        break
        raise UserError(
            f"{self.transport.name}: flashing failed down to {self.bauds[-1]} baud ({cause}); "
            f"use a shorter cable or another USB port and run the same command again: it continues where it stopped"
        )

    def write(self, parts: Sequence[FlashPart], progress: Progress = lambda done, total: None) -> None:
        """Write all parts; UserError if that is impossible, LineLostError if the port goes away."""
        check_parts(parts)
        frames = frames_of(parts)
        total = sum(len(data) for _, _, data in frames)
        state = {"next": 0, "done": 0}

        def body() -> None:
            while state["next"] < len(frames):
                part, address, data = frames[state["next"]]
                frame = request(Op.FLASH_WRITE, address, len(data), data)
                self._ask(frame, Op.FLASH_WRITE, f"{part.name} at 0x{address:06X}", WRITE_TIMEOUT_S)
                state["next"] += 1
                state["done"] += len(data)
                progress(state["done"], total)

        self._over_sessions(body)

    def erase(self, address_bytes: int, length_bytes: int) -> None:
        """Erase whole sectors; (0, 0) is the whole chip."""
        if address_bytes % SECTOR_BYTES or length_bytes % SECTOR_BYTES:
            raise UserError(
                f"erase 0x{address_bytes:X}+0x{length_bytes:X}: address and length must be multiples of "
                f"0x{SECTOR_BYTES:X} (one sector)", exit_code=2,
            )  # fmt: skip
        whole = length_bytes == 0
        timeout_s = ERASE_ALL_TIMEOUT_S if whole else 3.0 + length_bytes / SECTOR_BYTES * 0.4
        frame = request(Op.FLASH_ERASE, address_bytes, length_bytes)
        self._over_sessions(lambda: self._ask(frame, Op.FLASH_ERASE, f"erase 0x{address_bytes:06X}", timeout_s))

    def reboot(self) -> None:
        """Start what is in flash: by the stub if it answers, otherwise by the reset line."""
        if self.wiring is not None and self.wiring.to_boot:
            # IO16 is released first, because a chip that restarts with it low is back in the loader.
            self.transport.set_lines(*self.wiring.to_boot[-1])
        self._forget_input()
        rebooted = any(self._reboot_once() for _ in range(2))
        self.baud = CONSOLE_BAUD
        self.transport.set_baud(CONSOLE_BAUD)
        if not rebooted:
            self.boot_by_lines()

    def _reboot_once(self) -> bool:
        self._send(greeting(Op.REBOOT))
        return self._read_reply(Op.REBOOT, REPLY_MARGIN_S) == Reason.OK

    def boot_by_lines(self) -> None:
        """Reset into flash by the modem lines, with the known wiring, or with each of them."""
        self.transport.set_baud(CONSOLE_BAUD)
        self.baud = CONSOLE_BAUD
        for strategy in [self.wiring] if self.wiring else self.strategies:
            strategy.boot(self.transport)
