"""Coordinates of a camera on its side: the board and the host turn them alike, and back again."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.firmware_modules import firmware_module
from common.pictures import letterbox, turn
from tests.support.letterboxes import to_input

mount_module = firmware_module("mount")
WIDTH, HEIGHT = 320, 240


@pytest.mark.parametrize("mount", (0, 90, 180, 270))
def test_a_bright_pixel_is_found_again_where_it_was(mount: int) -> None:
    # The picture is turned as the camera sees it; the place of the bright pixel in the frame is turned back.
    upright = np.zeros((WIDTH, HEIGHT, 3) if mount % 180 else (HEIGHT, WIDTH, 3), np.uint8)
    upright[31, 77] = 255
    y, x = (int(v) for v in np.argwhere(turn(upright, mount)[..., 0])[0])
    data = array("i", [0, x << 8, y << 8, 9])
    mount_module.to_upright(data, mount, WIDTH, HEIGHT)
    assert list(data) == [0, 77 << 8, 31 << 8, 9]
    _, box = letterbox(upright, WIDTH, HEIGHT, mount)
    assert box.to_source(x, y) == (77, 31) and to_input(box, 77, 31) == (x, y)


@given(st.sampled_from((90, 180, 270)), st.lists(st.integers(-(1 << 20), 1 << 20), min_size=3, max_size=51))
def test_there_and_back_is_exact(mount: int, numbers: list[int]) -> None:
    numbers = [7, *numbers[: len(numbers) // 3 * 3]]
    frame, back = array("i", numbers), array("i", numbers)
    mount_module.to_upright(frame, mount, WIDTH, HEIGHT)
    mount_module.to_frame(frame, back, mount, WIDTH, HEIGHT)
    assert list(back) == numbers
