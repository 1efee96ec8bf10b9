"""The live page of any board: its picture, poses, figures and console, and buttons if the board can be controlled.

`PageBoard` is what the page needs of a board, `Controls` is what its buttons do. The page's script is pages/watch.js;
it asks for /state repeatedly, and for /lcd.png whenever the picture has changed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from common.errors import FormatError, UserError
from common.page_server import Answer, Handler, PageServer, Request, page_files, views
from common.pose_lines import LineCounters, LineSplitter, parse_line
from common.text import printable

CONSOLE_CHARACTERS = 200_000
PROMPT_CHARACTERS = 200
AVERAGED_FRAMES = 20
"""The times of stages are means over this many frames."""
STALE_S = 3.0
"""If a board has shown no picture for this long by its clock, the page shows no frames a second."""


@dataclass
class Figures:
    """The page's table: texts row by row, frames a second, and whose clock they were measured by."""

    heading: str
    rows: Sequence[Sequence[str]] = ()
    columns: Sequence[str] = ()
    fps: float = 0.0
    fps_unit: str = "frames/s"
    notes: Sequence[str] = ()


class PageBoard(Protocol):
    """What the page needs of a board."""

    title: str

    def condition(self) -> dict[str, Any]:
        """The state line: `mode` (in words), `baud` and `resets`."""

    @property
    def lcd_frames(self) -> int:
        """A number that grows whenever the picture changes."""

    def lcd_png(self) -> bytes:
        """The LCD as a person in front of the board sees it (a board without one: its skeletons), as PNG."""

    def figures(self) -> Figures:
        """The times of a frame's stages, or what was counted."""

    def close(self) -> None:
        """Release what the page used, after the page was closed."""


class Controls(Protocol):
    """What the page can do to a board; UserError if it cannot be done."""

    source: str

    def sources(self) -> list[str]:
        """The names of the cameras that can be chosen."""

    def choose(self, source: str) -> None:
        """Connect another camera to the board."""

    def type(self, text: str) -> None:
        """Send keys to the console."""

    def reset(self, boot: bool) -> None:
        """Press the reset button, with BOOT held or without."""


class Console:
    """The newest text of a board. Positions are counted from the first character that it ever sent."""

    def __init__(self, limit: int = CONSOLE_CHARACTERS):
        self._limit = limit
        self._pieces: deque[str] = deque()
        self._start = self._end = 0

    def add(self, text: str) -> None:
        """Append `text`, and drop the oldest characters if there are too many."""
        self._pieces.append(text)
        self._end += len(text)
        while self._end - self._start > self._limit:
            oldest = self._pieces.popleft()
            surplus = min(self._end - self._start - self._limit, len(oldest))
            self._start += surplus
            if surplus < len(oldest):
                self._pieces.appendleft(oldest[surplus:])

    def since(self, position: int) -> tuple[str, int]:
        """The text after `position`, as far as it is still kept, and the position of its end."""
        wanted = self._end - max(position, self._start)
        newest: list[str] = []
        for piece in reversed(self._pieces):
            if wanted <= 0:
                break
            newest.append(piece[-wanted:])
            wanted -= len(piece)
        return "".join(reversed(newest)), self._end


class LiveView:
    """What the page shows of one board, and its handlers.

    It serves the page on 127.0.0.1 until close(). Port 0 means any free port; None serves nothing, because another
    server uses the handlers. UserError if the port is in use.
    """

    def __init__(self, board: PageBoard, controls: Controls | None = None, port: int | None = 0):
        self.board = board
        self._controls = controls
        self._console = Console()
        self._poses: list[dict[str, Any]] = []
        self._pose_lines = 0
        self._counters = LineCounters()
        self._splitter = LineSplitter()
        self._lock = threading.Lock()
        self.handlers: dict[str, Handler] = {
            "GET /state": lambda request: Answer.json(self.state(request.number("from"))),
            "GET /lcd.png": lambda request: Answer(board.lcd_png(), "image/png"),
        }
        if controls is not None:
            self.handlers |= _control_handlers(controls)
        self.server = None if port is None else PageServer(page_files(), self.handlers | views("watch"), port)

    @property
    def url(self) -> str:
        """The address that a person opens in a browser."""
        assert self.server is not None, "another server shows this board"
        return self.server.url

    def hear(self, data: bytes) -> None:
        """Take bytes from the board: pose lines become poses, everything else goes to the console."""
        with self._lock:
            for line in self._splitter.lines(data):
                try:
                    found = parse_line(line)
                except FormatError:
                    found = None
                if found is None:
                    self._console.add(printable(line) + "\n")
                else:
                    self._counters.take(found)
                    self._poses = list(found.poses)
                    self._pose_lines += 1

    def say(self, line: str) -> None:
        """Show a line in the console."""
        with self._lock:
            self._console.add(printable(line) + "\n")

    def show_poses(self, poses: Sequence[dict[str, Any]]) -> None:
        """Show the poses of the newest frame."""
        with self._lock:
            self._poses = list(poses)
            self._pose_lines += 1

    def state(self, start: int) -> dict[str, Any]:
        """What the page shows; the console from `start` on, the position up to which the browser has read."""
        controls = self._controls
        with self._lock:
            text, end = self._console.since(start)
            # A prompt does not end its line, so show it when the board waits.
            prompt = printable(self._splitter.rest[-PROMPT_CHARACTERS:].decode("utf-8", "replace"))
            poses, pose_lines = self._poses, self._pose_lines
            notes = _of_lines(self._counters)
        figures = self.board.figures()
        figures.notes = [*figures.notes, *notes]
        return {
            "title": self.board.title, **self.board.condition(), "lcd": self.board.lcd_frames,
            "figures": asdict(figures), "console": text, "end": end, "prompt": prompt,
            "poses": poses, "pose_lines": pose_lines, "watching": controls is None,
            "source": controls.source if controls else "", "sources": controls.sources() if controls else [],
        }  # fmt: skip

    def close(self) -> None:
        """Stop serving."""
        if self.server is not None:
            self.server.close()
        self.board.close()


def _of_lines(counters: LineCounters) -> list[str]:
    """The figures from the board's own lines, the same as those of `host_tools monitor` and the LCD's corner."""
    if not counters.frames:
        return []
    latency = "" if counters.latency_ms is None else f"{counters.latency_ms} ms from light to LCD at most; "
    return [f"By the board's lines: {counters.fps:.1f} frames/s; {latency}{counters.dropped} dropped."]


def _control_handlers(controls: Controls) -> dict[str, Handler]:
    def keys(request: Request) -> Answer:
        controls.type(_text(request, "text"))
        return Answer()

    def camera(request: Request) -> Answer:
        controls.choose(_text(request, "source"))
        return Answer()

    def reset(request: Request) -> Answer:
        controls.reset(request.json().get("boot") is True)
        return Answer()

    return {"POST /keys": keys, "POST /camera": camera, "POST /reset": reset}


def _text(request: Request, name: str) -> str:
    value = request.json().get(name)
    if not isinstance(value, str):
        raise UserError(f"the request has no text {name!r}")
    return value
