"""Live view of a simulated or emulated board on a local web page: LCD, console, figures, camera choice, buttons.

`PageBoard` is what the page needs of a board. The page polls; nothing is pushed and nothing needs building. Only this
machine is served, and only pages of this server may send commands.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from common.errors import UserError
from host_tools.flashing import poses_in
from host_tools.live_page import PAGE
from sim.boards.devices import Camera
from sim.boards.line_server import LiveBoard
from sim.parts.camera_source import open_camera, scene_sources

CONSOLE_CHARACTERS = 200_000


@dataclass
class Figures:
    """What the page's table says: texts, row by row; how often frames come, and in whose time."""

    heading: str
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    fps: float = 0.0
    fps_unit: str = "frames/s"
    notes: Sequence[str] = ()


class PageBoard(Protocol):
    """What the page needs of a board."""

    title: str

    @property
    def console_baud(self) -> int:
        """The console's rate."""

    def condition(self) -> dict[str, Any]:
        """State line: `mode` (words), `baud`, `resets`."""

    @property
    def lcd_frames(self) -> int:
        """Counts up whenever the LCD's picture is another."""

    def lcd_image(self) -> np.ndarray:
        """Uint8 (h, w, 3) RGB as a person in front of the board sees it."""

    def set_camera(self, camera: Camera) -> None:
        """Put another camera before the board."""

    def figures(self) -> Figures:
        """What a frame costs."""

    def close(self) -> None:
        """The page is closed."""


class WebView:
    """Serves the page on 127.0.0.1; port 0 takes a free one."""

    def __init__(self, live: LiveBoard, board: PageBoard, port: int = 0, source: str = "scene:7"):
        self.live = live
        self.board = board
        self.source = source
        self.console = ""
        self.console_start = 0
        self.poses: list[dict] = []
        self.pose_lines = 0
        self._rest = b""
        self._lock = threading.Lock()
        live.add_sink(self._heard)
        view = self

        class Handler(_Handler):
            web = view

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be opened ({error.strerror}); choose another: --web N") from None
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def _heard(self, data: bytes) -> None:
        with self._lock:
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._rest = self._rest[-10_000:]
            text = []
            for raw in lines:
                line = raw.decode("utf-8", "replace").rstrip("\r")
                poses = poses_in(line)
                if poses is None:
                    text.append(line + "\n")
                else:
                    self.poses = poses
                    self.pose_lines += 1
            # A prompt has no end of line; show it when the board waits.
            self.console += "".join(text)
            surplus = len(self.console) - CONSOLE_CHARACTERS
            if surplus > 0:
                self.console = self.console[surplus:]
                self.console_start += surplus

    def state(self, start: int) -> dict:
        """What the page shows; `start`: console characters it has."""
        with self._lock:
            text = self.console[max(start - self.console_start, 0) :]
            end = self.console_start + len(self.console)
            prompt = self._rest[-200:].decode("utf-8", "replace")
            poses, pose_lines = self.poses, self.pose_lines
        return {
            "title": self.board.title, **self.board.condition(), "lcd": self.board.lcd_frames,
            "figures": asdict(self.board.figures()), "console": text, "end": end, "prompt": prompt,
            "poses": poses, "pose_lines": pose_lines, "source": self.source, "sources": scene_sources(),
        }  # fmt: skip

    def choose(self, source: str) -> None:
        """Put another camera before the board; UserError when there is no such thing."""
        self.board.set_camera(open_camera(source, hold=10))
        self.source = source

    def type(self, text: str) -> None:
        """Send keys to the console."""
        self.live.set_baud(self.board.console_baud)
        self.live.send(text.encode())

    def lcd_png(self) -> bytes:
        """The LCD as it is."""
        file = io.BytesIO()
        Image.fromarray(self.board.lcd_image()).save(file, format="PNG", compress_level=1)
        return file.getvalue()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.live.remove_sink(self._heard)
        self.board.close()


class _Handler(BaseHTTPRequestHandler):
    web: WebView
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._is_local():
            return
        if url.path == "/":
            self._send(PAGE.read_bytes(), "text/html; charset=utf-8")
        elif url.path == "/lcd.png":
            self._send(self.web.lcd_png(), "image/png")
        elif url.path == "/state":
            start = parse_qs(url.query).get("from", ["0"])[0]
            state = self.web.state(int(start) if start.isdigit() else 0)
            self._send(json.dumps(state).encode(), "application/json")
        else:
            self._send(b"no such page\n", "text/plain", HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if not self._is_local():
            return
        # A header that a form of another site cannot set.
        if self.headers.get("X-Board") != "1":
            self._send(b"refused\n", "text/plain", HTTPStatus.FORBIDDEN)
            return
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal():
            # Where the body ends, and with it the next request begins, cannot be known.
            self.close_connection = True
            self._send(b"Content-Length is no number\n", "text/plain", HTTPStatus.BAD_REQUEST)
            return
        text = self.rfile.read(min(int(length), 65536)).decode("utf-8", "replace")
        try:
            if self.path == "/keys":
                self.web.type(text)
            elif self.path == "/camera":
                self.web.choose(text)
            elif self.path == "/reset":
                self.web.live.press_reset(boot=text == "boot")
            else:
                self._send(b"no such command\n", "text/plain", HTTPStatus.NOT_FOUND)
                return
        except UserError as error:
            self._send(str(error).encode(), "text/plain; charset=utf-8", HTTPStatus.BAD_REQUEST)
            return
        self._send(b"", "text/plain")

    def _is_local(self) -> bool:
        """Whether the page was asked for by this machine's own name (and not by one that points here)."""
        if self.headers.get("Host", "").rsplit(":", 1)[0] in ("127.0.0.1", "localhost"):
            return True
        self._send(b"refused\n", "text/plain", HTTPStatus.FORBIDDEN)
        return False

    def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
