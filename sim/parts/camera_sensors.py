"""Image sensors: identification, register files, mirror and flip, and the part of the scene that they send in which
size.

The picture itself comes from the host. The registers that MaixPy's drivers write decide what a program sees of it; the
DVP after the sensor takes the top left of what the sensor sends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from common.arrays import Picture
from common.cli import near
from common.errors import UserError

Source = Callable[[int, int], Picture | None]  # (width, height) → uint8 (height, width, 3) RGB; None: no frame


def grey(width: int, height: int) -> Picture:
    """A grey picture, which is used if the host gives none."""
    return np.full((height, width, 3), 128, np.uint8)


class View(NamedTuple):
    """What a sensor sends: the part `width` x `height` at (x, y) of `field`, scaled to `size`."""

    field: tuple[int, int]
    x: int
    y: int
    width: int
    height: int
    size: tuple[int, int]


class SensorChip(ABC):
    """A sensor with banked 8-bit registers; AT_RESET holds the registers whose value after a reset is not 0.

    Writing SOFT_RESET to RESET (bank, register) resets all of them.
    """

    host_side = ("source", "honours_window")
    address = 0
    name = ""
    AT_RESET: dict[tuple[int, int], int] = {}
    RESET: tuple[int, int] | None = None
    SOFT_RESET = 0x80
    # Per 24 MHz of its input clock: a model inferred from reports (MaixPy's single-buffered snapshot loop runs at
    # 20 frames a second at 24 MHz and 10 at 12 MHz, and misses every other frame's start).
    frames_per_second = 40.0

    def __init__(self, source: Source = grey):
        self.source = source
        self.honours_window = True  # if not, the whole field is sent, see SiliconProfile.camera_window
        self.registers: dict[tuple[int, int], int] = {}
        self.bank = 0
        self.pointer = 0

    def capture(self) -> Picture | None:
        """The next frame as it leaves the sensor: mirrored and flipped, then cut and scaled as the registers say.

        The host is asked for the whole field at the output's scale, so that nothing is resampled here; if width and
        height are scaled differently, at the larger of the two scales.
        """
        field, x, y, width, height, (out_width, out_height) = self.view()
        if not (0 <= x < x + width <= field[0] and 0 <= y < y + height <= field[1] and out_width and out_height):
            return None
        if not self.honours_window:
            x, y, (width, height) = 0, 0, field
        scale = max(out_width / width, out_height / height)
        asked = round(field[0] * scale), round(field[1] * scale)
        given = self.source(*asked)
        if given is None:
            return None
        picture = np.ascontiguousarray(given, np.uint8)
        if picture.shape != (asked[1], asked[0], 3):
            raise ValueError(f"the camera source gave {picture.shape} instead of {(asked[1], asked[0], 3)}")
        mirror, flip = self.orientation()
        picture = picture[:: -1 if flip else 1, :: -1 if mirror else 1]
        # One pixel of difference comes from rounding; more means that width and height are scaled differently.
        part_width, part_height = (
            size if abs(part * scale - size) <= 1 else round(part * scale)
            for part, size in ((width, out_width), (height, out_height))
        )
        left = min(round(x * scale), asked[0] - part_width)
        top = min(round(y * scale), asked[1] - part_height)
        part: Picture = picture[top : top + part_height, left : left + part_width]
        if part.shape[:2] != (out_height, out_width):
            part = np.ascontiguousarray(part)
            part = cv2.resize(part, (out_width, out_height), interpolation=cv2.INTER_AREA).astype(np.uint8)
        return part

    @abstractmethod
    def view(self) -> View:
        """The view that the registers choose."""

    def orientation(self) -> tuple[bool, bool]:
        """(mirrored, flipped), relative to a board that stands upright."""
        return False, False

    def i2c_write(self, data: bytes) -> None:
        if data:
            self.pointer = data[0]
            for value in data[1:]:
                self.sccb_write(self.pointer, value)
                self.pointer = (self.pointer + 1) & 0xFF

    def i2c_read(self) -> int:
        return self.sccb_read(self.pointer)

    def sccb_write(self, register: int, value: int) -> None:
        if (self.bank, register) == self.RESET and value & self.SOFT_RESET:
            self.registers.clear()
        else:
            self.registers[self.bank, register] = value

    def sccb_read(self, register: int) -> int:
        return self.register(self.bank, register)

    def register(self, bank: int, register: int) -> int:
        """A register's value, independent of the selected bank."""
        return self.registers.get((bank, register), self.AT_RESET.get((bank, register), 0))

    def pair(self, register: int) -> int:
        """16 bits of bank 0: the upper eight at `register`, the lower ones after it."""
        return self.register(0, register) << 8 | self.register(0, register + 1)


class Ov2640(SensorChip):
    """OmniVision OV2640: bank select at 0xFF (0 DSP, 1 sensor), ids in the sensor bank.

    The DSP takes a window (HSIZE x VSIZE at XOFFL, YOFFL) of the array's mode (COM7: UXGA, SVGA or CIF) and scales it
    to OUTW x OUTH (ZMOW, ZMOH). MaixPy writes the whole of SVGA and OUTW x OUTH = framesize, and nothing for a
    window.
    """

    address = 0x30
    name = "ov2640"
    IDS = {0x0A: 0x26, 0x0B: 0x42, 0x1C: 0x7F, 0x1D: 0xA2}
    BANK_SELECT, DSP, SENSOR = 0xFF, 0, 1
    REG04, COM7 = 0x04, 0x12
    RESET = (SENSOR, COM7)
    HFLIP, VFLIP = 0x80, 0x40
    HSIZE, VSIZE, XOFFL, YOFFL, VHYX, TEST, ZMOW, ZMOH, ZMHH = 0x51, 0x52, 0x53, 0x54, 0x55, 0x57, 0x5A, 0x5B, 0x5C
    MODES = {0x40: (800, 600), 0x20: (400, 296)}  # COM7[6:4]; otherwise UXGA
    UPRIGHT = 0x80  # MaixPy's start-up value 0xA8: the mounting needs the mirror bit
    # The whole of SVGA, as MaixPy leaves it.
    AT_RESET = {(1, REG04): UPRIGHT, (1, COM7): 0x40, (0, HSIZE): 200, (0, VSIZE): 150, (0, ZMOW): 200, (0, ZMOH): 150}

    def sccb_write(self, register: int, value: int) -> None:
        if register == self.BANK_SELECT:
            self.bank = value & 1
        else:
            super().sccb_write(register, value)

    def sccb_read(self, register: int) -> int:
        if register == self.BANK_SELECT:
            return self.bank
        # MaixPy identifies the chip before it selects a bank.
        return self.IDS.get(register, 0) or super().sccb_read(register)

    def orientation(self) -> tuple[bool, bool]:
        value = self.register(self.SENSOR, self.REG04) ^ self.UPRIGHT
        return bool(value & self.HFLIP), bool(value & self.VFLIP)

    def view(self) -> View:
        hsize, vsize, xoffl, yoffl, vhyx, test, zmow, zmoh, zmhh = (
            self.register(self.DSP, register)
            for register in (
                self.HSIZE, self.VSIZE, self.XOFFL, self.YOFFL, self.VHYX, self.TEST, self.ZMOW, self.ZMOH, self.ZMHH,
            )
        )  # fmt: skip
        return View(
            field=self.MODES.get(self.register(self.SENSOR, self.COM7) & 0x70, (1600, 1200)),
            x=(vhyx & 7) << 8 | xoffl,
            y=(vhyx >> 4 & 7) << 8 | yoffl,
            width=4 * ((test & 0x80) << 2 | (vhyx & 8) << 5 | hsize),
            height=4 * ((vhyx & 0x80) << 1 | vsize),
            size=(4 * ((zmhh & 3) << 8 | zmow), 4 * ((zmhh & 4) << 6 | zmoh)),
        )


class _GalaxyCore(SensorChip):
    """GalaxyCore's sensors: page select at 0xFE, id at 0xF0; ARRAY is subsampled by whole numbers, then cropped."""

    PAGE_SELECT, ID, ORIENTATION = 0xFE, 0xF0, 0x17
    CHIP = b""
    ARRAY = (0, 0)
    CROP_MODE = CROP_Y = CROP_X = CROP_HEIGHT = CROP_WIDTH = SUBSAMPLE = 0
    UPRIGHT = 0

    def sccb_write(self, register: int, value: int) -> None:
        if register == self.PAGE_SELECT:
            self.bank = value & 7
            if value & self.SOFT_RESET:
                self.registers.clear()
        else:
            super().sccb_write(register, value)

    def sccb_read(self, register: int) -> int:
        if self.ID <= register < self.ID + len(self.CHIP):
            return self.CHIP[register - self.ID]
        return self.bank if register == self.PAGE_SELECT else super().sccb_read(register)

    def orientation(self) -> tuple[bool, bool]:
        value = self.register(0, self.ORIENTATION) ^ self.UPRIGHT
        return bool(value & 1), bool(value & 2)

    def array(self) -> tuple[int, int]:
        """The size that is subsampled."""
        return self.ARRAY

    def view(self) -> View:
        ratios, (width, height) = self.register(0, self.SUBSAMPLE), self.array()
        field = width // max(ratios & 15, 1), height // max(ratios >> 4, 1)
        if not self.register(0, self.CROP_MODE) & 1:
            return View(field, 0, 0, *field, size=field)
        width, height = self.pair(self.CROP_WIDTH), self.pair(self.CROP_HEIGHT)
        return View(field, self.pair(self.CROP_X), self.pair(self.CROP_Y), width, height, size=(width, height))


class Gc0328(_GalaxyCore):
    """GalaxyCore GC0328, VGA.

    MaixPy subsamples by 2 for QVGA and by 4 for QQVGA; the crop follows sensor.set_windowing(), at QVGA only.
    """

    address = 0x21
    name = "gc0328"
    CHIP = b"\x9d"
    ARRAY = (640, 480)
    CROP_MODE, CROP_Y, CROP_X, CROP_HEIGHT, CROP_WIDTH, SUBSAMPLE = 0x50, 0x51, 0x53, 0x55, 0x57, 0x59
    UPRIGHT = 0x14
    AT_RESET = {
        (0, _GalaxyCore.ORIENTATION): UPRIGHT, (0, SUBSAMPLE): 0x11,
        (0, CROP_HEIGHT): 1, (0, CROP_HEIGHT + 1): 0xE0, (0, CROP_WIDTH): 2, (0, CROP_WIDTH + 1): 0x80,
    }  # fmt: skip

    def view(self) -> View:
        # MaixPy 0.5.0 subsamples, switches the window on and leaves it at the whole of VGA.
        field, x, y, width, height, _ = super().view()
        width, height = min(width, field[0] - x), min(height, field[1] - y)
        return View(field, x, y, width, height, size=(width, height))


class Ov7740(SensorChip):
    """OmniVision OV7740: ids 0x77 0x42, no banks.

    A window of the VGA array (AHSIZE x AVSIZE at AHSTART, AVSTART) is scaled to HOUTSIZE x VOUTSIZE. MaixPy writes
    640x480, 320x240 or 160x120 there, the smallest that holds the framesize, and leaves the window at the whole array.
    Positions count from the place where MaixPy's start values let the whole array begin. The low bits in REG16 stay 0.
    """

    address = 0x21
    name = "ov7740"
    IDS = {0x0A: 0x77, 0x0B: 0x42, 0x1C: 0x7F, 0x1D: 0xA2}
    REG0C, REG12, HOUTSIZE, VOUTSIZE = 0x0C, 0x12, 0x31, 0x32
    AHSTART, AHSIZE, AVSTART, AVSIZE = 0x17, 0x18, 0x19, 0x1A
    FIRST_COLUMN, FIRST_ROW = 0x25, 0x03
    RESET = (0, REG12)
    MIRROR, FLIP = 0x40, 0x80
    UPRIGHT = 0x12
    AT_RESET = {
        (0, REG0C): UPRIGHT, (0, HOUTSIZE): 0xA0, (0, VOUTSIZE): 0xF0,
        (0, AHSTART): FIRST_COLUMN, (0, AHSIZE): 0xA0, (0, AVSTART): FIRST_ROW, (0, AVSIZE): 0xF0,
    }  # fmt: skip

    def sccb_read(self, register: int) -> int:
        return self.IDS.get(register, 0) or super().sccb_read(register)

    def orientation(self) -> tuple[bool, bool]:
        value = self.register(0, self.REG0C) ^ self.UPRIGHT
        return bool(value & self.MIRROR), bool(value & self.FLIP)

    def view(self) -> View:
        size = 4 * self.register(0, self.HOUTSIZE), 2 * self.register(0, self.VOUTSIZE)
        x, width = 4 * (self.register(0, self.AHSTART) - self.FIRST_COLUMN), 4 * self.register(0, self.AHSIZE)
        y, height = 2 * (self.register(0, self.AVSTART) - self.FIRST_ROW), 2 * self.register(0, self.AVSIZE)
        return View((640, 480), x, y, width, height, size)


class _WideRegisters(SensorChip):
    """OmniVision sensors with 16-bit register addresses; no banks."""

    address = 0x3C
    CHIP: tuple[int, int] = (0, 0)
    FIELD = (0, 0)
    ID, RESET = 0x300A, (0, 0x3008)
    OUT_WIDTH, OUT_HEIGHT, FLIP, MIRROR = 0x3808, 0x380A, 0x3820, 0x3821

    def i2c_write(self, data: bytes) -> None:
        # A single byte, which a program sends when it looks for a sensor with short addresses, is half an address.
        if data:
            self.pointer = data[0] << 8 | (data[1] if len(data) > 1 else 0)
        for value in data[2:]:
            self.sccb_write(self.pointer, value)
            self.pointer = self.pointer + 1 & 0xFFFF

    def sccb_read(self, register: int) -> int:
        if register in (self.ID, self.ID + 1):
            return self.CHIP[register - self.ID]
        return super().sccb_read(register)

    def view(self) -> View:
        return View(self.FIELD, 0, 0, *self.FIELD, size=(self.pair(self.OUT_WIDTH), self.pair(self.OUT_HEIGHT)))


class Ov5640(_WideRegisters):
    """OmniVision OV5640: the whole array is scaled to DVPHO x DVPVO, where MaixPy writes the framesize."""

    name = "ov5640"
    CHIP = (0x56, 0x40)
    FIELD = (2592, 1944)
    BITS = 0x06
    AT_RESET = {(0, 0x3808): 1, (0, 0x3809): 0x40, (0, 0x380B): 0xF0, (0, 0x3820): 0x46}

    def orientation(self) -> tuple[bool, bool]:
        # As MaixPy's set_hmirror() and set_vflip() use the bits: the picture is flipped if they are clear.
        return bool(self.register(0, self.MIRROR) & self.BITS), not self.register(0, self.FLIP) & self.BITS


class Ov3660(_WideRegisters):
    """OmniVision OV3660: the whole array is scaled to DVPHO x DVPVO. MaixPy writes 320x240 and never another size.

    Its set_hmirror() and set_vflip() do nothing.
    """

    name = "ov3660"
    CHIP = (0x36, 0x60)
    FIELD = (2048, 1536)
    AT_RESET = {(0, 0x3808): 1, (0, 0x3809): 0x40, (0, 0x380B): 0xF0}


class Gc2145(_GalaxyCore):
    """GalaxyCore GC2145, UXGA, which can be halved (0xFD) before it is subsampled.

    MaixPy's QVGA is the middle 320x240 of 400x300.
    """

    address = 0x3C
    name = "gc2145"
    CHIP = b"\x21\x45"
    ARRAY = (1600, 1200)
    HALVED, CROP_MODE, CROP_Y, CROP_X, CROP_HEIGHT, CROP_WIDTH, SUBSAMPLE = 0xFD, 0x90, 0x91, 0x93, 0x95, 0x97, 0x99
    AT_RESET = {(0, SUBSAMPLE): 0x11}

    def sccb_write(self, register: int, value: int) -> None:
        if register == self.HALVED:
            self.registers[0, register] = value  # Registers below 0xF0 are paged; this one and the ids are not.
        else:
            super().sccb_write(register, value)

    def array(self) -> tuple[int, int]:
        return (800, 600) if self.register(0, self.HALVED) & 1 else self.ARRAY


CAMERAS: dict[str, type[SensorChip]] = {kind.name: kind for kind in (Ov2640, Gc0328, Ov7740, Ov5640, Ov3660, Gc2145)}


def check_camera(name: str) -> None:
    """UserError unless a camera of that name is emulated."""
    if name not in CAMERAS:
        known = ", ".join(CAMERAS)
        raise UserError(f"camera {name!r} is not emulated{near(name, CAMERAS)}; emulated are {known}", exit_code=2)
