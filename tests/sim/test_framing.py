"""Parts of a picture as a sensor's window shows them: in the right place, and sharper than digital zoom."""

from __future__ import annotations

import numpy as np
import pytest

from common.arrays import Picture
from sim.framing import UNITS, Field


def chessboard(width: int, height: int, square_px: int) -> Picture:
    """uint8 (height, width, 3) with black and white squares."""
    y, x = np.mgrid[:height, :width]
    return np.repeat(((x // square_px + y // square_px) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def test_a_sensors_window_is_the_picture_itself() -> None:
    """In a field of 800x600 px, a view of 20 of 50 units is 320x240 pixels, each of which stays as it is."""
    picture = chessboard(800, 600, 5)
    view = Field(picture, 320, 240).frame((10, 15, 20))
    left, top = 10 * 800 // UNITS, 15 * 600 // UNITS
    np.testing.assert_array_equal(view, picture[top : top + 240, left : left + 320])


def test_the_whole_view_is_the_letterboxed_picture() -> None:
    """With the view wide open, framing must change nothing."""
    seen = Field(chessboard(640, 480, 8), 320, 240)
    np.testing.assert_array_equal(seen.frame((0, 0, UNITS)), seen.whole)


@pytest.mark.parametrize("digital", (False, True))
def test_a_mark_lies_where_the_view_says(digital: bool) -> None:
    """A white square of 20x20 px is in the middle of a field of 800x600, and the view is centred on it."""
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[290:310, 390:410] = 255
    view = Field(picture, 320, 240, digital).frame((15, 15, 20))
    rows, columns = np.nonzero(view[..., 0] > 127)
    assert abs(columns.mean() - 159.5) < 0.6 and abs(rows.mean() - 119.5) < 0.6
    assert abs(np.ptp(columns) - 19) <= 2


def test_digital_zoom_is_softer() -> None:
    """This is the reason to use the sensor's window: it shows detail that enlarging cannot."""
    picture = chessboard(800, 600, 4)
    sharp, soft = (Field(picture, 320, 240, digital).frame((15, 15, 20)).astype(int) for digital in (False, True))
    assert np.abs(np.diff(sharp[..., 0], axis=1)).mean() > 2 * np.abs(np.diff(soft[..., 0], axis=1)).mean()
