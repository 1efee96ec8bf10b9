"""Frames on the simulated board: the picture that is computed is also shown and sent, and all figures agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scripted_network
from benchmarks.scripted_network import devices, flash_dir, person
from benchmarks.showcase import run_until
from common.arrays import Numbers, Picture
from common.pose_lines import LineCounters, parse_line
from sim.boards.devices import Lcd
from sim.boards.vm import MicroPythonVm
from sim.parts.camera_source import FunctionCamera

BITS = 8
BLOCK_PX = 8
NOSE = 0


def place(frame: int) -> Numbers:
    """The keypoints of the person in this frame; she is never at the same place in two neighbouring frames."""
    return person(60 + 7 * (frame % 28), 120, height=140)


def painted(frame: int, width: int, height: int) -> Picture:
    """The frame's number for the scripted network, and once more in black and white blocks, which survive the LCD."""
    image = scripted_network.picture(frame, width, height)
    for bit in range(BITS):
        image[-BLOCK_PX:, bit * BLOCK_PX : (bit + 1) * BLOCK_PX] = 255 * (frame >> bit & 1)
    return image


def read_number(lcd: Picture) -> int:
    """The number in the blocks."""
    half = BLOCK_PX // 2
    return sum(1 << bit for bit in range(BITS) if lcd[-half, bit * BLOCK_PX + half, 0] > 128)


@pytest.mark.parametrize("double", [True, False])
def test_the_picture_computed_is_shown_and_sent(tmp_path: Path, double: bool) -> None:
    """A skeleton must not lie on an earlier or later picture. The number painted into each frame tells which it is."""
    board = devices(lambda frame: [place(frame)])
    board.camera = FunctionCamera(painted)
    shown: list[tuple[int, bool]] = []

    def look(lcd: Lcd) -> None:
        picture = lcd.image()
        number = read_number(picture)
        white = np.argwhere((picture[: -2 * BLOCK_PX] == 255).all(axis=2))[:, ::-1]
        nose = len(white) > 0 and bool(np.abs(white - place(number)[NOSE]).max(axis=1).min() <= 1)
        shown.append((number, nose))

    board.lcd.on_frame(look)
    folder = flash_dir(tmp_path, track=False, overlay=False, repl=True, double_buffer=double)
    with MicroPythonVm(folder, board) as vm:
        said = run_until(vm, lambda said: said.count("seq") >= 30)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"seq"')][:25]
    first = next(index for index, (_, nose) in enumerate(shown) if nose)
    frames = shown[first : first + 25]
    assert len(frames) == 25 and all(nose for _, nose in frames)
    numbers = [number for number, _ in frames]
    assert len(set(numbers)) == 25
    for number, line in zip(numbers, lines, strict=True):
        x, y, _ = line["poses"][0]["keypoints"][NOSE]
        assert np.abs(np.array((x, y)) - place(number)[NOSE]).max() <= 1.5


def test_figures_are_the_same_on_lcd_line_and_monitor(tmp_path: Path) -> None:
    """The board's own figures must equal what the host counts from its lines."""
    main = (
        "from app import App\n"
        "def told(app, poses, img):\n"
        "    if app.frames % 10 == 0:\n"
        "        print('figures', app.frames, app.dropped, app.fps, app.latency_ms)\n"
        "App(told).run(frames=60)\n"
    )
    board = devices(lambda frame: [place(frame)], 160, 120)
    with MicroPythonVm(flash_dir(tmp_path, 160, 120, main=main, repl=True), board, picture_ms=50) as vm:
        # After the last newline there may be half a line.
        said = run_until(vm, lambda said: "figures 60" in said.rpartition("\n")[0])
    counters = LineCounters()
    compared = 0
    for text in said.splitlines():
        line = parse_line(text)
        if line is not None:
            counters.take(line)
            assert line.latency_ms is not None
        elif text.startswith("figures") and counters.frames > 1:
            _, frames, dropped, _, latency_ms = text.split()
            assert (counters.frames, counters.dropped) == (int(frames), int(dropped))
            assert counters.latency_ms == int(latency_ms) == 50
            compared += 1
    assert compared == 6


GARBAGE = """
import gc, app
a = app.App()
a._start()
for _ in range(5):
    a.step()
net = a.net
img = net.snapshot()
poses = net.poses(img)
gc.collect()
gc.disable()
def cost(work, *args):
    before = gc.mem_alloc()
    for _ in range(5):
        work(*args)
    return (gc.mem_alloc() - before) // 5
print("garbage", cost(net._decode, net._heads), cost(net.tracker.update, poses, 1000), cost(a.screen.canvas, img))
"""


@pytest.mark.parametrize("width", [320, 256])
def test_a_frame_leaves_little_garbage(tmp_path: Path, width: int) -> None:
    """Lists are filled again instead of made anew. The decoder alone once left 3,200 bytes per frame here."""
    board = devices(lambda frame: [place(frame)], width, 240)
    with MicroPythonVm(flash_dir(tmp_path, width, 240, main=GARBAGE), board) as vm:
        said = vm.output()
    decoder, tracker, canvas = (int(word) for word in said.split("garbage")[1].split()[:3])
    assert decoder <= 512 and tracker <= 256 and canvas <= 512, said


TIMES = """
import app, posenet
clock = [1000]
posenet.ticks_ms = lambda: clock[0]
a = app.App()
a._start()
told = []
update = a.net.tracker.update
def telling(poses, now_ms, *more):
    told.append(now_ms)
    update(poses, now_ms, *more)
a.net.tracker.update = telling
for work_ms in (50, 50, 200, 50, 60):
    a.step()
    clock[0] += work_ms
a.net.poses(a.net.snapshot())
print("times", told[1:], a.double_buffer)
"""


@pytest.mark.parametrize("double", [True, False])
def test_the_tracker_is_told_when_the_picture_was_taken(tmp_path: Path, double: bool) -> None:
    """With two buffers the picture after a slow frame was already taken before it.

    Somebody who walks evenly has walked further only in the picture after that one.
    """
    board = devices(lambda frame: [place(frame)])
    with MicroPythonVm(flash_dir(tmp_path, main=TIMES, double_buffer=double), board) as vm:
        said = vm.output()
    snapshots = [1000, 1050, 1100, 1300, 1350, 1410]
    assert f"times {snapshots[:-1] if double else snapshots[1:]} {double}" in said, said
