"""Live frames on stock MaixPy in the K210 emulator: the picture computed is the picture shown, and its age is known."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.firmware_py_mpy import compiled, installed, with_imports
from benchmarks.synthetic_kmodel import write_build
from common import rgb565
from common.arrays import Picture
from model_build.engines.kpu import KpuEngine
from sim.k210.devices.dvp import ACTIVE_PART
from sim.k210.k210_board import K210Board
from tests.support.images import firmware_image

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image]

FRAMES = 8
MOVING = """
import app, binascii
frames = []
def seen(a, poses, img):
    crc = 0
    for head in a.net._heads:
        crc = binascii.crc32(head, crc)
    frames.append((binascii.crc32(img.to_bytes()) & 0xFFFFFFFF, crc & 0xFFFFFFFF, a.latency_ms))
a = app.App(seen, {"threshold": 100, "double_buffer": %r, "overlay": False})
a.run(frames=%d)
_r = a.double_buffer, frames, a.latency_ms
"""


@dataclass
class MovingScene:
    """A camera that never shows the same picture twice, in colours that survive 5 and 6 bits, and when it read each."""

    board: K210Board
    taken: list[Picture] = field(default_factory=list)
    light_s: list[float] = field(default_factory=list)
    shown: list[Picture] = field(default_factory=list)
    shown_s: list[float] = field(default_factory=list)

    def now_s(self) -> float:
        return self.board.soc.now / self.board.soc.sysctl.cpu_hz

    def picture(self, width: int, height: int) -> Picture:
        levels = np.random.default_rng(len(self.taken)).integers(0, 32, (height, width, 3))
        picture: Picture = rgb565.FROM5[levels]
        picture[..., 1] = rgb565.FROM6[2 * levels[..., 1]]
        self.taken.append(picture)
        self.light_s.append(self.now_s() - ACTIVE_PART * self.board.soc.dvp._period_seconds())
        return picture

    def show(self, lcd: object) -> None:
        self.shown.append(self.board.lcd.image())
        self.shown_s.append(self.now_s())


@pytest.mark.parametrize("double", [True, False])
def test_what_is_computed_is_what_is_shown(tmp_path, double):
    """Heads, pixels and LCD of a frame must belong to one picture, and no picture may come twice.

    With two frame buffers the camera fills one while the program works on the other, so they are easily confused. The
    latency that the board reports is that picture's own, from light to LCD: never less, and at most a camera's period
    more, for which it waits for the picture to begin.
    """
    build = write_build(tmp_path / "build")
    kmodel = (build / "posenet.kmodel").read_bytes()
    board = K210Board(firmware_image().read_bytes())
    repl = installed(board, build, compiled(with_imports("app")))
    scene = MovingScene(board)
    assert board.camera is not None
    board.camera.source = scene.picture
    board.lcd.on_frame(scene.show)

    was_double, frames, last_ms = cast(tuple[bool, list[Any], int], repl.ask(MOVING % (double, FRAMES), timeout_s=60))
    assert was_double is double
    engine = KpuEngine(kmodel)
    crcs = [zlib.crc32(rgb565.to_memory(picture)) for picture in scene.taken]
    numbers = [crcs.index(pixels_crc) for pixels_crc, _, _ in frames]
    assert numbers == sorted(set(numbers)) and len(numbers) == FRAMES
    height, width = scene.taken[numbers[0]].shape[:2]
    top, left = (240 - height) // 2, (320 - width) // 2
    told_ms = [told for _, _, told in frames[1:]] + [last_ms]
    period_s = board.soc.dvp._period_seconds()
    for place, number in enumerate(numbers):
        picture = scene.taken[number]
        heads = engine.run(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        assert zlib.crc32(b"".join(head.tobytes() for head in heads)) == frames[place][1]
        at = place - FRAMES  # These are the newest on the LCD.
        assert np.array_equal(scene.shown[at][top : top + height, left : left + width], picture)
        if place:  # The camera ran before the first.
            true_s = scene.shown_s[at] - scene.light_s[number]
            assert -1e-3 < told_ms[place] / 1e3 - true_s < period_s + 5e-3, (place, told_ms[place], true_s)
