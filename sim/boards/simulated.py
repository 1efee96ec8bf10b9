"""A whole board on a line: power, reset and boot pins, flash, serial loader, MaixPy.

`SimulatedBoard` uses no threads: it is told what happens on the line and when, and it returns what comes back and
when. `sim.parts.board_transport` runs it on its own clock (tests, fault campaigns); `sim.live.line_server` puts it
behind a pseudo-terminal or an RFC 2217 port in real time.

The line is modelled: a byte takes ten bit times, both sides must have the same rate within 4 %, and the board
sees a request when its last byte has arrived.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from common import rom_image, spiffs
from common.errors import FormatError
from common.flash_map import FILES_ADDRESS
from common.isp_protocol import stub_program as kflash_stub
from common.transport import BITS_PER_BYTE, CONSOLE_BAUD
from common.wiring import RESET_RELEASE_S, PinEvent, ResetPins
from sim.boards.devices import GC_HEAP_BYTES, Devices, Lcd
from sim.boards.faults import Faults
from sim.boards.vm import MicroPythonVm
from sim.parts.board import Camera
from sim.parts.isp_endpoint import IspEndpoint, NorFlash, PowerCutError, Reply, Restart, SetBaud

ROM_BOOT_S = 0.05
BAUD_TOLERANCE = 0.04
IDE_BAUD = 1_500_000
SPIFFS_MARK = b"files of the simulated /flash are in the folder beside this image\n"
DEFAULT_MAIXPY = "0.6.3"


class Mode(Enum):
    """The state of the chip: off, held in reset, or running one of its programs."""

    OFF = "no power"
    RESET = "held in reset"
    LOADER = "serial loader"
    MAIXPY = "MaixPy"
    BLANK = "no valid firmware"


@dataclass(frozen=True)
class Firmware:
    """The kind of firmware that an image in flash stands for."""

    version: str
    has_kpu: bool = True
    has_kmodel_v4: bool = True


class Vm(Protocol):
    """The MicroPython that plays MaixPy (sim.boards.vm.MicroPythonVm)."""

    @property
    def console_baud(self) -> int: ...
    def read(self, timeout_s: float) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def poll(self) -> int | None: ...
    def stop(self) -> None: ...


MOST_PIECES_ON_LINE = 64
"""What MaixPy prints while so much waits for the line is read from it later."""
LONGEST_TURN_S = 0.005
StartVm = Callable[[Firmware, bool], Vm]
"""(firmware, whether the REPL was in raw mode) → running MaixPy. Called at every reset, including soft ones."""

REPL_SCRIPT = Path(__file__).resolve().parent / "modules" / "repl_1_11.py"
SOFT_FRIENDLY, SOFT_RAW = 74, 76
"""REPL_SCRIPT exits with one of these codes for a soft reboot (Ctrl-D) into the friendly or the raw REPL."""


def simulated_firmware(version: str = DEFAULT_MAIXPY, has_kpu: bool = True, has_kmodel_v4: bool = True) -> bytes:
    """Flash contents at 0 of a board that comes with MaixPy: header, payload, SHA-256 (kflash's format).

    The payload names what is simulated; no code of MaixPy is in it.
    """
    payload = json.dumps(
        {"simulated": "MaixPy", "version": version, "kpu": has_kpu, "kmodel_v4": has_kmodel_v4}
    ).encode()
    return rom_image.wrap(payload)


def read_firmware(flash: bytes | bytearray) -> Firmware | None:
    """The firmware at flash address 0; None if the ROM would not start it (wrong length or SHA-256)."""
    try:
        payload = rom_image.unwrap(flash)
    except FormatError:
        return None
    try:
        description = json.loads(payload)
        return Firmware(description["version"], description["kpu"], description["kmodel_v4"])
    except (ValueError, KeyError, TypeError):
        match = re.search(rb"v(\d+\.\d+\.\d+)[-\w]*", payload)
        return Firmware(match.group(1).decode() if match else DEFAULT_MAIXPY)


def maixpy_starter(devices: Devices, flash_dir: Path, sd_dir: Path | None = None) -> StartVm:
    """MaixPy played by a real MicroPython (sim.boards.vm) on the board's devices."""
    source = REPL_SCRIPT.read_text(encoding="utf-8")
    memory_bytes = devices.system_heap_bytes + GC_HEAP_BYTES

    def start(firmware: Firmware, raw: bool) -> Vm:
        is_old = tuple(int(part) for part in firmware.version.split(".")) < (0, 5, 0)
        head = f"VERSION, HAS_KPU, IS_OLD, RAW = {firmware.version!r}, {firmware.has_kpu}, {is_old}, {raw}\n"
        devices.kmodel_v4 = firmware.has_kmodel_v4
        gc_heap_bytes = _gc_heap_bytes(flash_dir, memory_bytes)
        devices.system_heap_bytes = memory_bytes - gc_heap_bytes
        vm = MicroPythonVm(flash_dir, devices, sd_dir, script=head + source, gc_heap_bytes=gc_heap_bytes)
        vm.start()
        return vm

    return start


def _gc_heap_bytes(flash_dir: Path, memory_bytes: int) -> int:
    """The size that Maix.utils.gc_heap_size() has set (sim/boards/modules/Maix.py); 128 KiB if that size
    does not fit."""
    try:
        wanted = int((flash_dir / "freq.conf").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return GC_HEAP_BYTES
    return wanted if 0 < wanted < memory_bytes else 128 << 10


class SimulatedBoard:
    """One board (`sim.parts.board.Board`).

    Its own clock skips waiting. Only while MaixPy runs, which takes real time, does it follow the real clock, and on a
    busy machine it falls behind.
    `flash_dir` holds the files of /flash; `start_vm` starts MaixPy (None: the board boots but sends nothing, which is
    enough to test the loader). `devices` are those that MaixPy is started with.
    """

    name = "simulated board"

    def __init__(
        self,
        flash: NorFlash,
        flash_dir: Path | None = None,
        start_vm: StartVm | None = None,
        wiring: str = "dan",
        faults: Faults | None = None,
        stub_program: bytes | None = None,
        devices: Devices | None = None,
    ):
        self.devices = devices or Devices(flash=flash.image)
        self.devices.now = lambda: self.seconds
        self.seconds = 0.0
        self.flash = flash
        self.flash_dir = flash_dir
        self.start_vm = start_vm
        self.pins = ResetPins(wiring)
        self.faults = faults or Faults()
        self.flash.pages_until_power_cut = self.faults.power_cut_pages
        self.endpoint = IspEndpoint(
            flash,
            kflash_stub() if stub_program is None else stub_program,
            chip_type=0 if "wrong-chip" in self.faults else 1,
            hook=self.faults.request_hook,
        )
        self.vm: Vm | None = None
        self._vm_listens = False
        self._firmware: Firmware | None = None
        self.mode = Mode.OFF
        self.baud = CONSOLE_BAUD
        self.host_baud = CONSOLE_BAUD
        self.boot_button = False
        self.resets = 0
        self._out: deque[tuple[float, bytes]] = deque()
        self._out_free_s = 0.0
        self._busy_until_s = 0.0
        self._start_at_s = math.inf
        self._power_on_at_s = math.inf
        self.on_console: Callable[[bytes], None] = lambda data: None

    def _told(self, now_s: float | None) -> float:
        """The caller's clock becomes the board's; without one the board's own continues."""
        if now_s is not None:
            self.seconds = now_s
        return self.seconds

    @property
    def powered(self) -> bool:
        """Whether the board has power."""
        return self.mode is not Mode.OFF

    @property
    def console_baud(self) -> int:
        """The baud rate at which the board sends."""
        return self.baud

    @property
    def lcd(self) -> Lcd:
        """The board's display."""
        return self.devices.lcd

    def set_camera(self, camera: Camera) -> None:
        """Connect another camera to the board, from the next frame on."""
        self.devices.camera = camera

    # -- supply and pins ---------------------------------------------------------------------------------

    def power_on(self, now_s: float | None = None) -> None:
        """Give the board power."""
        now_s = self._told(now_s)
        self._power_on_at_s = math.inf
        self.mode = Mode.RESET
        self._start_at_s = now_s + RESET_RELEASE_S

    def power_off(self) -> None:
        """Take the board's power away."""
        self._stop_vm()
        self._start_at_s = math.inf
        self._out.clear()
        self.mode = Mode.OFF

    def press_reset(self, now_s: float | None = None, boot: bool = False) -> None:
        """Press the reset button, with the boot button held down or not."""
        now_s = self._told(now_s)
        if self.mode is not Mode.OFF:
            self.boot_button = boot
            self._hold_reset()
            self._start_at_s = now_s + RESET_RELEASE_S

    def set_lines(self, dtr: bool, rts: bool, now_s: float | None = None) -> None:
        """Set DTR and RTS as the host does; True is asserted, which is low."""
        now_s = self._told(now_s)
        event = self.pins.set(dtr, rts)
        if "dead" in self.faults or self.mode is Mode.OFF:
            return
        if event is PinEvent.PULSE:
            self._hold_reset()
            self._start_at_s = now_s + RESET_RELEASE_S
        elif event is PinEvent.HELD:
            self._hold_reset()
            self._start_at_s = math.inf
        elif event is PinEvent.RELEASED and self.mode is Mode.RESET and self._start_at_s == math.inf:
            self._start_at_s = now_s + RESET_RELEASE_S

    def _hold_reset(self) -> None:
        self._stop_vm()
        self._out.clear()
        self.mode = Mode.RESET

    def _stop_vm(self) -> None:
        if self.vm is not None:
            self.vm.stop()
            self.vm = None
        self._vm_listens = False

    def _start(self, now_s: float) -> None:
        """Reset is over: the ROM looks at IO16."""
        self.resets += 1
        self._start_at_s = math.inf
        self._busy_until_s = now_s
        self._out_free_s = now_s
        self.baud = CONSOLE_BAUD
        self.endpoint.reset()
        low, self.boot_button = self.pins.boot_low or self.boot_button, False
        if low:
            self.mode = Mode.LOADER
            return
        firmware = read_firmware(self.flash.image)
        if firmware is None or self.start_vm is None or "dead" in self.faults:
            self.mode = Mode.BLANK
            return
        self.mode = Mode.MAIXPY
        self._boot_maixpy(firmware, now_s + ROM_BOOT_S)

    def _boot_maixpy(self, firmware: Firmware, at_s: float) -> None:
        assert self.start_vm is not None
        if "old-maixpy" in self.faults:
            firmware = Firmware("0.3.2", firmware.has_kpu, False)
        if "no-kpu" in self.faults:
            firmware = Firmware(firmware.version, False, firmware.has_kmodel_v4)
        if "banner-noise" in self.faults:
            self._emit(bytes(range(0x80, 0x100)) + b"\x00\x04>OK\x04\x04>raw REPL", at_s)
        text = boot_messages(firmware)
        if self._format_if_erased():
            text += SPIFFS_FORMATTED
        if self.flash_dir is not None and "ide-mode" in self.faults:
            (self.flash_dir / "ide_mode.conf").write_text("{}", encoding="utf-8")
            self.faults.flags -= {"ide-mode"}
        self._emit(text.encode(), at_s)
        if self.flash_dir is not None and (self.flash_dir / "ide_mode.conf").exists():
            # _boot.py deletes the file, so that only this start is in IDE mode, and replaces the REPL by a binary
            # protocol at 1.5 Mbaud that sends nothing unless asked.
            (self.flash_dir / "ide_mode.conf").unlink()
            self._emit(b"[MaixPy] init end\r\n", at_s)
            self.baud = IDE_BAUD
            return
        self._firmware = firmware
        self.vm = self.start_vm(firmware, False)

    def _format_if_erased(self) -> bool:
        """A SPIFFS that cannot be mounted is formatted at boot; here that is an erased area.

        The files of a SPIFFS that a flashing tool has written become those of /flash.
        """
        area = self.flash.image
        if bytes(area[FILES_ADDRESS : FILES_ADDRESS + len(SPIFFS_MARK)]) == SPIFFS_MARK:
            return False
        written: dict[str, bytes] | None = None
        with contextlib.suppress(FormatError):
            written = spiffs.files(bytes(area[FILES_ADDRESS:]))
        if self.flash_dir is not None:
            for path in self.flash_dir.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for name, data in (written or {}).items():
                (self.flash_dir / name).write_bytes(data)
        area[FILES_ADDRESS : FILES_ADDRESS + len(SPIFFS_MARK)] = SPIFFS_MARK
        return written is None

    # -- the line ----------------------------------------------------------------------------------------

    def set_host_baud(self, baud: int) -> None:
        """Tell the board the baud rate of the other end."""
        self.host_baud = baud

    def _garbled(self) -> bool:
        limit = self.faults.baud_limit
        if limit is not None and self.host_baud > limit:
            return True
        return abs(self.host_baud - self.baud) > BAUD_TOLERANCE * self.baud

    def receive(self, data: bytes, now_s: float | None = None) -> None:
        """Send bytes to the board; the last of them arrives at `now_s`."""
        now_s = self._told(self.seconds + len(data) * BITS_PER_BYTE / self.host_baud if now_s is None else now_s)
        self.advance(now_s)
        if "dead" in self.faults or self.mode in (Mode.OFF, Mode.RESET, Mode.BLANK):
            return
        data = self.faults.to_board(data)
        if self._garbled():
            data = garbage(data)
        if self.mode is Mode.LOADER:
            try:
                actions = self.endpoint.feed(data)
            except PowerCutError:
                self.power_off()
                self._power_on_at_s = now_s + self.faults.power_back_s
                return
            self._carry_out(actions, now_s)
        elif self.vm is not None and self._vm_listens:
            with contextlib.suppress(OSError):
                self.vm.write(data)

    def _carry_out(self, actions: list[Any], now_s: float) -> None:
        at_s = max(now_s, self._busy_until_s)
        for action in actions:
            if isinstance(action, Reply):
                if action.delay_s == math.inf:
                    continue
                at_s += action.delay_s
                self._emit(action.data, at_s)
            elif isinstance(action, SetBaud):
                if "baud-stuck" not in self.faults:
                    self.baud = action.baud
            elif isinstance(action, Restart):
                self._start_at_s = max(at_s, self._out_free_s) + RESET_RELEASE_S
        self._busy_until_s = at_s

    def _emit(self, data: bytes, at_s: float) -> None:
        """Put bytes on the wire to the host, not before `at_s`."""
        if self.mode is Mode.MAIXPY:
            self.on_console(data)
        data = self.faults.to_host(data)
        if self._garbled():
            data = garbage(data)
        self._out_free_s = max(at_s, self._out_free_s) + len(data) * BITS_PER_BYTE / self.baud
        self._out.append((self._out_free_s, data))

    def advance(self, now_s: float) -> None:
        """Do everything that is due by `now_s`."""
        if self._power_on_at_s <= now_s:
            self.power_on(self._power_on_at_s)
        if self._start_at_s <= now_s:
            self._start(self._start_at_s)
        if self.vm is not None:
            self._drain(now_s)
            code = self.vm.poll()
            if code is not None and not self._out and not self._drain(now_s):
                self._stop_vm()
                if code in (SOFT_FRIENDLY, SOFT_RAW) and self.start_vm is not None and self._firmware:
                    self.vm = self.start_vm(self._firmware, code == SOFT_RAW)
                else:
                    # machine.reset(), or the interpreter ended in another way: the chip starts again.
                    self.mode = Mode.RESET
                    self._start_at_s = now_s + RESET_RELEASE_S

    def _drain(self, now_s: float) -> bool:
        """Move what MaixPy has printed onto the line; returns whether there was anything."""
        assert self.vm is not None
        found = False
        while len(self._out) < MOST_PIECES_ON_LINE and (data := self.vm.read(0)):
            self._hear(data, now_s)
            found = True
        self.baud = self.vm.console_baud
        return found

    def _hear(self, data: bytes, at_s: float) -> None:
        """Put on the line what MaixPy has printed."""
        self._emit(data, at_s)
        # Until MaixPy has sent its first text its UART is not set up, and received bytes are lost.
        self._vm_listens = True

    @property
    def has_output(self) -> bool:
        """Whether bytes have reached the host that it has not taken yet."""
        return bool(self._out) and self._out[0][0] <= self.seconds

    def take_output(self, now_s: float | None = None) -> bytes:
        """Take the bytes that have reached the host by `now_s`."""
        now_s = self._told(now_s)
        self.advance(now_s)
        out = bytearray()
        while self._out and self._out[0][0] <= now_s:
            out += self._out.popleft()[1]
        return bytes(out)

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let the board's own clock run; stops early if `until()` becomes true."""
        end_s = self.seconds + seconds
        while True:
            self.advance(self.seconds)
            if self.seconds >= end_s or (until is not None and until()):
                return
            self._wait(end_s)

    def _wait(self, end_s: float) -> None:
        """Advance the clock to the next event, at most to `end_s`."""
        upcoming_s = self._next_s()
        until_s = min(end_s, upcoming_s) if upcoming_s > self.seconds else end_s
        if self.vm is None:
            self.seconds = until_s
            return
        # A turn counts as so much of the board's time at most, however long it took: on a busy machine the program
        # gets less processor time, and its host must not time out because of that.
        step_s = min(until_s - self.seconds, LONGEST_TURN_S)
        begun_s = time.monotonic()
        if len(self._out) >= MOST_PIECES_ON_LINE:
            time.sleep(step_s)
        elif data := self.vm.read(step_s):
            step_s = min(step_s, time.monotonic() - begun_s)
            self._hear(data, self.seconds + step_s)
        self.seconds = min(until_s, self.seconds + step_s)

    def _next_s(self) -> float:
        """The time of the next planned event; inf if there is none (MaixPy may still send something)."""
        return min(self._start_at_s, self._power_on_at_s, self._out[0][0] if self._out else math.inf)


def garbage(data: bytes) -> bytes:
    """What a UART at the wrong rate receives: other bytes, and never an END."""
    return bytes((byte * 37 + 11) & 0x3F | 0x80 for byte in data[::2])


def boot_messages(firmware: Firmware) -> str:
    """What MaixPy's C code prints before Python starts (default clocks)."""
    return (
        "\r\n[MAIXPY] Pll0:freq:806000000\r\n[MAIXPY] Pll1:freq:398666666\r\n[MAIXPY] Pll2:freq:45066666\r\n"
        "[MAIXPY] cpu:freq:403000000\r\n[MAIXPY] kpu:freq:398666666\r\n[MAIXPY] Flash:0xef:0x17\r\n"
    )


SPIFFS_FORMATTED = (
    "[MAIXPY]:Spiffs Unmount.\r\n[MAIXPY]:Spiffs Formating...\r\n[MAIXPY]:Spiffs Format successful\r\n"
    "[MAIXPY]:Spiffs Mount successful\r\n"
)
