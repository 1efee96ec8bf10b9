"""The sensor's view follows a person on the simulated board, and nobody jumps in the field when it changes."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np

from benchmarks.scripted_network import devices, flash_dir, heads, person
from benchmarks.showcase import run_until
from common.arrays import Numbers, Picture
from sim.boards.vm import MicroPythonVm
from sim.parts.camera_source import FunctionCamera

FIELD_W, FIELD_H = 320, 240
WALK_PX = 2
"""The distance that the person walks from frame to frame, in pixels of the field."""


class SeeingNetwork:
    """A network that finds a person wherever the camera's picture shows a white bar, as high as the bar."""

    def __init__(self) -> None:
        self.heights_px: list[int] = []

    def run(self, planes: Numbers) -> list[Numbers]:
        count, _, boxes, middles = cv2.connectedComponentsWithStats((planes[0] > 200).astype(np.uint8))
        self.heights_px += [int(box[cv2.CC_STAT_HEIGHT]) for box in boxes[1:]]
        people = [person(middles[i][0], middles[i][1], boxes[i][cv2.CC_STAT_HEIGHT]) for i in range(1, count)]
        return heads(people, FIELD_W, FIELD_H)


def field(count: int, width: int, height: int) -> Picture:
    """A dark field of any size with a bar a quarter as high, which walks to the right after 30 frames."""
    picture = np.full((height, width, 3), 40, np.uint8)
    scale = width / FIELD_W
    x = (80 + WALK_PX * max(count - 30, 0)) * scale
    tall = round(60 * scale)
    top = round(90 * scale)
    picture[top : top + tall, round(x - 4 * scale) : round(x + 4 * scale)] = 255
    return picture


def test_the_view_follows_and_nobody_jumps(tmp_path):
    """The same person must be seen larger and at the same place of the field when the view changes."""
    board = devices(lambda frame: [])
    network = SeeingNetwork()
    board.load_model = lambda data: network
    board.camera = FunctionCamera(field)
    with MicroPythonVm(flash_dir(tmp_path, framing="auto", repl=True, smooth=False), board) as vm:
        text = run_until(vm, lambda said: said.count("seq") >= 90)
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"seq"')][:85]
    noses = [line["poses"][0]["keypoints"][0] for line in lines if line["poses"]]
    assert len(noses) > 75
    # In the close view she is two and a half times as high as in the whole field.
    assert min(network.heights_px) < 65 and max(network.heights_px) > 140
    steps = np.abs(np.diff([x for x, _, _ in noses]))
    # A change of view skips a picture, which is one more step of the walk; 3 px more would be a jump.
    assert steps.max() <= 2 * WALK_PX + 3


def two_people(count: int, width: int, height: int) -> Picture:
    """The same walker, but slower, and somebody who stands on the other side."""
    picture = field(30 + count // 8, width, height)
    scale = width / FIELD_W
    top, tall = round(120 * scale), round(60 * scale)
    picture[top : top + tall, round(276 * scale) : round(284 * scale)] = 255
    return picture


def test_people_are_looked_at_one_by_one(tmp_path):
    """Each is seen closely in turn, both are in every line, and nobody changes number or jumps."""
    board = devices(lambda frame: [])
    network = SeeingNetwork()
    board.load_model = lambda data: network
    board.camera = FunctionCamera(two_people)
    with MicroPythonVm(flash_dir(tmp_path, framing="each", repl=True), board, picture_ms=50) as vm:
        text = run_until(vm, lambda said: said.count("seq") >= 90)
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"seq"')][8:85]
    places: dict[int, list[Any]] = {1: [], 2: []}
    for line in lines:
        assert sorted(pose["id"] for pose in line["poses"]) == [1, 2], line
        for pose in line["poses"]:
            places[pose["id"]].append(pose["keypoints"][0][0])
    assert max(network.heights_px) > 140 and len(network.heights_px) < 1.5 * len(lines)
    stands, walks = sorted(places.values(), key=np.ptp)
    assert np.ptp(stands) <= 3
    # She walks a quarter of a pixel per picture and is seen every second or third time.
    assert walks[-1] > walks[0] + 10 and np.abs(np.diff(walks)).max() <= 3


WRITES = """
import sensor
from posenet import PoseNet
net = PoseNet()
net.setup_camera(framing="auto")
write = getattr(sensor, "__write_reg")
read = getattr(sensor, "__read_reg")
for view in ((10, 12, 25), (11, 12, 25), (0, 0, 50)):
    written = []
    net._write = lambda register, value: (written.append(register), write(register, value))
    net._show(view)
    held = [read(register) for register in range(0x51, 0x5D)]
    net._write = write
    net._written = ()
    net._show(view)
    print("wrote", len(written), held == [read(register) for register in range(0x51, 0x5D)])
"""


def test_only_registers_that_change_are_written(tmp_path):
    """MaixPy takes 10 ms for each write, so 13 of them would cost two frames. Unchanged registers are left out."""
    with MicroPythonVm(flash_dir(tmp_path, main=WRITES), devices(lambda frame: [])) as vm:
        said = vm.output()
    assert [line.split()[1:] for line in said.splitlines() if line.startswith("wrote")] == [
        ["9", "True"], ["6", "True"], ["9", "True"],
    ], said  # fmt: skip
