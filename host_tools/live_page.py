"""The live page of a board that is only watched: its poses and counters, and its picture if the link carries it."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from common.drawing import COLOURS, FAINT_PERCENT, SURE_PERCENT
from common.live_view import Figures, LiveView
from common.pictures import CAMERA_SIZE


class WatchedBoard:
    """A `common.live_view.PageBoard` that knows only a board's lines."""

    def __init__(self, title: str, edges: Sequence[tuple[int, int]], baud: int):
        self.title = title
        self._lock = threading.Lock()
        self._edges = edges
        self._baud = baud
        self._size = CAMERA_SIZE
        self._picture: bytes | None = None
        self._poses: Sequence[dict[str, Any]] = ()
        self._counts: dict[str, Any] = {}
        self._frames = 0

    def show(
        self, size: tuple[int, int], poses: Sequence[dict[str, Any]], counts: dict[str, Any], picture: bytes | None
    ) -> None:
        """Show a new frame."""
        with self._lock:
            self._size, self._picture, self._poses, self._counts = size, picture, poses, counts
            self._frames += 1

    def condition(self) -> dict[str, Any]:
        """The board's state for the page."""
        return {"mode": "live" if self._frames else "no line yet", "baud": self._baud}

    @property
    def lcd_frames(self) -> int:
        """The number of frames so far."""
        return self._frames

    def lcd_png(self) -> bytes:
        """The newest picture with its skeletons, twice as large as the frame."""
        with self._lock:
            (width, height), source, poses = self._size, self._picture, self._poses
        image = Image.open(io.BytesIO(source)).convert("RGB") if source else Image.new("RGB", (width, height))
        image = image.resize((2 * width, 2 * height), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(image)
        for number, pose in enumerate(poses):
            hue = COLOURS[pose.get("id", number) % len(COLOURS)]
            points = pose["keypoints"]
            for i, j in self._edges:
                if max(i, j) < len(points) and min(points[i][2], points[j][2]) >= FAINT_PERCENT:
                    sure = min(points[i][2], points[j][2]) >= SURE_PERCENT
                    ends = [(2 * x + 1, 2 * y + 1) for x, y, _ in (points[i], points[j])]
                    draw.line(ends, fill=hue, width=4 if sure else 1)
            for x, y, score in points:
                if score >= SURE_PERCENT:
                    draw.ellipse((2 * x - 3, 2 * y - 3, 2 * x + 5, 2 * y + 5), fill="white")
        file = io.BytesIO()
        image.save(file, format="PNG", compress_level=1)
        return file.getvalue()

    def figures(self) -> Figures:
        """The counters as the page's table."""
        with self._lock:
            counts = self._counts
        return Figures("Counted", [(name, str(value)) for name, value in counts.items()], fps=counts.get("fps", 0.0))

    def close(self) -> None:
        """Do nothing, since there is nothing to release."""


class LivePage(LiveView):
    """Serves the page in threads of its own; port 0 means any free port. UserError if the port is in use."""

    def __init__(self, title: str, edges: Sequence[tuple[int, int]], port: int = 0, baud: int = 0):
        self._watched = WatchedBoard(title, edges, baud)
        super().__init__(self._watched, port=port)

    def show(
        self,
        size: tuple[int, int],
        poses: Sequence[dict[str, Any]],
        counts: dict[str, Any],
        picture: bytes | None = None,
    ) -> None:
        """Show a new frame; `picture` is a PNG of `size`, None for skeletons on black. Keypoints are as in
        firmware/lines.py."""
        self._watched.show(size, poses, counts, picture)
        self.show_poses(poses)
