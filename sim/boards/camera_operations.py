"""The operations of the board's programs on its camera; sim/boards/bridge.py calls them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from sim.boards import sensor_drivers
from sim.boards.board_memory import GRAYSCALE, RGB565, BoardError, BoardMemory, Status
from sim.boards.devices import Devices

_FORMAT_RGB565, _FORMAT_YUV422, _FORMAT_GRAYSCALE = 2, 3, 4  # what sensor.set_pixformat() takes


@dataclass
class Sensor:
    """The camera with its driver, and the frame buffers that set_framesize() takes.

    size: the size that the DVP counts, and so of a snapshot, at the top left of what the chip sends.
    double: two frame buffers are used in turn: while the program works on one, the next picture goes into the other.
    waiting: that picture, taken with the registers as they were when the previous snapshot returned.
    frames: the places of the buffers' pixels and planes.
    """

    driver: sensor_drivers.Driver | None = None
    framesize: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    pixformat: int = 0
    double: bool = False
    waiting: NDArray[np.uint8] | None = None
    frames: list[tuple[int, int]] = field(default_factory=list)
    incoming: list[int] = field(default_factory=list)


class CameraOperations:
    """Each `op_NAME` is called with the numbers and the payload of a request."""

    def __init__(self, devices: Devices, memory: BoardMemory):
        self.devices = devices
        self.memory = memory
        self.sensor = Sensor()

    def op_cam_reset(self, numbers: list[int], payload: bytes) -> int:
        if self.devices.camera is None:
            raise BoardError(Status.OS_ERROR, "Reset Failed")
        self._free_frame()
        self.sensor = Sensor(sensor_drivers.reset(self.devices.sensor, self._look), double=bool(numbers[0]))
        self.driver().chip.honours_window = self.devices.silicon.camera_window == "honoured"
        return sensor_drivers.IDS[self.devices.sensor]

    def _look(self, width: int, height: int) -> NDArray[np.uint8] | None:
        return self.devices.camera.frame(width, height) if self.devices.camera else None

    def driver(self) -> sensor_drivers.Driver:
        """The camera's driver; BoardError before sensor.reset()."""
        if self.sensor.driver is None:
            raise BoardError(Status.TYPE_ERROR, "not found sensor")
        return self.sensor.driver

    def _free_frame(self) -> None:
        for at in self.sensor.incoming:
            self.memory.heap.free(at)
        self.sensor.incoming, self.sensor.frames = [], []

    def op_cam_format(self, numbers: list[int], payload: bytes) -> None:
        if numbers[0] not in (_FORMAT_RGB565, _FORMAT_YUV422, _FORMAT_GRAYSCALE):
            raise BoardError(Status.OS_ERROR, "Pixel format is not supported!")
        self.sensor.pixformat = numbers[0]

    def op_cam_size(self, numbers: list[int], payload: bytes) -> None:
        width, height = numbers[:2]
        if self.sensor.driver is None:
            raise BoardError(Status.OS_NUMBER, "5")
        self._free_frame()
        for _ in range(1 + self.sensor.double):
            pixels = self.memory.malloc(-(-width * height * 2 // 128) * 128, 128)
            self.sensor.incoming.append(pixels)
            planes = self.memory.malloc(-(-width * height * 3 // 64) * 64, 128)
            self.sensor.incoming.append(planes)
            self.sensor.frames.append((pixels, planes))
        self.sensor.driver.set_framesize(width, height)
        self.sensor.framesize = self.sensor.size = width, height
        self.sensor.waiting = None

    def op_cam_window(self, numbers: list[int], payload: bytes) -> None:
        x, y, width, height = numbers[:4]
        if width < 8 or height < 8:
            raise BoardError(Status.VALUE_ERROR, "The selected window is too small")
        if x < 0 or y < 0 or x + width > self.sensor.framesize[0] or y + height > self.sensor.framesize[1]:
            raise BoardError(Status.VALUE_ERROR, "The selected window is outside the bounds of the frame")
        if width % 8 or height % 8:
            raise BoardError(Status.VALUE_ERROR, "value must be multiple of 8")
        self.driver().set_windowing(self.sensor.framesize, x, y, width, height)
        self.sensor.size = width, height
        self.sensor.waiting = None

    def op_snapshot(self, numbers: list[int], payload: bytes) -> tuple[int, ...]:
        sensor = self.sensor
        driver = self.driver()
        if self.devices.camera is None:
            raise BoardError(Status.TYPE_ERROR, "not found sensor")
        if not sensor.frames or not sensor.pixformat:
            raise BoardError(Status.RUNTIME_ERROR, "Not init!")
        width, height = sensor.size
        frame = driver.chip.capture() if sensor.waiting is None else sensor.waiting
        sensor.waiting = None
        if frame is None or frame.shape[0] < height or frame.shape[1] < width:
            raise BoardError(Status.RUNTIME_ERROR, "Sensor timeout!")
        frame = frame[:height, :width]
        if sensor.double:
            sensor.waiting = driver.chip.capture()
        pixels_at, planes_at = sensor.frames[0]
        sensor.frames.reverse()
        self.memory.planes(planes_at, width, height)[...] = frame.transpose(2, 0, 1)
        if sensor.pixformat == _FORMAT_GRAYSCALE:  # the pixels are the first plane itself
            return planes_at, width, height, GRAYSCALE, planes_at
        words = rgb565.pack(frame)
        self.memory.image([pixels_at, width, height, RGB565])[...] = words
        if (rule := self.devices.silicon.camera_planes) != "full":
            seen = rgb565.widen(words.byteswap(), rule == "repeated")
            self.memory.planes(planes_at, width, height)[...] = seen.transpose(2, 0, 1)
        return pixels_at, width, height, RGB565, planes_at
