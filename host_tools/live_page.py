"""The local web page of a board, real or simulated: its picture, poses, figures and words.

The page itself is live_page.html; it polls /state and /lcd.png. The simulated board serves it with everything that a
board's own side can know and do (sim/boards/web.py); here it only watches.
"""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from common.errors import UserError

PAGE = Path(__file__).resolve().parent / "live_page.html"
HUES = ("#00ff00", "#ffa000", "#00c8ff", "#ff3cc8", "#ffff00", "#7878ff")
"""Of the first, second, … person: those of firmware/screen.py."""
CONSOLE_CHARACTERS = 100_000


def _figures(counts: dict[str, Any]) -> dict[str, Any]:
    """Counters as the page's table."""
    return {
        "heading": "Counted", "columns": [], "rows": [[name, str(value)] for name, value in counts.items()],
        "fps": counts.get("fps", 0), "fps_unit": "frames/s", "notes": [],
    }  # fmt: skip


class LivePage:
    """Serves http://127.0.0.1:PORT/ in threads of its own; port 0 takes a free one. UserError when it is taken."""

    def __init__(self, title: str, edges: Sequence[tuple[int, int]], port: int = 0, baud: int = 0):
        self._lock = threading.Lock()
        self._edges = edges
        self._size = (320, 240)
        self._picture: bytes | None = None
        self._console = ""
        self._state: dict[str, Any] = {
            "title": title, "mode": "no line yet", "baud": baud, "lcd": 0, "poses": [], "watching": True,
            "sources": [], "source": "", "prompt": "", "figures": _figures({}),
        }  # fmt: skip
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
                    self.send_error(403)
                elif url.path == "/":
                    self._send("text/html; charset=utf-8", PAGE.read_bytes())
                elif url.path == "/lcd.png":
                    self._send("image/png", owner.picture_png())
                elif url.path == "/state":
                    start = parse_qs(url.query).get("from", ["0"])[0]
                    state = owner.state(int(start) if start.isdigit() else 0)
                    self._send("application/json", json.dumps(state).encode())
                else:
                    self.send_error(404)

            def _send(self, kind: str, data: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be opened ({error.strerror}); choose another: --web N") from None
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def show(
        self,
        size: tuple[int, int],
        poses: Sequence[dict[str, Any]],
        counts: dict[str, Any],
        picture: bytes | None = None,
    ) -> None:
        """A new frame; `picture` a PNG of `size`, None for skeletons on black. Keypoints as in firmware/lines.py."""
        with self._lock:
            self._size, self._picture = size, picture
            self._state |= {"mode": "live", "poses": list(poses), "figures": _figures(counts)}
            self._state["lcd"] += 1

    def say(self, line: str) -> None:
        """A line for the page's console."""
        with self._lock:
            self._console += line + "\n"

    def state(self, start: int) -> dict[str, Any]:
        """What the page shows; `start`: console characters that it has."""
        with self._lock:
            end = len(self._console)
            return {**self._state, "console": self._console[start:][-CONSOLE_CHARACTERS:], "end": end}

    def picture_png(self) -> bytes:
        """The newest picture with its skeletons, twice as large as the frame."""
        from PIL import Image, ImageDraw

        with self._lock:
            (width, height), source, poses = self._size, self._picture, self._state["poses"]
        image = Image.open(io.BytesIO(source)).convert("RGB") if source else Image.new("RGB", (width, height))
        image = image.resize((2 * width, 2 * height), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(image)
        for number, pose in enumerate(poses):
            hue = HUES[pose.get("id", number) % len(HUES)]
            points = pose["keypoints"]
            for i, j in self._edges:
                if max(i, j) < len(points) and min(points[i][2], points[j][2]) >= 25:
                    sure = min(points[i][2], points[j][2]) >= 50
                    ends = [(2 * x + 1, 2 * y + 1) for x, y, _ in (points[i], points[j])]
                    draw.line(ends, fill=hue, width=4 if sure else 1)
            for x, y, score in points:
                if score >= 50:
                    draw.ellipse((2 * x - 3, 2 * y - 3, 2 * x + 5, 2 * y + 5), fill="white")
        file = io.BytesIO()
        image.save(file, format="PNG", compress_level=1)
        return file.getvalue()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
