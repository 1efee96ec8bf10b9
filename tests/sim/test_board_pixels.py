"""Pixels as MaixPy stores and draws them, compared with the formulas, computed slowly and plainly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import rgb565
from sim.boards import imlib


def test_colour_tables_are_rounded_quotients():
    """They are exactly round(v·255/31) and so on. Bit replication would differ at 4 of 32 values of red."""
    for v in range(32):
        assert rgb565.FROM5[v] == int(v * 255 / 31 + 0.5)
    for v in range(64):
        assert rgb565.FROM6[v] == int(v * 255 / 63 + 0.5)
    for v in range(256):
        assert rgb565.TO5[v] == int(v * 31 / 255 + 0.5) and rgb565.TO6[v] == int(v * 63 / 255 + 0.5)
    five = np.arange(32)
    assert list(np.flatnonzero((five << 3 | five >> 2) - rgb565.FROM5)) == [3, 7, 24, 28]


def test_words_are_big_endian_in_memory():
    """Byte 0 is R5<<3 | G6>>3 and byte 1 is (G6&7)<<5 | B5, which is what a host must send."""
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 150, 200]]], dtype=np.uint8)
    raw = rgb565.pack(rgb).tobytes()
    assert raw[:6] == bytes((0xF8, 0x00, 0x07, 0xE0, 0x00, 0x1F))
    r, g, b = (int(v) for v in (rgb565.TO5[100], rgb565.TO6[150], rgb565.TO5[200]))
    assert raw[6:] == bytes((r << 3 | g >> 3, (g & 7) << 5 | b))
    assert rgb565.pack_color(100, 150, 200) == raw[6] | raw[7] << 8


def test_all_colours_survive_the_way_to_planes_and_back():
    """The tables for pix_to_ai and ai_to_pix must be inverse to each other for all 65,536 colours."""
    words = np.arange(65536, dtype="<u2").reshape(256, 256)
    assert (rgb565.from_planes(rgb565.to_planes(words)) == words).all()


def _plain_line(shape, x0, y0, x1, y1, thickness):
    """Bresenham's line point by point, with a disc around each point."""
    image = np.zeros(shape, dtype="<u2")
    low, high = -(thickness // 2), (thickness - 1) // 2
    dx, dy = abs(x1 - x0), abs(y1 - y0)
    sx, sy = (1 if x0 < x1 else -1), (1 if y0 < y1 else -1)
    err = (dx if dx > dy else -dy) / 2
    err = int(err)  # C truncates
    while True:
        for oy in range(low, high + 1):
            for ox in range(low, high + 1):
                if ox * ox + oy * oy <= low * low and 0 <= x0 + ox < shape[1] and 0 <= y0 + oy < shape[0]:
                    image[y0 + oy, x0 + ox] = 7
        if (x0, y0) == (x1, y1):
            return image
        before = err
        if before > -dx:
            err -= dy
            x0 += sx
        if before < dy:
            err += dx
            y0 += sy


@given(*[st.integers(-10, 50)] * 4, st.integers(1, 6))
def test_every_pixel_of_a_line_is_bresenhams(x0, y0, x1, y1, thickness):
    """Lines may lie partly outside, and diff compares the board's drawing pixel by pixel."""
    image = np.zeros((30, 40), dtype="<u2")
    imlib.draw_line(image, x0, y0, x1, y1, 7, thickness)
    assert (image == _plain_line((30, 40), x0, y0, x1, y1, thickness)).all()


def test_rectangles_and_circles_have_exact_edges():
    """Corners belong to the frame, a filled circle holds x² + y² ≤ r², and nothing is drawn outside."""
    image = np.zeros((20, 30), dtype="<u2")
    imlib.draw_rectangle(image, 5, 4, 10, 8, 9)
    inside = np.zeros_like(image, dtype=bool)
    inside[4:12, 5:15] = True
    inside[5:11, 6:14] = False
    assert ((image == 9) == inside).all()
    image[:] = 0
    imlib.draw_circle(image, 0, 0, 5, 9, fill=True)
    y, x = np.mgrid[0:20, 0:30]
    assert ((image == 9) == (x * x + y * y <= 25)).all()
    image[:] = 0
    imlib.draw_circle(image, 15, 10, 6, 9)
    distance = np.hypot(*(np.argwhere(image == 9) - (10, 15)).T)
    assert len(distance) >= 32 and np.abs(distance - 6).max() < 0.71


@pytest.mark.parametrize("size", [(160, 120), (100, 75), (320, 240), (13, 7)])
def test_shrinking_takes_the_nearest_pixel(size):
    """MaixPy's resize() to a smaller picture takes pixel int(x·w0/w)."""
    words = np.random.default_rng(1).integers(0, 65536, (240, 320)).astype("<u2")
    small = imlib.resize(words, *size)
    for y, x in ((0, 0), (size[1] - 1, size[0] - 1), (size[1] // 3, size[0] // 2)):
        assert small[y, x] == words[int(y * 240 / size[1]), int(x * 320 / size[0])]


def test_text_advances_and_wraps():
    """Proportional text is narrower than monospaced text, a line break begins a line below, and the colour is exact."""
    wide, narrow = np.zeros((2, 40, 200), dtype="<u2")
    imlib.draw_string(wide, 2, 2, "illi", 5, mono_space=True)
    imlib.draw_string(narrow, 2, 2, "illi", 5)
    assert np.argwhere(narrow)[:, 1].max() < np.argwhere(wide)[:, 1].max()
    assert set(np.unique(wide)) == {0, 5}
    image = np.zeros((40, 200), dtype="<u2")
    imlib.draw_string(image, 2, 2, "a\nb", 5)
    rows = np.flatnonzero(image.any(axis=1))
    assert rows.max() >= 2 + imlib.GLYPH_HEIGHT + 2
