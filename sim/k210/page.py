"""The emulated board on the live page: its display and camera, the chip's time per stage, this computer's speed."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from common.live_view import AVERAGED_FRAMES, STALE_S, Figures
from sim.k210.k210_board import K210Board
from sim.k210.stages import WHOLE, StageCosts
from sim.parts.board import Camera
from sim.parts.session import ControlledBoard

SPEED_WINDOW_S = 3.0
MODEL = (
    "The chip's time is a model: an instruction takes one cycle, KPU layers, SPI, serial lines and the camera what "
    "docs/emulator.md says. Stages that work at the same time count twice."
)


class EmulatedPage(ControlledBoard):
    """The emulated board, which is watched from now on."""

    title = "Emulated K210"

    def __init__(self, board: K210Board):
        self._board = board
        self.lcd = board.lcd
        self._stages = StageCosts(board)
        self._speed: deque[tuple[float, float, int]] = deque()  # this computer's clock, virtual seconds, instructions
        self._speed_lock = threading.Lock()  # each request comes in a thread of its own

    @property
    def console_baud(self) -> int:
        """The baud rate that the program has set."""
        return round(self._board.console_baud)

    def condition(self) -> dict[str, Any]:
        """The board's condition, baud rate and number of starts, for the state line."""
        return {"mode": self._board.condition, "baud": self.console_baud, "resets": self._board.boots}

    def set_camera(self, camera: Camera) -> None:
        """Connect another camera to the board, from the next picture on."""
        self._board.set_camera(camera)

    def figures(self) -> Figures:
        """Chip milliseconds and million instructions of each stage."""
        costs = self._stages.mean()
        soc = self._board.soc
        idle_s = (min(soc.hart_cycles) - self._stages.last_picture_cycle) / soc.sysctl.cpu_hz
        fps = 1 / costs[WHOLE].seconds if costs and costs[WHOLE].seconds and idle_s < STALE_S else 0.0
        return Figures(
            heading=f"The chip's own time (mean of {AVERAGED_FRAMES} frames)",
            columns=("", "ms", "million instructions"),
            rows=[
                (name, f"{1000 * cost.seconds:.1f}", f"{cost.instructions / 1e6:.2f}") for name, cost in costs.items()
            ],
            fps=round(fps, 1),
            fps_unit="frames/s of the chip's time",
            notes=[*self._host_speed(), MODEL],
        )

    def _host_speed(self) -> list[str]:
        """The speed of this computer, between the calls of the last seconds."""
        soc = self._board.soc
        with self._speed_lock:
            now = (time.monotonic(), min(soc.hart_cycles) / soc.sysctl.cpu_hz, sum(soc.instructions))
            self._speed.append(now)
            while now[0] - self._speed[0][0] > SPEED_WINDOW_S:
                self._speed.popleft()
            first = self._speed[0]
        host_s, chip_s, instructions = (b - a for a, b in zip(first, now, strict=True))
        if host_s <= 0 or chip_s < 0:
            return []
        return [
            f"This computer: {instructions / host_s / 1e6:.1f} million instructions/s; "
            f"the chip's time runs at {chip_s / host_s:.2f} of real time."
        ]

    def close(self) -> None:
        """Stop watching the board."""
        self._stages.detach()
