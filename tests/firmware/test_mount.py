"""Coordinates of a camera on its side: board and host turn them alike and back again."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scripted_network import devices, flash_dir
from common.arrays import Picture
from common.firmware_modules import firmware_module
from common.pictures import letterbox, turn
from sim.boards.vm import MicroPythonVm
from tests.support.letterboxes import to_input

mount_module = firmware_module("mount")
WIDTH, HEIGHT = 320, 240


@pytest.mark.parametrize("mount", (0, 90, 180, 270))
def test_a_bright_pixel_is_found_again_where_it_was(mount: int) -> None:
    """The camera sees the picture turned; the place of the bright pixel must be turned back."""
    upright = np.zeros((WIDTH, HEIGHT, 3) if mount % 180 else (HEIGHT, WIDTH, 3), np.uint8)
    upright[31, 77] = 255
    y, x = (int(v) for v in np.argwhere(turn(upright, mount)[..., 0])[0])
    data = array("i", [0, x << 8, y << 8, 9])
    mount_module.to_upright(data, mount, WIDTH, HEIGHT)
    assert list(data) == [0, 77 << 8, 31 << 8, 9]
    _, box = letterbox(upright, WIDTH, HEIGHT, mount)
    assert box.to_source(x, y) == (77, 31) and to_input(box, 77, 31) == (x, y)


@given(st.sampled_from((90, 180, 270)), st.lists(st.integers(-(1 << 20), 1 << 20), min_size=3, max_size=51))
def test_turning_there_and_back_is_exact(mount: int, numbers: list[int]) -> None:
    """Drawing uses coordinates of the frame, lines use upright ones, and neither may drift."""
    numbers = [7, *numbers[: len(numbers) // 3 * 3]]
    frame, back = array("i", numbers), array("i", numbers)
    mount_module.to_upright(frame, mount, WIDTH, HEIGHT)
    mount_module.to_frame(frame, back, mount, WIDTH, HEIGHT)
    assert list(back) == numbers


DRAWN = """
import image, lcd
from array import array
from drawing import UprightText, draw_poses
from mount import to_frame
from posenet import Pose
from turned_text import TurnedText
lcd.init()
pose = Pose(["nose", "leftWrist", "rightAnkle"], 9830)
pose.frame = array("i", pose.data)
pose.id = 7
pose.data[:] = array("i", [26000, 100 << 8, 3 << 8, 20000, 60 << 8, 60 << 8, 30000, 90 << 8, 200 << 8, 15000])
mount = %d
if mount:
    to_frame(pose.data, pose.frame, mount, 320, 240)
else:
    pose.frame[:] = pose.data
img = image.Image()
img.clear()
draw_poses(img, [pose], [], boxes=True, names=True, writer=TurnedText(mount) if mount else UprightText())
lcd.display(img)
print("shown")
"""


def drawn(folder: Path, mount: int) -> Picture:
    """The LCD with a person's box, number, score and names, as somebody sees it who sees the picture upright."""
    board = devices(lambda frame: [])
    with MicroPythonVm(flash_dir(folder / str(mount), main=DRAWN % mount), board) as vm:
        said = vm.output()
    assert "shown" in said, said
    return np.rot90(board.lcd.image(), -mount // 90)[:240, :240]


@pytest.mark.parametrize("mount", (90, 180, 270))
def test_names_and_boxes_are_upright_on_a_board_that_hangs_turned(tmp_path: Path, mount: int) -> None:
    """Every pixel must be as on an upright board, even where a label would lie beyond the upper border."""
    upright, turned = drawn(tmp_path, 0), drawn(tmp_path, mount)
    assert (upright[:12, 62:120] > 0).any() and (upright[195:205, 94:140] > 0).any()
    assert np.array_equal(upright, turned)
