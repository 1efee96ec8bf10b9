"""Which part of the scene a program sees, by sensor and call.

The simulated board and MaixPy's own drivers on emulated chips must give the same picture, and it must be the part that
the register writes imply.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.firmware_py_mpy import compiled, with_imports
from common import rgb565
from common.arrays import Picture
from common.firmware_modules import FIRMWARE_DIR
from host_tools.repl import RawRepl
from sim.boards.devices import Devices
from sim.boards.vm import MicroPythonVm
from sim.k210.k210_board import K210Board
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_sensors import CAMERAS
from sim.parts.camera_source import FunctionCamera
from tests.support.images import firmware_image

SENSORS = ("ov2640", "ov7740", "gc0328")

LOOK = """
import sensor, binascii
def look(name):
    try:
        sensor.snapshot()
        img = sensor.snapshot()
    except RuntimeError as e:
        print(name, e)
        return
    w, h = img.width(), img.height()
    a, b = img.get_pixel(0, 0), img.get_pixel(w - 1, h - 1)
    print(name, w, h, a[0], a[1], b[0], b[1], binascii.crc32(img.to_bytes()) & 0xffffffff)
"""

STOCK = """
def start(size):
    sensor.reset()
    sensor.set_pixformat(sensor.RGB565)
    sensor.set_framesize(size)
    sensor.run(1)
start(sensor.QVGA)
look("qvga")
sensor.set_windowing((256, 192))
look("window")
sensor.set_windowing((8, 16, 224, 160))
look("placed")
sensor.set_hmirror(0)
sensor.set_vflip(1)
look("turned")
sensor.set_framesize(sensor.QVGA)
look("again")
start(sensor.QQVGA)
look("qqvga")
sensor.set_windowing((128, 96))
look("small")
"""

OURS = """
from posenet import start_camera
for w, h, field_w in ((256, 192, None), (224, 160, None), (128, 96, None), (256, 240, 320)):
    start_camera(w, h, field_w=field_w)
    look("%dx%d" % (w, h))
"""

PARTS = """
from maixpy_api import sensor_writer
from posenet import start_camera
from sensor_view import i2c_address, steps, view_registers
read = getattr(sensor, "__read_reg")
for w, h in ((320, 240), (256, 192)):
    start_camera(w, h)
    chip = sensor.get_id()
    units = steps(chip, w, h, w)[0]
    write = sensor_writer(i2c_address(chip))
    for name, size in (("whole", units), ("half", units // 2), ("back", units)):
        for register, value in view_registers(chip, w, h, (units - size, (units - size) // 2, size), units, w):
            write(register, value)
        assert read(register) == value  # MaixPy's own way to the sensor is still open
        look("%s%d" % (name, w))
"""

# Left, top, right and bottom of what is seen, as parts of the sensor's field (4:3).
WHOLE = (0, 0, 1, 1)
CORNER = {  # This is the corner of QVGA or QQVGA, whatever the window's place.
    "qqvga": WHOLE,
    "qvga": WHOLE,
    "window": (0, 0, 256 / 320, 192 / 240),
    "placed": (0, 0, 224 / 320, 160 / 240),
    "small": (0, 0, 128 / 160, 96 / 120),
}
MIDDLE = (0.1, 0.1, 0.9, 0.9)
HALVES = {
    "whole320": WHOLE, "half320": (0.5, 0.25, 1, 0.75), "back320": WHOLE,
    "whole256": WHOLE, "half256": (0.5, 0.25, 1, 0.75), "back256": WHOLE,
}  # fmt: skip
SEEN: dict[str, dict[str, Any]] = {
    "ov2640": CORNER | {"turned": (1, 1, 1 - 224 / 320, 1 - 160 / 240), "again": (1, 1, 0, 0),
                        "256x192": WHOLE, "224x160": (0, 0.5 - 572 / 1200, 1, 0.5 + 572 / 1200), "128x96": WHOLE,
                        "256x240": WHOLE}
    | HALVES | {"half320": (0.5, 0.24, 1, 0.74), "half256": (0.5, 0.24, 1, 0.74)},
    "ov7740": CORNER | {"turned": (0, 1, 224 / 320, 1 - 160 / 240), "again": (0, 1, 1, 0),
                        "256x192": WHOLE, "224x160": (0, 0, 1, 160 / 168), "128x96": WHOLE,
                        "256x240": (0, 0, 0.8, 1)}
    | HALVES,
    "gc0328": CORNER | {"window": (0.1, 0.1, 0.9, 0.9), "placed": (8 / 320, 16 / 240, 232 / 320, 176 / 240),
                        "turned": (8 / 320, 1 - 16 / 240, 232 / 320, 1 - 176 / 240), "again": "Sensor timeout!",
                        "256x192": MIDDLE, "224x160": (0.15, 1 / 6, 0.85, 5 / 6), "128x96": MIDDLE,
                        "256x240": (0.1, 0, 0.9, 1)}
    | HALVES | {"whole256": MIDDLE, "half256": (0.5, 0.3, 0.9, 0.7), "back256": MIDDLE},
}  # fmt: skip


def scene(width: int, height: int) -> Picture:
    """Red says how far to the right and green how far down a pixel is, in steps that survive 5 and 6 bits."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = rgb565.FROM5[np.arange(width) * 32 // width]
    picture[..., 1] = rgb565.FROM6[np.arange(height) * 64 // height][:, None]
    return picture


def simulated(folder: Path, sensor: str, program: str) -> list[str]:
    """The lines that the program prints on the simulated board."""
    for name in with_imports("posenet"):
        (folder / f"{name}.py").write_bytes((FIRMWARE_DIR / f"{name}.py").read_bytes())
    (folder / "main.py").write_text(LOOK + program)
    board = Devices(camera=FunctionCamera(lambda count, width, height: scene(width, height)), sensor=sensor)
    with MicroPythonVm(folder, board) as vm:
        said = vm.output()
        assert vm.poll() is not None, said
    return [line for line in said.splitlines()[1:] if not line.startswith("[MAIXPY]")]


def check(sensor: str, lines: list[str], names: tuple[str, ...]) -> None:
    """Check that the first and last pixel are those of the part that SEEN names."""
    assert [line.split()[0] for line in lines] == list(names), lines
    for line in lines:
        name, _, rest = line.partition(" ")
        wanted = SEEN[sensor][name]
        if isinstance(wanted, str):
            assert rest == wanted, line
            continue
        width, height, *corners, _ = map(int, rest.split())
        for index, (got, part) in enumerate(zip(corners, wanted, strict=True)):
            pixels, levels = ((width, 31), (height, 63))[index % 2]
            middle = (wanted[2 + index % 2] - wanted[index % 2]) / pixels / 2  # From a pixel's edge.
            expected = (part + (middle if index < 2 else -middle)) * (levels + 1) - 0.5
            assert abs(got * levels / 255 - expected) < 1, (line, index, expected)


STOCK_NAMES = ("qvga", "window", "placed", "turned", "again", "qqvga", "small")
OUR_NAMES = ("256x192", "224x160", "128x96", "256x240")
PART_NAMES = ("whole320", "half320", "back320", "whole256", "half256", "back256")


@pytest.mark.parametrize("sensor", SENSORS)
def test_maixpys_calls_show_the_right_part(tmp_path: Path, sensor: str) -> None:
    """Only the GC0328 has a window of its own, at QVGA, and keeps it for a QVGA that is set afterwards."""
    check(sensor, simulated(tmp_path, sensor, STOCK), STOCK_NAMES)


@pytest.mark.parametrize("sensor", SENSORS)
def test_the_firmware_shows_the_right_part(tmp_path: Path, sensor: str) -> None:
    """The whole scene is seen, scaled or squeezed, if the sensor can do that. The GC0328 shows the middle."""
    check(sensor, simulated(tmp_path, sensor, OURS), OUR_NAMES)


@pytest.mark.parametrize("sensor", SENSORS)
def test_framing_shows_the_right_part(tmp_path: Path, sensor: str) -> None:
    """Framing asks the sensors for half of the field at its right border, and for the whole field again."""
    check(sensor, simulated(tmp_path, sensor, PARTS), PART_NAMES)


@functools.cache
def booted() -> bytes:
    """A snapshot of stock MaixPy at its raw prompt, before anything has touched the camera."""
    board = K210Board(firmware_image().read_bytes())
    repl = RawRepl(BoardTransport(board))
    assert repl.enter_after_reset()
    return board.save()


@pytest.mark.slow
@pytest.mark.firmware_image
@pytest.mark.xdist_group("camera-view")
@pytest.mark.parametrize("sensor", SENSORS)
def test_maixpys_own_drivers_show_the_same(tmp_path: Path, sensor: str) -> None:
    """The same scripts on stock MaixPy with its own drivers must give the same pictures, in every pixel.

    For squeezed pictures only the part is compared. Scaling mixes colours that 5 and 6 bits cannot hold, and each board
    rounds these in its own way.
    """

    def comparable(lines: list[str]) -> list[str]:
        return [line.rpartition(" ")[0] if line.startswith("256x240") else line for line in lines]

    board = K210Board(camera=sensor, source=scene)
    camera = board.camera
    board.restore(booted())
    assert board.camera is camera
    repl = RawRepl(BoardTransport(board))
    assert repl.try_enter()
    for name, data in compiled(with_imports("posenet")).items():
        repl.write_file(name, data)
    for program, names in ((STOCK, STOCK_NAMES), (OURS, OUR_NAMES), (PARTS, PART_NAMES)):
        said = repl._execute(LOOK + program, 300).replace("\r\n", "\n").splitlines()
        lines = [line for line in said if line.split(" ")[0] in names]
        check(sensor, lines, names)
        assert comparable(lines) == comparable(simulated(tmp_path, sensor, program))


@pytest.mark.parametrize("name", SENSORS)
def test_before_any_driver_the_whole_field_comes(name: str) -> None:
    """After its reset a chip gives the whole scene and asks the host once for it, in the size that it sends."""
    asked: list[tuple[int, int]] = []

    def source(width: int, height: int) -> Picture:
        asked.append((width, height))
        return scene(width, height)

    picture = CAMERAS[name](source).capture()
    assert picture is not None and np.array_equal(picture, scene(*asked[0])) and len(asked) == 1
