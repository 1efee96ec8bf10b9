"""What MaixPy's sensor drivers write into the chips' registers, as far as it affects the picture.

The chips are those of the K210 emulator, where MaixPy's own drivers write to them: tests/sim/test_camera_view.py checks
that both boards have the same registers and pictures. Framesizes are those that the module `sensor` knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sim.parts.camera_sensors import CAMERAS, Gc0328, Ov2640, Ov7740, SensorChip, Source

IDS = {"ov2640": 0x2642, "gc0328": 0x9D, "ov7740": 0x7742}
"""The number that sensor.get_id() returns."""


class Driver(ABC):
    """One chip and its functions; a new object is a chip after sensor.reset()."""

    def __init__(self, chip: SensorChip):
        self.chip = chip

    def write(self, *pairs: tuple[int, int]) -> None:
        """Write registers and their values, in turn."""
        for register, value in pairs:
            self.chip.sccb_write(register, value)

    @abstractmethod
    def set_framesize(self, width: int, height: int) -> None:
        """Do what sensor.set_framesize() does."""

    def set_windowing(  # noqa: B027  (not abstract)
        self, framesize: tuple[int, int], x: int, y: int, width: int, height: int
    ) -> None:
        """sensor.set_windowing(): most drivers do nothing, and only the DVP counts fewer pixels and lines."""

    @abstractmethod
    def set_hmirror(self, on: bool) -> None:
        """Do what sensor.set_hmirror() does."""

    @abstractmethod
    def set_vflip(self, on: bool) -> None:
        """Do what sensor.set_vflip() does."""

    def change(self, register: int, bits: int, on: bool) -> None:
        """Set or clear bits of a register."""
        value = self.chip.sccb_read(register)
        self.chip.sccb_write(register, value | bits if on else value & ~bits)


class Ov2640Driver(Driver):
    """omv/ov2640.c: SVGA, all of it, scaled to the framesize."""

    def set_framesize(self, width: int, height: int) -> None:
        self.write((Ov2640.BANK_SELECT, Ov2640.SENSOR), (Ov2640.COM7, 0x40), (Ov2640.BANK_SELECT, Ov2640.DSP))
        self.write((Ov2640.HSIZE, 800 // 4), (Ov2640.VSIZE, 600 // 4))
        self.write((Ov2640.XOFFL, 0), (Ov2640.YOFFL, 0), (Ov2640.VHYX, 0))
        self.write((Ov2640.ZMOW, width // 4), (Ov2640.ZMOH, height // 4), (Ov2640.ZMHH, 0))

    def set_hmirror(self, on: bool) -> None:
        self.write((Ov2640.BANK_SELECT, Ov2640.SENSOR))
        self.change(Ov2640.REG04, Ov2640.HFLIP, on)

    def set_vflip(self, on: bool) -> None:
        self.write((Ov2640.BANK_SELECT, Ov2640.SENSOR))
        self.change(Ov2640.REG04, Ov2640.VFLIP, on)


class Ov7740Driver(Driver):
    """omv/ov7740.c: the whole array scaled to VGA, QVGA or QQVGA, the smallest that holds the framesize."""

    def set_framesize(self, width: int, height: int) -> None:
        large, small = width > 320 or height > 240, width <= 160 and height <= 120
        divide = 1 if large else 4 if small else 2
        self.write((Ov7740.HOUTSIZE, 640 // 4 // divide), (Ov7740.VOUTSIZE, 480 // 2 // divide))

    def set_hmirror(self, on: bool) -> None:
        self.change(Ov7740.REG0C, Ov7740.MIRROR, on)

    def set_vflip(self, on: bool) -> None:
        self.change(Ov7740.REG0C, Ov7740.FLIP, on)


class Gc0328Driver(Driver):
    """omv/gc0328.c: subsampled and cropped; set_framesize() to QVGA does not change the crop."""

    def __init__(self, chip: SensorChip):
        super().__init__(chip)
        self.write((Gc0328.PAGE_SELECT, 0), (Gc0328.CROP_MODE, 1), (Gc0328.SUBSAMPLE, 0x22))
        self._crop(0, 0, 320, 240)

    def _crop(self, x: int, y: int, width: int, height: int) -> None:
        places = Gc0328.CROP_X, Gc0328.CROP_Y, Gc0328.CROP_WIDTH, Gc0328.CROP_HEIGHT
        for register, value in zip(places, (x, y, width, height), strict=True):
            self.write((register, value >> 8), (register + 1, value & 0xFF))

    def set_framesize(self, width: int, height: int) -> None:
        self.write((Gc0328.PAGE_SELECT, 0), (Gc0328.CROP_MODE, 1))
        if (width, height) == (160, 120):
            self.write((Gc0328.SUBSAMPLE, 0x44))
            self._crop(0, 0, width, height)
        elif width > 320 or height > 240:
            self.write((Gc0328.SUBSAMPLE, 0x11))
            self._crop(0, 0, 640, 480)
        else:
            self.write((Gc0328.SUBSAMPLE, 0x22))
            if (width, height) == (240, 240):
                self._crop(40, 0, width, height)

    def set_windowing(self, framesize: tuple[int, int], x: int, y: int, width: int, height: int) -> None:
        if framesize == (320, 240):
            self.write((Gc0328.PAGE_SELECT, 0))
            self._crop(x, y, width, height)

    def set_hmirror(self, on: bool) -> None:
        self.change(Gc0328.ORIENTATION, 1, on)

    def set_vflip(self, on: bool) -> None:
        self.change(Gc0328.ORIENTATION, 2, on)


DRIVERS: dict[str, type[Driver]] = {"ov2640": Ov2640Driver, "gc0328": Gc0328Driver, "ov7740": Ov7740Driver}


def reset(name: str, source: Source) -> Driver:
    """sensor.reset() with this chip on the board."""
    return DRIVERS[name](CAMERAS[name](source))
