"""MaixPy's Image on the host, as far as the firmware uses it: RGB565 memory and the drawing rules of imlib."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.firmware_modules import firmware_module
from sim.boards import imlib

Color = Sequence[int] | int


class BoardImage:
    """RGB565 memory of a picture, `width` × `height`; the draw methods are MaixPy's (positional coordinates)."""

    def __init__(self, pixels: bytes, width: int, height: int):
        self.words = np.frombuffer(pixels, "<u2").reshape(height, width).copy()

    def to_bytes(self) -> bytes:
        """The picture's memory as on the board."""
        return self.words.tobytes()

    def draw_line(self, x0: int, y0: int, x1: int, y1: int, color: Color = -1, thickness: int = 1) -> None:
        imlib.draw_line(self.words, x0, y0, x1, y1, _word(color), thickness)

    def draw_circle(self, x: int, y: int, r: int, color: Color = -1, thickness: int = 1, fill: bool = False) -> None:
        imlib.draw_circle(self.words, x, y, r, _word(color), thickness, fill)

    def draw_rectangle(
        self, x: int, y: int, w: int, h: int, color: Color = -1, thickness: int = 1, fill: bool = False
    ) -> None:
        imlib.draw_rectangle(self.words, x, y, w, h, _word(color), thickness, fill)


def _word(color: Color) -> int:
    return color & 0xFFFF if isinstance(color, int) else rgb565.pack_color(*color)


def draw_poses(
    pixels: bytes, width: int, height: int, poses: NDArray[np.int32], edges: Sequence[Sequence[int]], threshold_q15: int
) -> bytes:
    """RGB565 memory after firmware/drawing.py has drawn the decoder's poses (n, 1 + 3·keypoints) into it."""
    image = BoardImage(pixels, width, height)
    found = [
        SimpleNamespace(frame=[int(v) for v in pose], threshold_q15=threshold_q15, id=number)
        for number, pose in enumerate(poses, 1)
    ]
    firmware_module("drawing").draw_poses(image, found, edges)
    return image.to_bytes()
