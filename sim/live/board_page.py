"""The live page of a simulated or emulated board: its console and its buttons for `common.live_view`."""

from __future__ import annotations

from common.live_view import LiveView
from sim.live.line_server import LiveBoard
from sim.parts.camera_source import open_camera, scene_sources
from sim.parts.session import ControlledBoard


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
    """The page of `board`, which `live` runs, served as `common.live_view.LiveView` does."""

    def __init__(self, live: LiveBoard, board: ControlledBoard, port: int | None = 0, source: str = "scene:7"):
        super().__init__(board, _Controls(live, board, source), port)
        self._live = live
        live.add_sink(self.hear)

    def close(self) -> None:
        self._live.remove_sink(self.hear)
        super().close()
