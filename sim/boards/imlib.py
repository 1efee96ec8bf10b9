"""Draws as MaixPy does: lines, circles, text, resizing, on RGB565 words as in common/rgb565.py.

The integer rules are those of the firmware's OpenMV-derived image library (MaixPy-v1
components/micropython/port/src/omv, img/draw.c, py/py_image.c). Letters are replaced by those of Pillow's built-in
font: text has the same size as on the board, but its strokes differ.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common import rgb565
from common.arrays import Bytes, Numbers
from common.rgb565 import Words


def luma(words: Words) -> Bytes:
    """RGB565 to grey, uint8 (h, w); BT.601 weights in 1/256."""
    rgb = rgb565.unpack(words).astype(np.uint32)
    return np.asarray((rgb[..., 0] * 77 + rgb[..., 1] * 150 + rgb[..., 2] * 29) >> 8, np.uint8)


# Drawing. `image` is (h, w) of words or of grey bytes; `color` is stored as it is. Outside pixels are skipped.


MOST_POINTS = 1 << 20
MOST_THICKNESS = 128
"""Larger shapes, which would take a board minutes, are left out, so that a program cannot use up the host's memory."""
KEPT_POINTS = 4096
"""Shapes with more points are drawn, but not cached."""


@functools.lru_cache(maxsize=64)
def _disc(low: int, high: int) -> NDArray[np.int64]:
    """Offsets (n, 2) as y, x that point_fill of img/draw.c sets around its centre."""
    side = np.arange(low, high + 1, dtype=np.int64)
    y, x = np.meshgrid(side, side, indexing="ij")
    inside = x * x + y * y <= low * low
    return np.stack((y[inside], x[inside]), axis=1)


def _put(image: Numbers, yx: NDArray[np.int64], color: int) -> None:
    y, x = yx[:, 0], yx[:, 1]
    inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
    image[y[inside], x[inside]] = color


def _box(image: Numbers, x0: int, y0: int, x1: int, y1: int, color: int) -> None:
    """Fill x0 … x1, y0 … y1, both ends included."""
    if x1 >= 0 and y1 >= 0:
        image[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = color


@functools.lru_cache(maxsize=4096)
def _line(x1: int, y1: int, thickness: int) -> NDArray[np.int64]:
    """Points (n, 2) as y, x of a line from (0, 0), every one of them widened to a small disc."""
    x0 = y0 = 0
    dx, dy = abs(x1), abs(y1)
    step_x, step_y = (1 if x0 < x1 else -1), (1 if y0 < y1 else -1)
    error = dx // 2 if dx > dy else -(dy // 2)
    points = []
    while True:
        points.append((y0, x0))
        if x0 == x1 and y0 == y1:
            break
        before = error
        if before > -dx:
            error -= dy
            x0 += step_x
        if before < dy:
            error += dx
            y0 += step_y
    disc = _disc(-(thickness // 2), (thickness - 1) // 2)
    return (np.array(points, dtype=np.int64)[:, None, :] + disc[None]).reshape(-1, 2)


def draw_line(image: Numbers, x0: int, y0: int, x1: int, y1: int, color: int, thickness: int = 1) -> None:
    """Bresenham, each point widened to a small disc (imlib_draw_line)."""
    # A board would draw even an absurdly long line pixel by pixel; here it is left out.
    length = abs(x1 - x0) + abs(y1 - y0)
    if 0 < thickness <= MOST_THICKNESS and length <= 1 << 16 and length * thickness**2 <= MOST_POINTS:
        line = _line if length * thickness**2 <= KEPT_POINTS else _line.__wrapped__
        _put(image, line(x1 - x0, y1 - y0, thickness) + (y0, x0), color)


def draw_rectangle(
    image: Numbers, x: int, y: int, w: int, h: int, color: int, thickness: int = 1, fill: bool = False
) -> None:
    """Draw a rectangle as imlib_draw_rectangle does."""
    if fill:
        if w > 0 and h > 0:
            _box(image, x, y, x + w - 1, y + h - 1, color)
        return
    if thickness <= 0:
        return
    before, after = thickness // 2, (thickness - 1) // 2
    right, bottom = x + w - 1, y + h - 1
    if x - before < x + w + after:
        _box(image, x - before, y - before, x + w + after - 1, y + after, color)
        _box(image, x - before, bottom - before, x + w + after - 1, bottom + after, color)
    if y - before < y + h + after:
        _box(image, x - before, y - before, x + after, y + h + after - 1, color)
        _box(image, right - before, y - before, right + after, y + h + after - 1, color)


def draw_circle(image: Numbers, cx: int, cy: int, r: int, color: int, thickness: int = 1, fill: bool = False) -> None:
    """imlib_draw_circle: a disc, or the ring between two midpoint circles."""
    if fill:
        if 4 * r * r <= MOST_POINTS:
            disc = _disc if 4 * r * r <= KEPT_POINTS else _disc.__wrapped__
            _put(image, disc(-r, r) + np.array((cy, cx)), color)
        return
    if not 0 < thickness <= MOST_THICKNESS or r > 1 << 14:
        return
    outer = r + thickness // 2
    inner = inner_start = max(r - (thickness - 1) // 2, 0)
    y = 0
    error_outer, error_inner = 1 - outer, 1 - inner
    while outer >= y:
        for sign_y in (1, -1):
            _box(image, cx + inner, cy + sign_y * y, cx + outer, cy + sign_y * y, color)
            _box(image, cx - outer, cy + sign_y * y, cx - inner, cy + sign_y * y, color)
            _box(image, cx + sign_y * y, cy + inner, cx + sign_y * y, cy + outer, color)
            _box(image, cx + sign_y * y, cy - outer, cx + sign_y * y, cy - inner, color)
        y += 1
        if error_outer < 0:
            error_outer += 2 * y + 1
        else:
            outer -= 1
            error_outer += 2 * (y - outer + 1)
        if y > inner_start:
            inner = y
        elif error_inner < 0:
            error_inner += 2 * y + 1
        else:
            inner -= 1
            error_inner += 2 * (y - inner + 1)


def draw_cross(image: Numbers, x: int, y: int, color: int, size: int = 5, thickness: int = 1) -> None:
    """Two lines (py_image_draw_cross)."""
    draw_line(image, x - size, y, x + size, y, color, thickness)
    draw_line(image, x, y - size, x, y + size, color, thickness)


GLYPH_WIDTH, GLYPH_HEIGHT = 8, 10


@functools.lru_cache(maxsize=2)
def _glyphs(width: int, height: int) -> list[NDArray[np.bool_]]:
    """Letters ' ' … '~' as bool (height, width)."""
    font = ImageFont.load_default_imagefont()
    letters = []
    for code in range(32, 127):
        cell = Image.new("1", (width, height), 0)
        ImageDraw.Draw(cell).text((1, (height - 11) // 2), chr(code), fill=1, font=font)
        letters.append(np.array(cell, dtype=bool))
    return letters


def _round(value: float) -> int:
    """C's fast_roundf: half away from zero."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


def draw_string(
    image: Numbers,
    x: int,
    y: int,
    text: str,
    color: int,
    scale: float = 1.0,
    x_spacing: int = 0,
    y_spacing: int = 2,
    mono_space: bool = False,
) -> None:
    """imlib_draw_string: proportional unless mono_space; a new line begins below; unknown letters are boxes."""
    points = len(text) * scale**2 * GLYPH_WIDTH * GLYPH_HEIGHT
    if scale > 0 and points <= MOST_POINTS:
        shape = _text if points <= 4 * KEPT_POINTS else _text.__wrapped__
        _put(image, shape(text, scale, x_spacing, y_spacing, mono_space) + (y, x), color)


@functools.lru_cache(maxsize=256)
def _text(text: str, scale: float, x_spacing: int, y_spacing: int, mono_space: bool) -> NDArray[np.int64]:
    """Points (n, 2) as y, x that a text at (0, 0) sets."""
    points = [np.zeros((0, 2), dtype=np.int64)]
    x = y = 0
    last = ""
    for letter in text:
        if last == "\r" and letter == "\n":
            last = letter
            continue
        last = letter
        if letter in "\r\n":
            x = 0
            y += _round(GLYPH_HEIGHT * scale) + y_spacing
            continue
        if not " " <= letter <= "~":
            inset = _round(scale * 3) // 2
            w, h = _round(GLYPH_WIDTH * scale), _round(GLYPH_HEIGHT * scale)
            box = np.zeros((h + 2, w + 2), dtype=np.uint16)
            draw_rectangle(box, inset, inset, w - 2 * inset, h - 2 * inset, 1, _round(scale))
            points.append(np.argwhere(box) + (y, x))
            continue
        glyph = _glyphs(GLYPH_WIDTH, GLYPH_HEIGHT)[ord(letter) - 32]
        columns = np.flatnonzero(glyph.any(axis=0))
        if not mono_space and columns.size:
            x -= _round(int(columns[0]) * scale)
        rows = [min(_round(i / scale), GLYPH_HEIGHT - 1) for i in range(_round(GLYPH_HEIGHT * scale))]
        cols = [min(_round(i / scale), GLYPH_WIDTH - 1) for i in range(_round(GLYPH_WIDTH * scale))]
        points.append(np.argwhere(glyph[rows][:, cols]) + (y, x))
        if mono_space:
            x += _round(GLYPH_WIDTH * scale) + x_spacing
        elif columns.size:
            x += _round((int(columns[-1]) + 2) * scale) + x_spacing
        else:
            x += _round(scale * 3)
    return np.concatenate(points)


def draw_lcd_string(screen: Words, x: int, y: int, text: str, color: int, background: int) -> None:
    """lcd.draw_string: cells of 8×12 on a background, cut at the screen's right edge."""
    height, width = screen.shape
    for letter in text:
        if x + 8 > width or x < 0:
            break
        glyph = _glyphs(8, 12)[(ord(letter) if " " <= letter <= "~" else ord("?")) - 32]
        cell = np.where(glyph, np.uint16(color), np.uint16(background))
        if y >= 0:
            screen[y : y + 12, x : x + 8] = cell[: max(height - y, 0)]
        x += 8


def resize(words: Words, width: int, height: int) -> Words:
    """img.resize(): an equal size copies; shrinking takes the nearest pixel, x0 = x·w0/w; enlarging is bilinear in
    5/6/5 space.

    (py_image.c, py_image_resize.) The firmware's unusual weights at the top and left border when it enlarges are not
    reproduced: here the border pixel is repeated.
    """
    h0, w0 = words.shape
    if (w0, h0) == (width, height):
        return words.copy()
    if w0 >= width or h0 > height:
        ys = (np.arange(height) * h0 / height).astype(np.int64)
        xs = (np.arange(width) * w0 / width).astype(np.int64)
        return words[ys][:, xs]
    value = words.byteswap().astype(np.int64)
    channels = np.stack(rgb565.split(value), axis=-1).astype(np.float32)
    fy = np.clip((np.arange(height) + 0.5) * h0 / height - 0.5, 0, h0 - 1)
    fx = np.clip((np.arange(width) + 0.5) * w0 / width - 0.5, 0, w0 - 1)
    y0, x0 = fy.astype(np.int64), fx.astype(np.int64)
    y1, x1 = np.minimum(y0 + 1, h0 - 1), np.minimum(x0 + 1, w0 - 1)
    ty = (fy - y0).astype(np.float32)[:, None, None]
    tx = (fx - x0).astype(np.float32)[None, :, None]
    top = channels[y0][:, x0] * (1 - tx) + channels[y0][:, x1] * tx
    bottom = channels[y1][:, x0] * (1 - tx) + channels[y1][:, x1] * tx
    mixed = (top * (1 - ty) + bottom * ty).astype(np.uint16)
    return rgb565.join(mixed[..., 0], mixed[..., 1], mixed[..., 2]).astype("<u2").byteswap()
