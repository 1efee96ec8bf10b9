"""The devices around the chip, kept by the host: flash, camera, LCD, UARTs, pins, memory, watchdog.

Access is safe from several threads. Nothing here knows MicroPython; sim/boards/bridge.py lets the board's
programs reach it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.arrays import Picture
from common.flash_map import erased_flash
from common.pictures import save_png
from common.transport import CONSOLE_BAUD
from model_build.engines.kpu import KpuEngine
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.parts.board import Camera

GC_HEAP_BYTES = 512 << 10
"""MaixPy's own choice for the heap of its programs (CONFIG_MAIXPY_GC_HEAP_SIZE)."""
SYSTEM_HEAP_BYTES = 4_890_624
"""The value of Maix.utils.heap_free() after maixpy_v0.6.2_84_minimum_with_ide_support.bin started in the K210 emulator
(benchmarks/firmware_py_mpy.py). Other builds have less, because their code is in the same 6 MiB."""


class Lcd:
    """A panel: its memory in the orientation that lcd.rotation() chose, and how it is mounted.

    `mounting` is the rotation setting at which a person in front of the board sees the picture upright, `upright` is
    the argument of lcd.direction() for it at rotation 0: MADCTL's bits, of which MaixPy sets DIRECTIONS by itself.
    """

    DIRECTIONS = (0xA0, 0x00, 0x60, 0xC0)  # of lcd.rotation(0…3)
    MY, MX, BGR = 0x80, 0x40, 0x08

    def __init__(
        self,
        width: int = 320,
        height: int = 240,
        mounting: int = 0,
        inverted: bool = False,
        upright: int = DIRECTIONS[0],
    ):
        self.native_size = (width, height)
        self.mounting = mounting
        self.inverted = inverted
        self.upright = upright
        self.direction = self.DIRECTIONS[0]
        self.invert_setting = False
        self.rotation = 0
        self.mirrored = False
        self.frames = 0
        self.screen = np.zeros((height, width), dtype="<u2")
        self.lock = threading.RLock()
        self._listeners: list[Callable[[Lcd], None]] = []

    def set_size(self, width: int, height: int) -> None:
        """Set the size that lcd.init() was given; a panel shows only as much as it has."""
        with self.lock:
            self.native_size = (width, height)
            self.set_rotation(self.rotation)

    def set_rotation(self, rotation: int) -> None:
        """0…3; 1 and 3 swap width and height. The memory starts black. A direction that was set before is lost."""
        with self.lock:
            self.rotation = rotation
            self.direction = self.DIRECTIONS[rotation]
            width, height = self.native_size
            shape = (width, height) if rotation & 1 else (height, width)
            self.screen = np.zeros(shape, dtype="<u2")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as the program sees them, in pixels."""
        return self.screen.shape[1], self.screen.shape[0]

    def image(self) -> Picture:
        """Uint8 (h, w, 3) RGB as a person in front of the board sees it."""
        with self.lock:
            rgb: Picture = rgb565.unpack(self.screen)
        wrong = self.direction ^ self.upright ^ self.DIRECTIONS[self.rotation] ^ self.DIRECTIONS[0]
        across, down = (self.MX, self.MY) if self.rotation & 1 else (self.MY, self.MX)
        if self.mirrored != bool(wrong & across):
            rgb = rgb[:, ::-1]
        if wrong & down:
            rgb = rgb[::-1]
        if wrong & self.BGR:
            rgb = rgb[..., ::-1]
        if self.inverted != self.invert_setting:
            rgb = np.bitwise_not(rgb)
        return np.ascontiguousarray(np.rot90(rgb, self.mounting - self.rotation))

    def save(self, path: Path) -> None:
        """Write image() as a PNG."""
        save_png(self.image(), path)

    def on_frame(self, listener: Callable[[Lcd], None]) -> None:
        """Call `listener(lcd)` after each lcd.display(), from the bridge's thread."""
        self._listeners.append(listener)

    def shown(self) -> None:
        """Count a whole frame, and tell the listeners."""
        self.frames += 1
        for listener in self._listeners:
            listener(self)


class Uart:
    """One serial port of the chip: the newest bytes sent are kept; received bytes wait in a ring that overflows."""

    RING_BYTES = 2048
    KEPT_BYTES = 1 << 20

    def __init__(self) -> None:
        self.baudrate = 0
        self._sent = bytearray()
        self._received = bytearray()
        self._ready = threading.Condition()

    def send(self, data: bytes) -> None:
        """Take bytes that the board sends."""
        with self._ready:
            self._sent += data
            del self._sent[: -self.KEPT_BYTES]
            self._ready.notify_all()

    def take(self, count: int) -> bytes:
        """Give the board the bytes that have come in."""
        with self._ready:
            data = bytes(self._received[:count])
            del self._received[:count]
            return data

    def waiting(self) -> int:
        """The number of bytes that the board has not read."""
        with self._ready:
            return len(self._received)

    def feed(self, data: bytes) -> None:
        """Send bytes to the board; the ring overflows silently, as on the chip."""
        with self._ready:
            self._received += data[: max(self.RING_BYTES - len(self._received), 0)]

    def collect(self) -> bytes:
        """Take everything that the board has sent."""
        with self._ready:
            data = bytes(self._sent)
            self._sent.clear()
            return data


class Pins:
    """Levels of the chip's 48 pins; an input that is not driven reads its pull-up, or 0."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.function: dict[int, int] = {}
        self.is_output: dict[int, bool] = {}
        self.pulled_up: dict[int, bool] = {}
        self.output: dict[int, int] = {}
        self.driven: dict[int, int] = {}
        self.history: list[tuple[int, int]] = []

    def drive(self, pin: int, level: int | None) -> None:
        """Drive a pin from outside (a button pressed to ground is 0), or release it (None)."""
        with self.lock:
            if level is None:
                self.driven.pop(pin, None)
            else:
                self.driven[pin] = level

    def configure(self, pin: int, output: bool, pulled_up: bool) -> None:
        """Set a pin's direction, as the board's program chooses it."""
        with self.lock:
            self.is_output[pin] = output
            self.pulled_up[pin] = pulled_up

    def write(self, pin: int, level: int) -> None:
        """The board's program sets an output; changes are kept in `history` as (pin, level)."""
        with self.lock:
            if self.output.get(pin) != level:
                self.history.append((pin, level))
            self.output[pin] = level

    def read(self, pin: int) -> int:
        """The level that the board's program reads."""
        with self.lock:
            if self.is_output.get(pin):
                return self.output.get(pin, 0)
            return self.driven.get(pin, 1 if self.pulled_up.get(pin) else 0)


class SystemHeap:
    """Newlib's heap (first fit), which holds frame buffers and models. Addresses are offsets into `size` bytes."""

    def __init__(self, size: int = SYSTEM_HEAP_BYTES):
        self.size = size
        self._blocks: list[tuple[int, int]] = []
        self._start: dict[int, int] = {}

    def free_bytes(self) -> int:
        """The number of free bytes, as Maix.utils.heap_free() returns it."""
        return self.size - sum(length for _, length in self._blocks)

    def malloc(self, length: int, alignment: int = 64) -> int | None:
        """An offset, or None if no gap is long enough; every block takes 16 more bytes."""
        taken = length + 16
        at = 0
        for start, size in [*sorted(self._blocks), (self.size, 0)]:
            aligned = -(-(at + 16) // alignment) * alignment
            if aligned - 16 + taken <= start:
                self._blocks.append((at, aligned + length - at))
                self._start[aligned] = at
                return aligned
            at = start + size
        return None

    def free(self, offset: int) -> None:
        """Free a block."""
        start = self._start.pop(offset)
        self._blocks = [block for block in self._blocks if block[0] != start]


class KpuModelRunner(Protocol):
    """Executes a V3 kmodel: model_build.engines.kpu.KpuEngine, or a test's own class."""

    def run(self, planes: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Uint8 (3, h, w) → outputs, uint8 (c, h, w) each, in the file's order."""


def kpu_engine(kmodel: bytes, silicon: SiliconProfile = ASSUMED) -> KpuModelRunner:
    """The KPU engine, which computes the model."""
    return KpuEngine(kmodel, silicon=silicon)


class CachedRunner:
    """Computes each different picture once: a camera that repeats its pictures for hours costs little time.

    The results are the engine's; `computed` counts the pictures that it computed.
    """

    def __init__(self, runner: KpuModelRunner, capacity: int = 256):
        self._runner = runner
        self._capacity = capacity
        self._known: OrderedDict[bytes, list[NDArray[np.uint8]]] = OrderedDict()
        self.computed = 0

    def run(self, planes: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Run the runner, or return its earlier result."""
        key = hashlib.blake2b(planes.tobytes(), digest_size=16).digest()
        outputs = self._known.get(key)
        if outputs is None:
            outputs = self._runner.run(planes)
            self.computed += 1
            self._known[key] = outputs
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return outputs


class Watchdog:
    """machine.WDT of one core: if it is not fed for its timeout, it resets the board."""

    def __init__(self, devices: Devices) -> None:
        self.timeout_ms = 0
        self._fed_s = 0.0
        self._devices = devices

    def start(self, timeout_ms: int) -> None:
        """Start the watchdog."""
        self.timeout_ms = timeout_ms
        self.feed()

    def stop(self) -> None:
        """Stop the watchdog."""
        self.timeout_ms = 0

    def feed(self) -> None:
        """Feed the watchdog."""
        self._fed_s = self._devices.now()

    @property
    def expired(self) -> bool:
        """Whether the board must be reset now."""
        return bool(self.timeout_ms) and (self._devices.now() - self._fed_s) * 1000 > self.timeout_ms


@dataclass
class Devices:
    """One board's hardware.

    sensor: a chip of sim/parts/camera_sensors.py. camera: the source of its pictures; None: no sensor answers.
    """

    flash: bytearray = field(default_factory=erased_flash)
    camera: Camera | None = None
    lcd: Lcd = field(default_factory=Lcd)
    uarts: list[Uart] = field(default_factory=lambda: [Uart(), Uart(), Uart()])
    pins: Pins = field(default_factory=Pins)
    sensor: str = "ov2640"
    kmodel_v4: bool = False
    """Whether this MaixPy build also takes V4 kmodels (only its error texts differ here)."""
    load_model: Callable[[bytes], KpuModelRunner] = kpu_engine
    silicon: SiliconProfile = ASSUMED
    """The chip's answers for camera interface and sensor; `load_model` has those for the KPU."""
    cache_kpu: bool = True
    system_heap_bytes: int = SYSTEM_HEAP_BYTES
    sd_free_bytes: int | None = None
    """The number of bytes that may still be written to the SD card; None is no limit."""
    kpu_runs: int = 0
    now: Callable[[], float] = time.monotonic
    """The clock of the watchdogs, in seconds."""
    console_baud: int = CONSOLE_BAUD
    """The baud rate to which the program has set the console's UART."""
