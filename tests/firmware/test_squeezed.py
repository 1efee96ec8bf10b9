"""A network of 256x240 sees the whole 4:3 field squeezed. Numbers, lines and LCD must show people unsqueezed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scripted_network import devices, flash_dir, person
from benchmarks.showcase import LCDS, run_until
from common.arrays import Numbers
from sim.boards.vm import MicroPythonVm

WIDENING = (1.25, 1)
WRIST = 9


def run(folder: Path, sensor: str, points: Numbers, **settings: object) -> tuple[list[list[int]], Numbers]:
    """The keypoints of the newest line, and the LCD, of a board whose network sees `points` in its input."""
    board = devices(lambda frame: [points], 256, 240)
    board.sensor = sensor
    settings = {"overlay": False, "repl": True, "double_buffer": False, **settings}
    with MicroPythonVm(flash_dir(folder, 256, 240, None, **settings), board) as vm:
        said = run_until(vm, lambda said: said.count("seq") >= 4)
    line = json.loads([line for line in said.splitlines() if line.startswith('{"seq"')][2])
    return line["poses"][0]["keypoints"], board.lcd.image()


def dot_at(lcd: Numbers, x: float, y: float) -> bool:
    """Whether a keypoint's white dot is there, to within a pixel."""
    white = np.argwhere((lcd == 255).all(axis=2))[:, ::-1]
    return bool(np.abs(white - (x, y)).max(axis=1).min() <= 1)


def test_people_are_neither_narrow_nor_wide(tmp_path: Path) -> None:
    """Lines are in pixels of 320x240, and the LCD shows the middle of the field as 256x192."""
    in_field = person(200, 130)
    keypoints, lcd = run(tmp_path, "ov2640", in_field / WIDENING)
    assert np.abs(np.array(keypoints)[:, :2] - in_field).max() <= 1.5
    x, y = in_field[WRIST]
    assert dot_at(lcd, 32 + 0.8 * x, 24 + 0.8 * y)
    dots = np.argwhere((lcd == 255).all(axis=2))
    assert dots[:, 0].min() >= 24 and dots[:, 0].max() < 216


def test_a_sensor_that_cannot_squeeze_shows_its_middle(tmp_path: Path) -> None:
    """The GC0328 gives 256x240 without squeezing, so coordinates and LCD are those of the picture."""
    in_picture = person(120, 130)
    keypoints, lcd = run(tmp_path, "gc0328", in_picture)
    assert np.abs(np.array(keypoints)[:, :2] - in_picture).max() <= 1.5
    x, y = in_picture[WRIST]
    assert dot_at(lcd, 32 + x, y)


@pytest.mark.parametrize("fit", ["scale", "crop"])
def test_people_are_not_squeezed_on_a_small_lcd(tmp_path: Path, fit: str) -> None:
    """Scaled down, the whole field is 180x135; cropped, the middle of 256x192 is shown."""
    board = devices(lambda frame: [person(160, 120, 130) / WIDENING], 256, 240, lcd=LCDS["m5stickv"]())
    folder = flash_dir(tmp_path, 256, 240, board="m5stickv", fit=fit, overlay=False)
    with MicroPythonVm(folder, board) as vm:
        run_until(vm, lambda _: board.lcd.frames >= 4)
    x, y = person(160, 120, 130)[WRIST]
    if fit == "scale":
        assert dot_at(board.lcd.image(), 30 + x * 180 / 320, y * 135 / 240)
    else:
        assert dot_at(board.lcd.image(), 0.8 * x - 8, 0.8 * y - 28)


def test_the_view_follows_in_field_coordinates(tmp_path: Path) -> None:
    """With framing the person must stay at the same place of the field when the view closes in."""
    in_field = person(160, 120, height=60)
    keypoints, _ = run(tmp_path, "ov2640", in_field / WIDENING, framing="auto")
    assert np.abs(np.array(keypoints)[:, :2] - in_field).max() <= 1.5


@pytest.mark.parametrize("mount", [90, 180])
def test_a_turned_camera_is_squeezed_across_the_frame(tmp_path: Path, mount: int) -> None:
    """The frame's width is squeezed, whatever the mount makes of it in the upright picture."""
    in_frame = person(160, 120, height=150)
    board = devices(lambda frame: [in_frame / WIDENING], 256, 240)
    folder = flash_dir(tmp_path, 256, 240, overlay=False, repl=True, double_buffer=False)
    manifest = json.loads((folder / "posenet.json").read_text())
    (folder / "posenet.json").write_text(json.dumps({**manifest, "mount": mount}))
    with MicroPythonVm(folder, board) as vm:
        said = run_until(vm, lambda said: said.count("seq") >= 4)
    line = json.loads([line for line in said.splitlines() if line.startswith('{"seq"')][2])
    x, y = in_frame.T
    upright = np.stack((239 - y, x) if mount == 90 else (319 - x, 239 - y), axis=1)
    assert np.abs(np.array(line["poses"][0]["keypoints"])[:, :2] - upright).max() <= 1.5
    wrist = in_frame[WRIST]
    assert dot_at(board.lcd.image(), 32 + 0.8 * wrist[0], 24 + 0.8 * wrist[1])
