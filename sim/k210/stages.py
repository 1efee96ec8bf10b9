"""What a frame costs on the emulated chip: virtual time and instructions of each stage.

The camera interface, the KPU and the display report when they begin and end to work; a frame lasts from one camera
picture to the next. Time in which none of them works belongs to the program: `INTERPRETER` is its instructions, and
`WAITING` the time in which it only waited (for the camera's next picture, a serial line, the other hart). The chip
does the same with and without being watched.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from common.live_view import AVERAGED_FRAMES
from sim.k210.k210_board import K210Board

CAMERA, KPU, LCD = "camera", "KPU", "LCD"
INTERPRETER, WAITING, WHOLE = "interpreter: decode, draw, print", "waiting: next picture, serial line", "whole frame"
ROWS = (CAMERA, KPU, LCD, INTERPRETER, WAITING, WHOLE)


@dataclass
class Cost:
    """The virtual seconds of a stage, and the instructions that both harts executed in it."""

    seconds: float = 0.0
    instructions: int = 0

    def add(self, seconds: float, instructions: int) -> None:
        self.seconds += seconds
        self.instructions += instructions


class _Worker(Protocol):
    on_busy: Callable[[bool], None] | None


@dataclass(frozen=True)
class _Moment:
    """Hart 0's clock in cycles, its instructions and those of both harts, since power-on."""

    cycles: int
    own: int
    both: int


@dataclass
class StageCosts:
    """Watches a board from now on; read `mean()` from any thread."""

    board: K210Board
    frames: deque[dict[str, Cost]] = field(default_factory=lambda: deque(maxlen=AVERAGED_FRAMES))

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._working: set[str] = set()
        self._frame: dict[str, Cost] | None = None  # It is None until a first picture has come.
        self._last = self._moment()
        self._boots = self.board.boots
        self.last_picture_cycle = 0
        self._sources: dict[str, _Worker] = {CAMERA: self.board.soc.dvp, KPU: self.board.soc.kpu, LCD: self.board.lcd}
        for stage, source in self._sources.items():
            source.on_busy = partial(self._told, stage)

    def detach(self) -> None:
        """Stop watching the board."""
        for source in self._sources.values():
            source.on_busy = None

    def _moment(self) -> _Moment:
        soc = self.board.soc
        own, both = soc.instructions[0], sum(soc.instructions)
        hart = soc.current
        if hart is None:
            return _Moment(soc.hart_cycles[0], own, both)
        executed = hart.executed()
        if hart.id == 0:
            return _Moment(soc.now, own + executed, both + executed)
        return _Moment(soc.hart_cycles[0], own, both + executed)

    def _told(self, stage: str, busy: bool) -> None:
        if self.board.boots != self._boots:
            self._boots = self.board.boots
            self._working.clear()
            self._frame = None
            with self._lock:
                self.frames.clear()
        self._account()
        (self._working.add if busy else self._working.discard)(stage)
        if stage == CAMERA and not busy:
            self._picture_came()

    def _account(self) -> None:
        """Add what has passed since the last event to every stage that works, or to the program."""
        now, last = self._moment(), self._last
        self._last = now
        if self._frame is None:
            return
        hz = self.board.soc.sysctl.cpu_hz
        seconds, instructions = (now.cycles - last.cycles) / hz, now.both - last.both
        self._frame[WHOLE].add(seconds, instructions)
        for stage in self._working:
            self._frame[stage].add(seconds, instructions)
        if not self._working:
            own_seconds = (now.own - last.own) / hz
            self._frame[INTERPRETER].add(own_seconds, instructions)
            self._frame[WAITING].add(seconds - own_seconds, 0)

    def _picture_came(self) -> None:
        if self._frame is not None:
            with self._lock:
                self.frames.append(self._frame)
        self._frame = {name: Cost() for name in ROWS}
        self.last_picture_cycle = self._last.cycles

    def mean(self) -> dict[str, Cost]:
        """Stage → mean cost in the last frames; empty before the second picture."""
        with self._lock:
            frames = list(self.frames)
        return {
            name: Cost(
                sum(frame[name].seconds for frame in frames) / len(frames),
                round(sum(frame[name].instructions for frame in frames) / len(frames)),
            )
            for name in (ROWS if frames else ())
        }
