"""DVP: camera input, and the SCCB (I2C-like) master inside it.

Frames come at the camera's rate. A frame that the program enabled by DVP_EN when it began is written to the
display plane (RGB565) and the AI planes (R, G, B bytes) at its end. DVP_CFG counts the first
HREF_BURST_NUM bursts of every line and the first LINE_NUM lines of every frame. So the top left of a larger picture is
written; a picture that is too small never ends (what silicon does is not known).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from common import rgb565
from common.arrays import Bytes
from sim.k210.device import Device
from sim.k210.devices import plic

DVP_CFG, R_ADDR, G_ADDR, B_ADDR, CMOS_CFG, SCCB_CFG, SCCB_CTL, AXI, STS, REVERSE, RGB_ADDR = range(0, 0x2C, 4)
START_INT, FINISH_INT, AI_OUTPUT, DISPLAY_OUTPUT, AUTO, BURST_4 = 1, 2, 4, 8, 16, 0x100
FRAME_START, FRAME_FINISH, DVP_EN, SCCB_EN = 1, 0x100, 0x10000, 0x1000000
CMOS_CLK_ENABLE, CMOS_RESET, CMOS_POWER_DOWN = 0x100, 0x10000, 0x1000000
NOMINAL_CLOCK_HZ = 24_000_000
ACTIVE_PART = 0.9  # of the frame period carries lines, the rest is blanking (a model)


class CameraChip(Protocol):
    """An image sensor on the DVP's pins."""

    frames_per_second: float  # at an input clock of 24 MHz

    def capture(self) -> Bytes | None:
        """The next frame as it leaves the sensor: uint8 (height, width, 3) RGB; None if there is none."""

    def sccb_write(self, register: int, value: int) -> None:
        """Write a register."""

    def sccb_read(self, register: int) -> int:
        """Read a register."""


class Dvp(Device):
    """The camera interface."""

    host_side = ("soc", "sensors", "on_busy", "planes")
    planes = "full"
    """The contents of the AI planes, see SiliconProfile.camera_planes."""

    def reset(self) -> None:
        super().reset()
        self.status = 0
        self.frames = 0
        if not hasattr(self, "sensors"):
            self.sensors: dict[int, CameraChip] = {}  # by bus address
            self.ticking = False
        self.ticking = False
        self.sccb_register = 0

    @property
    def sensor(self) -> CameraChip | None:
        """Connect a camera to the pins."""
        return next(iter(self.sensors.values()), None)

    def _size(self) -> tuple[int, int]:
        cfg = self.registers.get(DVP_CFG, 0)
        return (cfg >> 12 & 0xFF) * 8 * (4 if cfg & BURST_4 else 1), cfg >> 20 & 0x3FF

    def _period_seconds(self) -> float:
        """Frame period: the sensor's rate is proportional to its clock."""
        assert self.sensor
        divider = (self.registers.get(CMOS_CFG, 0) & 0xFF) + 1
        clock_hz = self.soc.sysctl.apb1_hz / (2 * divider)
        return NOMINAL_CLOCK_HZ / clock_hz / self.sensor.frames_per_second

    def _tick(self) -> None:
        """Run the frame clock while the sensor is clocked and not in power-down."""
        cmos = self.registers.get(CMOS_CFG, 0)
        if not self.ticking and self.sensor and cmos & CMOS_CLK_ENABLE:
            self.ticking = True
            self._schedule_frame()

    def _schedule_frame(self) -> None:
        self.soc.schedule(self.soc.cycles((1 - ACTIVE_PART) * self._period_seconds()), self._frame_start)

    def _frame_start(self) -> None:
        if not self.sensor:
            self.ticking = False
            return
        self.frames += 1
        self.status |= FRAME_START
        if self.registers.get(DVP_CFG, 0) & AUTO:
            self._enable(DVP_EN)
        self._update_interrupt()
        self.soc.schedule(self.soc.cycles(ACTIVE_PART * self._period_seconds()), self._frame_end)

    def _frame_end(self) -> None:
        if self.sensor and self.status & DVP_EN and self._write_frame(self.sensor):
            self._enable(0)
            self.status |= FRAME_FINISH
            self._update_interrupt()
        self._schedule_frame()

    def _write_frame(self, sensor: CameraChip) -> bool:
        width, height = self._size()
        picture = sensor.capture() if width and height else None
        if picture is None or picture.shape[0] < height or picture.shape[1] < width:
            return False
        picture = picture[:height, :width]
        cfg = self.registers.get(DVP_CFG, 0)
        pixels = width * height
        display = rgb565.truncate(picture)
        if cfg & DISPLAY_OUTPUT and self.registers.get(RGB_ADDR, 0):
            # Two pixels to a 32-bit word, the first in its high half.
            words = display.reshape(-1, 2)[:, ::-1].astype("<u2")
            self.soc.ram_slice(self.registers[RGB_ADDR], 2 * pixels)[:] = words.tobytes()
        if cfg & AI_OUTPUT:
            seen = picture if self.planes == "full" else rgb565.widen(display, self.planes == "repeated")
            for plane, register in enumerate((R_ADDR, G_ADDR, B_ADDR)):
                if self.registers.get(register, 0):
                    data = np.ascontiguousarray(seen[..., plane]).tobytes()
                    self.soc.ram_slice(self.registers[register], pixels)[:] = data
        return True

    def _enable(self, bit: int) -> None:
        """DVP_EN: the present frame, or the next one to begin, is to be written."""
        if bit != self.status & DVP_EN:
            self.status ^= DVP_EN
            self.tell_busy(bool(bit))

    def _update_interrupt(self) -> None:
        cfg = self.registers.get(DVP_CFG, 0)
        start = cfg & START_INT and self.status & FRAME_START
        finish = cfg & FINISH_INT and self.status & FRAME_FINISH
        self.soc.plic.set_level(plic.DVP_IRQ, bool(start or finish))

    def read(self, offset: int) -> int:
        if offset == STS:
            return self.status
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == STS:
            for bit in (FRAME_START, FRAME_FINISH):
                if value & bit << 1 and value & bit:
                    self.status &= ~bit
            if value & DVP_EN << 1:
                self._enable(value & DVP_EN)
            if value & SCCB_EN << 1 and value & SCCB_EN:
                self._sccb()
            self._update_interrupt()
            return
        super().write(offset, value)
        if offset == CMOS_CFG:
            self._tick()
        elif offset == DVP_CFG:
            self._update_interrupt()

    def _sccb(self) -> None:
        """byte_num in sccb_cfg is the message's length; a 2-byte message sets the register to read next."""
        control = self.registers.get(SCCB_CTL, 0)
        sensor = self.sensors.get((control & 0xFF) >> 1) or self.sensors.get(control & 0x7F)
        count = self.registers.get(SCCB_CFG, 0) & 3
        first, second, third = control >> 8 & 0xFF, control >> 16 & 0xFF, control >> 24
        answer = 0xFF
        if sensor and control & 1:
            if count == 2:
                sensor.sccb_write(first, second)
            elif count == 3:
                sensor.sccb_write(first << 8 | second, third)
            else:
                self.sccb_register = first
        elif sensor:
            answer = sensor.sccb_read(self.sccb_register)
        self.registers[SCCB_CFG] = self.registers.get(SCCB_CFG, 0) & 0x00FFFFFF | answer << 24
