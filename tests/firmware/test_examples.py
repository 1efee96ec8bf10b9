"""Each example program does on the simulated board what its first lines promise.

Scenes come from a script, and nothing inside the board is replaced except what the network sees, and the clock: it
counts pictures, so that a scene is as fast on any computer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scripted_network import devices, flash_dir, person
from benchmarks.showcase import run_until
from common.firmware_modules import FIRMWARE_DIR
from sim.boards.devices import Devices
from sim.boards.vm import MicroPythonVm

EXAMPLES = FIRMWARE_DIR / "examples"
PICTURE_MS = 50


def tilted(x: float, y: float, degrees: float):
    """A person turned about the hips; at 90 degrees the person lies on the floor."""
    angle = np.radians(degrees)
    turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    return person(0, 0) @ turn + (x, y)


def squatting(x: float, y: float):
    """A person whose hips are as low as the knees."""
    return person(
        x, y, 160, **{f"{side}_{joint}": (0, -0.22) for side in ("left", "right") for joint in ("knee", "ankle")}
    )


def run(tmp_path: Path, name: str, board: Devices, done: Callable[[str], bool], sd: bool = False) -> str:
    """Start the example as main.py and stop once `done(what it has said)`."""
    folder = flash_dir(tmp_path / "flash", main=(EXAMPLES / name).read_text())
    card = tmp_path / "sd"
    if sd:
        card.mkdir(exist_ok=True)
        for file in folder.iterdir():  # MaixPy starts main.py from the card if there is one.
            (card / file.name).write_bytes(file.read_bytes())
    with MicroPythonVm(folder, board, sd_dir=card if sd else None, picture_ms=PICTURE_MS) as vm:
        said = run_until(vm, done)
        assert done(said) and vm.poll() is None, said
    assert "Traceback" not in said, said
    return said


def test_raised_hands_switch_a_pin(tmp_path):
    """The pin must follow the hand up and down again, and do nothing else."""

    def scene(frame: int):
        up = {"left_wrist": (0.02, -0.55)} if 20 <= frame < 40 else {}
        return [person(160, 130, 160, **up)]

    board = devices(scene)
    run(tmp_path, "raised_hands.py", board, lambda said: "off" in said.split("pin 24 on")[-1] and "on" in said)
    assert [level for pin, level in board.pins.history if pin == 24] == [0, 1, 0]


def test_squats_are_counted(tmp_path):
    """One person makes three squats and the other none, since counts belong to people."""

    def scene(frame: int):
        down = frame % 30 >= 15 and frame < 90
        return [squatting(90, 130) if down else person(90, 130), person(240, 130)]

    said = run(tmp_path, "squat_counter.py", devices(scene), lambda said: "3 squats" in said)
    assert said.count("squats") == 3
    assert len({line.split(":")[0] for line in said.splitlines() if "squats" in line}) == 1


def test_fall_raises_the_alarm_over_uart_once(tmp_path):
    """A fall is reported once, and getting up is reported too. Somebody who only stands causes no alarm."""

    def scene(frame: int):
        """Stands for 20 frames, falls in 22 and lies, and gets up in 22 from frame 100 on."""
        return [tilted(160, 130, 4 * (min(max(frame - 20, 0), 22) - min(max(frame - 100, 0), 22)))]

    board = devices(scene)
    run(tmp_path, "fall_alarm.py", board, lambda said: '"up"' in said)
    lines = [json.loads(line) for line in board.uarts[0].collect().decode().splitlines()]
    assert [line["alarm"] for line in lines] == ["fall", "up"]
    assert lines[0]["person"] == lines[1]["person"]
    # The trunk is level (over 45 degrees) in frames 32 to 110. The alarm comes after a second of that.
    assert lines[1]["ms"] - lines[0]["ms"] == (111 - 32) * PICTURE_MS - 1000
    assert board.uarts[0].baudrate == 115200


def test_people_are_counted_by_zone(tmp_path):
    """One person walks from left to right and one stays. The counts change, and one crossing is reported."""

    def scene(frame: int):
        return [person(60 + min(max(frame - 20, 0), 100) * 1.4, 120), person(250, 130, height=140)]

    said = run(tmp_path, "people_counter.py", devices(scene), lambda said: "left>right" in said)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {"zones": {"left": 1, "right": 1}, "crossed": {}} in lines
    assert lines[-1] == {"zones": {"left": 0, "right": 2}, "crossed": {"left>right": 1}}


def test_poses_are_recorded_to_sd(tmp_path):
    """The CSV must have a header, one row per frame, and the coordinates of the scene."""
    board = devices(lambda frame: [person(160, 130)])
    card = tmp_path / "sd" / "poses000.csv"
    run(tmp_path, "record_csv.py", board, lambda said: card.exists() and card.read_text().count("\n") > 40, sd=True)
    header, *rows = card.read_text().splitlines()
    columns = header.split(",")
    assert columns[:7] == ["seq", "ms", "person", "score", "nose_x", "nose_y", "nose_score"] and len(columns) == 55
    values = dict(zip(columns, rows[5].split(","), strict=True))
    assert abs(int(values["leftAnkle_x"]) - (160 + 0.08 * 160)) <= 2
    sequence = [int(row.split(",")[0]) for row in rows]
    assert sequence == list(range(sequence[0], sequence[0] + len(rows)))


@pytest.mark.parametrize("room, words", [(None, "no SD card"), (2000, "SD card full")])
def test_recording_without_room_is_said(tmp_path, room, words):
    """Without a card, or with a full one, the program says so and continues."""
    board = devices(lambda frame: [person(160, 130)])
    board.sd_free_bytes = room
    run(tmp_path, "record_csv.py", board, lambda said: words in said and board.lcd.frames > 30, sd=room is not None)
