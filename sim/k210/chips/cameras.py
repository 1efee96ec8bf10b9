"""Image sensors: identification, register files, mirror and flip; the picture itself comes from the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Picture = np.ndarray
Source = Callable[[int, int], Picture | None]  # (width, height) → uint8 (height, width, 3) RGB; None: no frame


def grey(width: int, height: int) -> Picture:
    """The picture when the host gives none."""
    return np.full((height, width, 3), 128, np.uint8)


class Camera:
    """A sensor with banked 8-bit registers."""

    host_side = ("source",)
    address = 0
    name = ""
    # Per 24 MHz of its input clock: a model inferred from reports (MaixPy's single-buffered snapshot loop runs at
    # 20 frames a second at 24 MHz and 10 at 12 MHz, and misses every other frame's start).
    frames_per_second = 40.0

    def __init__(self, source: Source = grey):
        self.source = source
        self.registers: dict[tuple[int, int], int] = {}
        self.bank = 0
        self.pointer = 0

    def capture(self, width: int, height: int) -> Picture | None:
        """A frame, mirrored and flipped as the registers say."""
        given = self.source(width, height)
        if given is None:
            return None
        picture = np.ascontiguousarray(given, np.uint8)
        if picture.shape != (height, width, 3):
            raise ValueError(f"the camera source gave {picture.shape}, wanted {(height, width, 3)}")
        mirror, flip = self.orientation()
        return picture[:: -1 if flip else 1, :: -1 if mirror else 1]

    def orientation(self) -> tuple[bool, bool]:
        """(mirrored, flipped) against a board that stands upright."""
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
        self.registers[self.bank, register] = value

    def sccb_read(self, register: int) -> int:
        return self.registers.get((self.bank, register), 0)


class Ov2640(Camera):
    """OmniVision OV2640: bank select at 0xFF (0 DSP, 1 sensor), ids in the sensor bank."""

    address = 0x30
    name = "ov2640"
    IDS = {0x0A: 0x26, 0x0B: 0x42, 0x1C: 0x7F, 0x1D: 0xA2}
    BANK_SELECT, REG04, COM7 = 0xFF, 0x04, 0x12
    HFLIP, VFLIP = 0x80, 0x40
    UPRIGHT = 0x80  # MaixPy's start-up value 0xA8: the mounting needs the mirror bit

    def sccb_write(self, register: int, value: int) -> None:
        if register == self.BANK_SELECT:
            self.bank = value & 1
        elif self.bank == 1 and register == self.COM7 and value & 0x80:
            self.registers.clear()
        else:
            super().sccb_write(register, value)

    def sccb_read(self, register: int) -> int:
        if register == self.BANK_SELECT:
            return self.bank
        # MaixPy identifies the chip before it selects a bank.
        return self.IDS.get(register, 0) or super().sccb_read(register)

    def orientation(self) -> tuple[bool, bool]:
        value = self.registers.get((1, self.REG04), self.UPRIGHT) ^ self.UPRIGHT
        return bool(value & self.HFLIP), bool(value & self.VFLIP)


class Gc0328(Camera):
    """GalaxyCore GC0328: page select at 0xFE, id 0x9D at 0xF0."""

    address = 0x21
    name = "gc0328"
    PAGE_SELECT, ID, ORIENTATION = 0xFE, 0xF0, 0x17

    def sccb_write(self, register: int, value: int) -> None:
        if register == self.PAGE_SELECT:
            self.bank = value & 7
        else:
            super().sccb_write(register, value)

    def sccb_read(self, register: int) -> int:
        if register == self.ID:
            return 0x9D
        return self.bank if register == self.PAGE_SELECT else super().sccb_read(register)

    def orientation(self) -> tuple[bool, bool]:
        start = 0x14
        value = self.registers.get((0, self.ORIENTATION), start) ^ start
        return bool(value & 1), bool(value & 2)


class Ov7740(Camera):
    """OmniVision OV7740: ids 0x77 0x42, no banks."""

    address = 0x21
    name = "ov7740"
    IDS = {0x0A: 0x77, 0x0B: 0x42, 0x1C: 0x7F, 0x1D: 0xA2}
    REG0C = 0x0C
    MIRROR, FLIP = 0x40, 0x80

    def sccb_read(self, register: int) -> int:
        return self.IDS.get(register, 0) or super().sccb_read(register)

    def orientation(self) -> tuple[bool, bool]:
        start = 0x12
        value = self.registers.get((0, self.REG0C), start) ^ start
        return bool(value & self.MIRROR), bool(value & self.FLIP)


CAMERAS: dict[str, type[Camera]] = {"ov2640": Ov2640, "gc0328": Gc0328, "ov7740": Ov7740}
