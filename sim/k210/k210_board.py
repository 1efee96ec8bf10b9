"""A Maix board with the emulated K210: flash, camera, display, SD slot, USB serial with its reset lines.

`sim.parts.board_transport` gives host tools a serial line to it, in the emulator's own virtual time.
"""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import rom_image
from common.errors import FormatError, UserError
from common.flash_map import FLASH_BYTES
from common.isp_protocol import SRAM_ADDRESS, SRAM_BYTES, stub_program
from common.transport import BITS_PER_BYTE, CONSOLE_BAUD
from common.wiring import RESET_RELEASE_S, PinEvent, ResetPins
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.k210 import firmware_image, kpu_engine
from sim.k210.chips.sd_card import EmptySlot, SdCard
from sim.k210.chips.st7789 import St7789
from sim.k210.chips.w25q128 import W25q128
from sim.k210.devices.gpio import FUNC_GPIOHS0
from sim.k210.devices.i2c import Wired
from sim.k210.devices.uart import SerialLine
from sim.k210.mask_rom import MaskRom
from sim.k210.profiles import PROFILES, Profile
from sim.k210.soc import Soc
from sim.parts.board import Camera
from sim.parts.camera_sensors import CAMERAS, SensorChip, Source, check_camera, grey
from sim.parts.isp_endpoint import FlashTiming, IspEndpoint, NorFlash, Reply, Restart

PAD_RX, PAD_TX, PAD_BOOT = 4, 5, 16
FUNC_UARTHS_RX, FUNC_UARTHS_TX, FUNC_UART1_RX = 18, 19, 64
LCD_SELECT, FLASH_SELECT = 3, 0
SD_CHIP_SELECT_PAD = 29
MAX_LAG_S = 0.5
SNAPSHOT_MAGIC = b"K210SNAP2"


class K210Board:
    """Everything on the board (`sim.parts.board.Board`). Virtual time runs only in `run_for` and in methods that call
    it.

    firmware: raw MaixPy image, written to flash address 0; None leaves the flash as given.
    flash: 16 MiB image shared with the caller, or None for an erased one.
    camera: a name of sim/parts/camera_sensors.py, or None; `source` gives its pictures.
    sd_image: path of a card image, None for an empty slot.
    wiring: how DTR and RTS reach reset and IO16: "dan", "kd233" or "goD".
    fast_loader: when a host starts kflash's flash stub, answer for it (as the simulated board does) instead of
        executing it: the same protocol, ten times faster.
    profile: what is soldered to the chip.
    silicon: the answers of the chip where only a chip can tell.
    """

    name = "emulated board"

    def __init__(
        self,
        firmware: bytes | None = None,
        flash: bytearray | None = None,
        camera: str | None = "ov2640",
        source: Source = grey,
        sd_image: Path | None = None,
        wiring: str = "dan",
        fast_loader: bool = False,
        profile: Profile = PROFILES["bit"],
        silicon: SiliconProfile = ASSUMED,
    ):
        self.soc = Soc()
        self.profile = profile
        self.fast_loader = fast_loader
        self.flash = W25q128(flash)
        if firmware is not None:
            wrapped = rom_image.wrap(firmware_image.check_raw(firmware, "firmware"))
            self.flash.memory[: len(wrapped)] = wrapped
        self.lcd = St7789(self._lcd_data_line, profile.panel)
        self.slot = SdCard(sd_image, self._sd_select) if sd_image else EmptySlot()
        self.parts: dict[str, Any] = {"flash": self.flash, "lcd": self.lcd}
        self.camera = None if camera is None else self._with_camera(camera, source, silicon)
        self._wire()
        self.soc.dvp.planes = silicon.camera_planes
        self.soc.kpu.execute = partial(kpu_engine.execute, silicon=silicon)
        self.lines: list[SerialLine] = [self.soc.uarths, *self.soc.uarts]
        for index, line in enumerate(self.lines):
            function = FUNC_UARTHS_TX if index == 0 else FUNC_UART1_RX + 2 * index - 1
            line.on_output = self._output_of(function)
        self.soc.on_reset = self._after_soft_reset
        self.pins = ResetPins(wiring)
        self.on_console: Callable[[bytes], None] = lambda data: None
        self.rom: MaskRom | None = None  # while the serial loader runs
        self.stub: IspEndpoint | None = None  # while it is answered for
        self.host_baud = CONSOLE_BAUD
        self._clock_offset_s = 0.0
        self.powered = False
        self.held = False  # in reset
        self.boot_failure: str | None = None
        self._start_at_s = math.inf
        self.boots = 0
        self._out = bytearray()
        self._seconds = 0.0
        self._seconds_at_cycle = 0

    def _wire(self) -> None:
        """Flash, display and card slot on the SPI buses, the power chip on the I2C buses (MaixPy chooses one)."""
        self.soc.spi[3].slaves[FLASH_SELECT] = self.flash
        if self.profile.panel is not None:
            self.soc.spi[0].slaves[LCD_SELECT] = self.lcd
        for select in range(4):
            self.soc.spi[1].slaves[select] = self.slot
        if (power := self.profile.power) is not None:
            self.parts["power"] = chip = power.chip()
            for bus in self.soc.i2c:
                bus.slaves[chip.address] = Wired(chip, power.clock_pad, power.data_pad)

    def _with_camera(self, name: str, source: Source, silicon: SiliconProfile) -> SensorChip:
        """The image sensor on every I2C bus (MaixPy chooses one), and on the camera interface."""
        check_camera(name)
        chip = CAMERAS[name](source)
        chip.honours_window = silicon.camera_window == "honoured"
        for bus in self.soc.i2c:
            bus.slaves[chip.address] = Wired(chip)
        self.soc.dvp.sensors[chip.address] = self.parts["camera"] = chip
        return chip

    def _pad_level(self, pad: int) -> int:
        """The level of a pad: that of its GPIOHS output, otherwise pulled up."""
        pin = self.soc.fpioa.function(pad) - FUNC_GPIOHS0
        return self.soc.gpiohs.level(pin) if 0 <= pin < 32 else 1

    def _sd_select(self) -> int:
        return self._pad_level(SD_CHIP_SELECT_PAD)

    def _lcd_data_line(self) -> int:
        return self._pad_level(self.profile.lcd_data_pad)

    def _output_of(self, function: int) -> Callable[[bytes], None]:
        def output(data: bytes) -> None:
            if self.soc.fpioa.function(PAD_TX) == function:
                self._send_to_host(data)

        return output

    def _send_to_host(self, data: bytes) -> None:
        self._out += data
        self.on_console(data)

    def _console(self) -> SerialLine:
        """The UART that is connected to the USB bridge's pins."""
        function = self.soc.fpioa.function(PAD_TX)
        index = next((i for i in range(1, len(self.lines)) if function == FUNC_UART1_RX + 2 * i - 1), 0)
        return self.lines[index]

    @property
    def console_baud(self) -> float:
        """The rate at which the chip sends."""
        return BITS_PER_BYTE * self.soc.sysctl.cpu_hz / self._console().byte_cycles()

    # -- power, reset, boot

    def power_on(self, now_s: float | None = None) -> None:
        """Give the board power (its memory holds zeros) and let the ROM start what is in flash."""
        self.soc.view[:] = bytes(len(self.soc.view))
        self.powered = True
        self._start()

    def power_off(self) -> None:
        """Take the board's power away."""
        self.powered = False

    def press_reset(self, now_s: float | None = None, boot: bool = False) -> None:
        """Press the reset button; `boot`: with the boot button (IO16) held down."""
        if self.powered:
            self._start(isp=boot)

    def set_lines(self, dtr: bool, rts: bool, now_s: float | None = None) -> None:
        """Set DTR and RTS as the host does (True is low); the wiring turns them into reset and IO16."""
        event = self.pins.set(dtr, rts)
        if not self.powered:
            return
        self.soc.fpioa.set_input(PAD_BOOT, 0 if self.pins.boot_low else 1)
        if event is PinEvent.PULSE:
            self._start()
        elif event is PinEvent.HELD:
            self.held = True
            self._out.clear()
        elif event is PinEvent.RELEASED and self.held:
            self.held = False
            self._start_at_s = self.seconds + RESET_RELEASE_S

    def _start(self, isp: bool = False) -> None:
        """Reset is over: the ROM looks at IO16."""
        self._start_at_s = math.inf
        self.held = False
        for line in self.lines:
            line.incoming.clear()
        self.soc.reset()
        self._boot(isp)

    def _boot(self, isp: bool = False) -> None:
        self.boots += 1
        self.boot_failure = None
        self.rom = self.stub = None
        if isp or self.pins.boot_low:
            self.rom = MaskRom(self.soc, self._send_to_host, self._start_uploaded, lambda baud: None)
            return
        try:
            program = rom_image.unwrap(self.flash.memory)
        except FormatError as error:
            self.boot_failure = str(error)
            return
        self.soc.load_program(program)

    def _after_soft_reset(self) -> None:
        for line in self.lines:
            line.incoming.clear()
        self._boot()

    def _start_uploaded(self, address: int) -> None:
        """Operation C5: run what was written to SRAM."""
        self.rom = None
        program = stub_program()
        if self.fast_loader and bytes(self.soc.view[: len(program)]) == program:
            self.stub = IspEndpoint(NorFlash(self.flash.memory, FlashTiming.instant()), program)
            self.stub.in_stub = True
            return
        self.soc.load_program(bytes(self.soc.view[:SRAM_BYTES]).rstrip(b"\0"))
        for hart in self.soc.harts:
            hart.reset(address if address >= SRAM_ADDRESS else SRAM_ADDRESS)
        # The ROM leaves the console on UARTHS.
        self.soc.fpioa.write(4 * PAD_RX, FUNC_UARTHS_RX)
        self.soc.fpioa.write(4 * PAD_TX, FUNC_UARTHS_TX)

    # -- the line

    def set_host_baud(self, baud: int) -> None:
        """Set the other end's rate, which has no effect: bytes are never garbled here, and the chip's own rate sets
        their pace."""
        self.host_baud = baud

    def receive(self, data: bytes, now_s: float | None = None) -> None:
        """Send bytes to the chip."""
        if not self.powered or self.held:
            return
        if self.rom is not None:
            self.rom.feed(data)
            return
        if self.stub is not None:
            for action in self.stub.feed(data):
                if isinstance(action, Reply):
                    self._send_to_host(action.data)
                elif isinstance(action, Restart):
                    self._start_at_s = self.seconds + RESET_RELEASE_S
            return
        function = self.soc.fpioa.function(PAD_RX)
        for index, line in enumerate(self.lines):
            if function == (FUNC_UARTHS_RX if index == 0 else FUNC_UART1_RX + 2 * (index - 1)):
                line.send(data)

    @property
    def has_output(self) -> bool:
        """Whether the chip has sent something that has not been taken yet."""
        return bool(self._out)

    def take_output(self, now_s: float | None = None) -> bytes:
        """What the chip has sent since the last call; if `now_s` is given, the chip first runs until then."""
        if now_s is not None:
            self.advance(now_s)
        data = bytes(self._out)
        self._out.clear()
        return data

    # -- time

    @property
    def seconds(self) -> float:
        """Virtual seconds since the board was made."""
        now = self.soc.now
        self._seconds += (now - self._seconds_at_cycle) / self.soc.sysctl.cpu_hz
        self._seconds_at_cycle = now
        return self._seconds

    @property
    def running(self) -> bool:
        """Whether the chip executes a program."""
        loading = self.rom is not None or self.stub is not None
        return self.powered and not self.held and not loading and self.boot_failure is None

    @property
    def condition(self) -> str:
        """The board's state in words, for a person."""
        states = (
            (not self.powered, "no power"),
            (self.held, "held in reset"),
            (self.rom is not None, "serial loader"),
            (self.stub is not None, "flash stub, answered for"),
            (self.boot_failure is not None, "no valid firmware"),
        )
        return next((text for holds, text in states if holds), "running")

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None, host_s: float = math.inf) -> None:
        """Let virtual time pass; stops early if `until()` becomes true or after `host_s` of real time."""
        end = self.seconds + seconds
        deadline = time.monotonic() + host_s
        steps = 0
        while True:
            now = self.seconds
            if self._start_at_s <= now:
                self._start()
            if now >= end or (until is not None and until()):
                return
            if self.running:
                self.soc.step()
            else:
                self._seconds = min(end, self._start_at_s)
            steps += 1
            if steps % 16 == 0 and time.monotonic() > deadline:
                return

    def run_until_output(self, text: bytes, seconds: float = 30.0) -> bytes:
        """Run until the chip has sent `text`; returns all output up to then. UserError after `seconds`."""
        self.run_for(seconds, lambda: text in self._out)
        if text not in self._out:
            raise UserError(
                f"the emulated board did not send {text!r} within {seconds} virtual seconds; "
                f"its last text: {bytes(self._out[-200:])!r}"
            )
        return self.take_output()

    def advance(self, now_s: float, host_s: float = 0.05) -> None:
        """Follow a caller's clock, at most `host_s` of real time; time that the emulator cannot keep up with is
        dropped."""
        if not self.powered:
            return
        behind_s = now_s - self._clock_offset_s - self.seconds
        if abs(behind_s) > MAX_LAG_S:
            self._clock_offset_s = now_s - self.seconds
        elif behind_s > 0:
            self.run_for(behind_s, host_s=host_s)

    # -- pictures

    def set_camera(self, camera: Camera) -> None:
        """Give the sensor another source of pictures, from its next picture on."""
        if self.camera is not None:
            self.camera.source = camera.frame

    # -- snapshots

    def save(self) -> bytes:
        """The whole running board, including the flash but not the SD card and the camera's source."""
        state = (self.seconds, self.boots, bytes(self._out), self.pins.dtr, self.pins.rts)
        head = repr(state).encode()
        return b"".join(
            (SNAPSHOT_MAGIC, len(head).to_bytes(4, "little"), head, bytes(self.flash.memory), self.soc.save(self.parts))
        )

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot of `save`, which must come from the same version of the emulator."""
        if not snapshot.startswith(SNAPSHOT_MAGIC):
            raise FormatError("this is not a snapshot of the emulated board; boot it once and save a new one")
        start = len(SNAPSHOT_MAGIC) + 4
        length = int.from_bytes(snapshot[start - 4 : start], "little")
        seconds, self.boots, out, self.pins.dtr, self.pins.rts = ast.literal_eval(
            snapshot[start : start + length].decode()
        )
        start += length
        self.flash.memory[:] = snapshot[start : start + FLASH_BYTES]
        self.soc.restore(snapshot[start + FLASH_BYTES :], self.parts)
        self._out[:] = out
        self._seconds, self._seconds_at_cycle = seconds, self.soc.now
        self.powered, self.held, self.boot_failure = True, False, None
        self.rom = self.stub = None
        self._start_at_s = math.inf
