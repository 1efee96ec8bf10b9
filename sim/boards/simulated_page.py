"""The simulated board on the live page: its devices, and how long each stage takes on this computer."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from common.arrays import Bytes, Picture
from common.live_view import AVERAGED_FRAMES, STALE_S, Figures
from sim.boards.devices import KpuModelRunner
from sim.boards.simulated import SimulatedBoard
from sim.parts.board import Camera
from sim.parts.session import ControlledBoard


class StageTimes:
    """Milliseconds of the last frames' stages on this computer, and frames per second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, deque[float]] = {}
        self._shown: deque[float] = deque(maxlen=AVERAGED_FRAMES)
        self._kpu_done_s = 0.0

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=AVERAGED_FRAMES)).append(seconds * 1000)

    def kpu_done(self) -> None:
        self._kpu_done_s = time.perf_counter()

    def frame_shown(self) -> None:
        """A frame is on the LCD: the time since the KPU was spent on decoding and drawing."""
        now = time.perf_counter()
        self._shown.append(now)
        if self._kpu_done_s:
            self.add("decode, draw, show", now - self._kpu_done_s)
            self._kpu_done_s = 0.0

    def summary(self) -> dict[str, float]:
        """Stage → mean milliseconds."""
        with self._lock:
            return {stage: round(sum(values) / len(values), 1) for stage, values in self._stages.items() if values}

    def frames_per_second(self) -> float:
        shown = list(self._shown)
        if len(shown) < 2 or time.perf_counter() - shown[-1] > STALE_S:
            return 0.0
        return round((len(shown) - 1) / max(shown[-1] - shown[0], 1e-6), 1)


class TimedCamera:
    """A camera that can be exchanged while the board runs, and whose time is measured."""

    def __init__(self, camera: Camera | None, times: StageTimes):
        self.camera = camera
        self._times = times

    def frame(self, width: int, height: int) -> Picture | None:
        """The next frame of the camera."""
        started = time.perf_counter()
        picture = self.camera.frame(width, height) if self.camera is not None else None
        self._times.add("camera", time.perf_counter() - started)
        return picture


class _TimedRunner:
    def __init__(self, runner: KpuModelRunner, times: StageTimes):
        self._runner = runner
        self._times = times

    def run(self, planes: Bytes) -> list[Bytes]:
        started = time.perf_counter()
        outputs = self._runner.run(planes)
        self._times.add("KPU (computed)", time.perf_counter() - started)
        self._times.kpu_done()
        return outputs


class SimulatedPage(ControlledBoard):
    """The simulated board; measures its devices' times from now on."""

    title = "Simulated board"

    def __init__(self, board: SimulatedBoard):
        self._board = board
        self.lcd = board.devices.lcd
        self.times = StageTimes()
        devices = board.devices
        self._camera = TimedCamera(devices.camera, self.times)
        devices.camera = self._camera
        load_model = devices.load_model
        devices.load_model = lambda kmodel: _TimedRunner(load_model(kmodel), self.times)
        # Every frame is computed, because a cache would make the KPU's time zero.
        devices.cache_kpu = False
        self.lcd.on_frame(lambda lcd: self.times.frame_shown())

    @property
    def console_baud(self) -> int:
        """The baud rate that the program has set."""
        return self._board.baud

    def condition(self) -> dict[str, Any]:
        """The board's mode, baud rate and number of resets, for the state line."""
        return {"mode": self._board.mode.value, "baud": self._board.baud, "resets": self._board.resets}

    def set_camera(self, camera: Camera) -> None:
        """Connect another camera to the board, from the next picture on."""
        self._camera.camera = camera

    def figures(self) -> Figures:
        """Milliseconds on this computer."""
        return Figures(
            heading=f"Times on this computer (mean of {AVERAGED_FRAMES} frames)",
            rows=[(stage, f"{milliseconds:.1f} ms") for stage, milliseconds in self.times.summary().items()],
            fps=self.times.frames_per_second(),
        )

    def close(self) -> None:
        """Nothing needs to be undone, because the board ends with its page."""
