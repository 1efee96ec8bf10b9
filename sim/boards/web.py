"""Live view of a simulated board: one local web page with LCD, console, stage times, camera choice and buttons.

The page polls; nothing is pushed and nothing needs building. Only this machine is served, and only pages of this
server may send commands.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from host_tools.errors import UserError
from host_tools.flashing import poses_in
from host_tools.live_page import PAGE
from sim.boards.camera_source import open_camera, scene_sources
from sim.boards.devices import Camera, KpuModelRunner, Picture
from sim.boards.line_server import LiveBoard
from sim.boards.session import Session

CONSOLE_CHARACTERS = 200_000
AVERAGED_FRAMES = 20


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
        """A frame is on the LCD: what passed since the KPU was decoding and drawing."""
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
        if len(shown) < 2 or time.perf_counter() - shown[-1] > 3:
            return 0.0
        return round((len(shown) - 1) / max(shown[-1] - shown[0], 1e-6), 1)


class TimedCamera:
    """A camera that can be exchanged while the board runs, with its time taken."""

    def __init__(self, camera: Camera | None, times: StageTimes):
        self.camera = camera
        self._times = times

    def frame(self, width: int, height: int) -> Picture | None:
        """As the camera's."""
        started = time.perf_counter()
        picture = self.camera.frame(width, height) if self.camera is not None else None
        self._times.add("camera", time.perf_counter() - started)
        return picture


class _TimedRunner:
    def __init__(self, runner: KpuModelRunner, times: StageTimes):
        self._runner = runner
        self._times = times

    def run(self, planes: np.ndarray) -> list[np.ndarray]:
        started = time.perf_counter()
        outputs = self._runner.run(planes)
        self._times.add("KPU (computed)", time.perf_counter() - started)
        self._times.kpu_done()
        return outputs


class WebView:
    """Serves the page on 127.0.0.1; port 0 takes a free one."""

    def __init__(self, live: LiveBoard, session: Session, port: int = 0, source: str = "scene"):
        self.live = live
        self.session = session
        self.source = source
        self.times = StageTimes()
        self.console = ""
        self.console_start = 0
        self.poses: list[dict] = []
        self.pose_lines = 0
        self._rest = b""
        self._lock = threading.Lock()
        devices = session.devices
        self.camera = TimedCamera(devices.camera, self.times)
        devices.camera = self.camera
        load_model = devices.load_model
        devices.load_model = lambda kmodel: _TimedRunner(load_model(kmodel), self.times)
        # Every frame is computed: a cache would show the KPU's time as nothing.
        devices.cache_kpu = False
        devices.lcd.on_frame(lambda lcd: self.times.frame_shown())
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
        lcd = self.session.devices.lcd
        with self._lock:
            text = self.console[max(start - self.console_start, 0) :]
            end = self.console_start + len(self.console)
            prompt = self._rest[-200:].decode("utf-8", "replace")
            poses, pose_lines = self.poses, self.pose_lines
        return {
            "mode": self.live.board.mode.value, "baud": self.live.board.baud, "resets": self.live.board.resets,
            "lcd": lcd.frames, "size": list(lcd.size), "fps": self.times.frames_per_second(),
            "stages": self.times.summary(), "console": text, "end": end, "prompt": prompt,
            "poses": poses, "pose_lines": pose_lines, "source": self.source, "sources": scene_sources(),
        }  # fmt: skip

    def choose(self, source: str) -> None:
        """Put another camera before the board; UserError when there is no such thing."""
        self.camera.camera = open_camera(source, hold=10)
        self.source = source

    def type(self, text: str) -> None:
        """Send keys to the console."""
        self.live.set_baud(self.live.board.baud)
        self.live.send(text.encode())

    def lcd_png(self) -> bytes:
        """The LCD as it is."""
        file = io.BytesIO()
        Image.fromarray(self.session.devices.lcd.image()).save(file, format="PNG", compress_level=1)
        return file.getvalue()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.live.remove_sink(self._heard)


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
        # A header that a form of another site cannot set.
        if not self._is_local() or self.headers.get("X-Board") != "1":
            self._send(b"refused\n", "text/plain", HTTPStatus.FORBIDDEN)
            return
        length = min(int(self.headers.get("Content-Length") or 0), 65536)
        text = self.rfile.read(length).decode("utf-8", "replace")
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
