"""The live page of a simulated or emulated board: its console and its buttons behind `common.live_view`."""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np
from PIL import Image

from common.live_view import LiveView, PageBoard
from sim.boards.devices import Camera
from sim.boards.line_server import LiveBoard
from sim.parts.camera_source import open_camera, scene_sources


class ControlledBoard(PageBoard, Protocol):
    """A board of the page whose camera and keys are ours."""

    @property
    def console_baud(self) -> int:
        """The console's rate."""

    def set_camera(self, camera: Camera) -> None:
        """Put another camera before the board."""


class _Controls:
    """The page's buttons."""

    def __init__(self, live: LiveBoard, board: ControlledBoard, source: str):
        self.source = source
        self._live = live
        self._board = board

    def sources(self) -> list[str]:
        return scene_sources()

    def choose(self, source: str) -> None:
        self._board.set_camera(open_camera(source, hold=10))
        self.source = source

    def type(self, text: str) -> None:
        self._live.set_baud(self._board.console_baud)
        self._live.send(text.encode("utf-8", "replace"))

    def reset(self, boot: bool) -> None:
        self._live.press_reset(boot=boot)


class WebView(LiveView):
    """Serves the page of `board`, which `live` runs; port 0 takes a free one."""

    def __init__(self, live: LiveBoard, board: ControlledBoard, port: int = 0, source: str = "scene:7"):
        super().__init__(board, _Controls(live, board, source), port)
        self._live = live
        live.add_sink(self.hear)

    def close(self) -> None:
        self._live.remove_sink(self.hear)
        super().close()


def png(picture: np.ndarray) -> bytes:
    """A picture, uint8 (h, w, 3) RGB, as PNG, packed fast rather than small."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()
