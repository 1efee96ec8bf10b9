"""The host's end of the serial link: start the board's end, agree on a rate, move pictures and results.

The protocol itself is firmware/link.py, the same file on both ends; see docs/link.md.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from common.errors import FormatError, UserError
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from common.transport import CONSOLE_BAUD, LineLostError, Transport
from host_tools.board_answers import FACTS, PROBE_FACTS, PROBE_REPORT, REPORT, read_answer
from host_tools.repl import BoardRaisedError, Note, RawRepl, ReplError

protocol = firmware_module("link")

RATES = (1_500_000, 921_600, 460_800, 230_400, CONSOLE_BAUD)
HOST_RING_BYTES = 16_000
"""The board may have this many bytes in transit, and keeps them until they are acknowledged."""
LARGEST_MESSAGE_BYTES = 4000
"""The longest message that the board may send; it lets the interpreter keep up with 1.5 Mbaud."""
BOARD_SILENCE_MS = 8000
START_MS = 20_000
"""Within this time the board compiles the programs, loads the network and takes its first picture."""
REJOIN_TRIES = 4
STOP_S = 0.1
"""A pause after STOP's three Ctrl-C: without it CanMV hung at the next Ctrl-C (seen in the emulator)."""

T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Program:
    """A board's end of the link. files: those of its files that are brought up to date before it starts.

    facts, report: the forms of its answers to INFO and RUN, see board_answers.py.
    """

    name: str
    files: tuple[str, ...]
    facts: dict[Any, Any]
    report: dict[Any, Any]


TARGET = Program("target", ("link.py", "target.py", "maixpy_api.py"), FACTS, REPORT)
PROBE = Program("probe", ("link.py", "target.py", "probe.py", "maixpy_api.py", "boards.py"), PROBE_FACTS, PROBE_REPORT)
"""This program needs no network on the board."""


STATE = struct.Struct("<BII")
"""The state of a buffer: its number, the bytes held, and their CRC-32."""
PART = struct.Struct("<BI")
"""A part of a buffer: its number and the offset; the bytes follow."""


class BoardMemoryLostError(Exception):
    """The board lost its memory in the middle of a job: begin the picture again."""


class BoardRefusedError(UserError):
    """The board works but cannot do what was asked."""


class RefusedError(Exception):
    """The board answered that it cannot do what was asked; the text is the board's."""


class BoardLink:
    """A board whose program is running. Every error of the line is repaired or becomes a UserError (exit 2)."""

    def __init__(self, transport: Transport, note: Note = lambda text: None, program: Program = TARGET):
        self.transport = transport
        self.program = program
        self.note = note
        self.baud = self.fastest = CONSOLE_BAUD
        self.board: dict[str, Any] = {}
        self.launch: Callable[[], None] | None = None
        self.prints = bytearray()
        self.printed = 0
        self.channel = protocol.Channel(
            protocol.Link(HOST_RING_BYTES, LARGEST_MESSAGE_BYTES), self._read, transport.write, self._now_ms
        )
        self.channel.on_stray = self._stray

    def _read(self, wait_ms: int) -> bytes:
        return self.transport.read(wait_ms / 1000)

    def _now_ms(self) -> int:
        return int(self.transport.now() * 1000)

    def _stray(self, data: bytes) -> None:
        """Show printed text; other bytes that are not a frame are noise."""
        text = data.strip(b"\r\n\x04>")
        if text and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in text):
            self.prints += text + b"\n"
            self.printed += 1
            self.note(f"the board says: {text.decode()}")

    # -- sessions ------------------------------------------------------------------------------------------

    def connect(self, timeout_ms: int = 5000) -> None:
        """Open a session and read the board's facts; UserError if there is no answer."""
        try:
            self.channel.connect(random.randrange(1, 65536), timeout_ms)
        except protocol.LinkError as error:
            said = self._last_words()
            raise UserError(
                f"{self.transport.name}: {error}; {f'the board says: {said}; ' if said else ''}reset it and try again",
                exit_code=2,
            ) from None
        facts = self._ask_json(protocol.INFO, self.program.facts)
        if self.board and facts["boot"] != self.board["boot"]:
            self.board = facts
            raise BoardMemoryLostError
        self.board = facts

    def _last_words(self) -> str:
        """The last line that the board printed; of a traceback this is the error."""
        text = (bytes(self.prints) + self.channel.link._tail).decode("utf-8", "replace")
        words = [line.strip("\x04>\r ") for line in text.split("\n")]
        return next((line for line in reversed(words) if line and line.isprintable()), "")[:200]

    def _repair(self, action: Callable[[], T]) -> T:
        """Run `action`, which can continue where it stopped; if the line fails meanwhile, open a new session."""
        for _ in range(REJOIN_TRIES):
            try:
                return action()
            except protocol.LinkError as error:
                self.note(f"{error}; opening the link again")
                self._rejoin()
        raise UserError(
            f"{self.transport.name}: the line keeps breaking; try a lower --baud or a shorter cable", exit_code=2
        )

    def _rejoin(self) -> None:
        """Open a new session; if there is no answer, the board has restarted and must start its program again."""
        try:
            self.connect(2500)
        except UserError:
            if self.launch is None:
                raise
            self._set_baud(CONSOLE_BAUD)
            self.launch()
            self.connect(START_MS)

    def _set_baud(self, baud: int) -> None:
        if self.baud != baud:
            self.transport.set_baud(baud)
            self.baud = baud

    def _receive(self, *kinds: int, timeout_ms: int = BOARD_SILENCE_MS) -> tuple[int, bytes]:
        """The next message of one of `kinds`; RefusedError for the board's FAILED; late answers are skipped."""
        while True:
            kind, message = self.channel.receive(timeout_ms)
            if kind in kinds:
                return kind, message
            if kind == protocol.FAILED:
                raise RefusedError(message.decode("utf-8", "replace"))

    def _ask_json(
        self, kind: int, form: dict[Any, Any], message: bytes = b"", timeout_ms: int = BOARD_SILENCE_MS
    ) -> dict[str, Any]:
        self.channel.send(kind, message)
        answer = self._receive(protocol.REPORT, timeout_ms=timeout_ms)[1]
        try:
            return read_answer(answer, form)
        except FormatError as error:
            raise self._nonsense(str(error)) from None

    def _nonsense(self, what: str) -> UserError:
        return UserError(
            f"{self.transport.name}: what answers is not {self.program.name}.py of this version ({what}); reset the "
            "board and run the same command again",
            exit_code=2,
        )

    def info(self) -> dict[str, Any]:
        """The board's facts about itself and its program."""
        return self._repair(lambda: self._ask_json(protocol.INFO, self.program.facts))

    def close(self) -> None:
        """Send the board back to its prompt, at the console's rate."""
        try:
            self.channel.send(protocol.BYE)
            self.channel.flush(1000)
        except (protocol.LinkError, LineLostError):
            pass
        self.transport.sleep(0.05)
        self._set_baud(CONSOLE_BAUD)

    # -- the line's rate -----------------------------------------------------------------------------------

    def speed_up(self, fastest: int = RATES[0]) -> int:
        """Agree on the fastest rate that really works, at most `fastest`; returns it."""
        self.fastest = fastest
        for rate in RATES:
            if self.baud < rate <= fastest and self._repair(partial(self._try_rate, rate)):
                break
        return self.baud

    def _try_rate(self, rate: int) -> bool:
        channel = self.channel
        channel.send(protocol.BAUD, struct.pack("<I", rate))
        try:
            self._receive(protocol.BAUD)
        except RefusedError as error:
            self.note(f"{rate} baud refused: {error}")
            return False
        for _ in range(4):  # our acknowledgement must be sent before the rate changes
            channel.pump(2)
        self.transport.sleep(0.05)
        before = self.baud
        self.transport.set_baud(rate)
        try:
            self._ping(bytes(range(256))[:200], 700)
        except protocol.LinkError:
            self.transport.set_baud(before)
            # This waits longer than the board, which then goes back as well.
            self.transport.sleep(1.5)
            self.transport.discard_input()
            self._ping(b"", 3000)
            self.note(f"{rate} baud does not work on this line")
            return False
        self.baud = rate
        return True

    def _ping(self, message: bytes, timeout_ms: int) -> None:
        self.channel.send(protocol.PING, message, timeout_ms=timeout_ms)
        while self._receive(protocol.PING, timeout_ms=timeout_ms)[1] != message:
            pass

    # -- data ----------------------------------------------------------------------------------------------

    def put(self, buffer: int, data: bytes, progress: Progress = lambda done, total: None) -> None:
        """Write a whole buffer of the board; continues where it stopped if the line breaks.

        UserError if the board refuses; BoardMemoryLostError if it has lost its memory.
        """
        self._guard(lambda: self._repair(lambda: self._put(buffer, data, progress)))

    def _put(self, buffer: int, data: bytes, progress: Progress) -> None:
        channel = self.channel
        channel.send(protocol.OPEN, struct.pack("<BII", buffer, len(data), zlib.crc32(data)))
        held, crc = self._state(buffer)
        offset = held if zlib.crc32(data[:held]) == crc else 0
        while offset < len(data):
            size = min(len(data) - offset, channel.link.chunk_bytes() - 6)
            channel.send(protocol.WRITE, struct.pack("<BI", buffer, offset) + data[offset : offset + size])
            offset += size
            progress(offset, len(data))
        held, crc = self._state(buffer)
        if (held, crc) != (len(data), zlib.crc32(data)):
            raise protocol.LinkError(f"the board holds {held} of {len(data)} bytes, CRC-32 {crc:08x}")

    def _state(self, buffer: int) -> tuple[int, int]:
        while True:
            message = self._receive(protocol.STATE)[1]
            if len(message) != STATE.size:
                raise self._nonsense(f"a state of {len(message)} bytes")
            name, held, crc = STATE.unpack(message)
            if name == buffer:
                return held, crc

    def get(self, buffer: int, length: int, progress: Progress = lambda done, total: None) -> bytes:
        """Read one of the board's buffers; continues where it stopped if the line breaks."""
        data = bytearray()

        def go_on() -> None:
            self.channel.send(protocol.READ, struct.pack("<BII", buffer, len(data), length - len(data)))
            while len(data) < length:
                message = self._receive(protocol.PART)[1]
                if len(message) <= PART.size:
                    raise self._nonsense(f"a part of {len(message)} bytes")
                name, offset = PART.unpack_from(message)
                if name == buffer and offset == len(data):
                    if len(message) - PART.size > length - offset:
                        raise self._nonsense(f"{len(message)} bytes, where {length - offset} are left")
                    data.extend(message[PART.size :])
                    progress(len(data), length)

        self._guard(lambda: self._repair(go_on))
        return bytes(data)

    def run(self, stages: Sequence[str], timeout_ms: int = 60_000) -> dict[str, Any]:
        """Run stages on the board; returns its report: {"us": {stage: microseconds}, …}."""
        request = " ".join(stages).encode()
        form = self.program.report
        return self._guard(lambda: self._repair(lambda: self._ask_json(protocol.RUN, form, request, timeout_ms)))

    def _guard(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except RefusedError as error:
            text = f"{self.transport.name}: the board cannot do it: {error}"
            raise BoardRefusedError(text, exit_code=2) from None

    def line_figures(self) -> dict[str, int]:
        """The counts of this end: good frames, damaged pieces, and frames sent again."""
        link = self.channel.link
        return {"frames": link.frames, "errors": link.errors - self.printed, "resent": link.resent, "baud": self.baud}


def start_target(transport: Transport, note: Note = lambda text: None, program: Program = TARGET) -> BoardLink:
    """Bring a board that runs MaixPy to the point where its program answers; UserError (exit 2) if that fails.

    The program's files are written to the board's run folder if they are not there as they are here.
    """
    link = BoardLink(transport, note, program)
    link.launch = lambda: launch_target(transport, note, program)
    link.launch()
    link.connect(START_MS)
    return link


def launch_target(transport: Transport, note: Note = lambda text: None, program: Program = TARGET) -> None:
    """Interrupt whatever runs, bring the files up to date, and start the program from an empty heap."""
    transport.write(protocol.STOP)  # A host that was cut off may have left a target running.
    transport.sleep(STOP_S)
    repl = RawRepl(transport, note)
    if not repl.try_enter():
        raise UserError(
            f"{transport.name}: there is no answer from a MaixPy prompt at {CONSOLE_BAUD} baud; reset the board, or "
            "flash it with `flash.py`",
            exit_code=2,
        )
    try:
        files = {name: (FIRMWARE_DIR / name).read_bytes() for name in program.files}
        for name in repl.install(files, repl.info()):
            note(f"{name} written to the board")
        repl.soft_reset()
        transport.write(f"import {program.name}\r{program.name}.serve()\x04".encode())
        if repl.read_until(b"OK", 3.0) is None:
            raise ReplError("the program did not start")
    except (ReplError, BoardRaisedError) as trouble:
        raise UserError(f"{transport.name}: {trouble}; reset the board and try again", exit_code=2) from None
