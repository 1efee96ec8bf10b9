"""CPython in place of MicroPython's Unix port, where there is no MicroPython. It is started as a program of its own.

It gives the stand-ins (sim/boards/modules/) what they need of that port, `vfs`, `uctypes`, `time.ticks_ms()` and the
like, and then runs the same first program. Integers, files and pictures are the same; memory is not: `gc.mem_free()`
always returns the same number. The program is not in a sandbox.

Arguments: a port of this computer on which the host waits, the file with the shared memory, then the program's own
arguments. The environment holds TOKEN, by which the host recognizes this process, and PROGRAM, the first program's
file.
"""

from __future__ import annotations

import _thread
import builtins
import ctypes
import gc
import importlib.abc
import importlib.machinery
import io
import mmap
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
import zlib
from collections.abc import Callable, Iterator
from typing import Any

TOKEN, PROGRAM = "MAIX_POSENET_TOKEN", "MAIX_POSENET_PROGRAM"
INTERRUPT_AT, READ_AT, MORE_BYTES = 0, 8, 16
"""After the board's memory: a byte that requests a KeyboardInterrupt, and the number of console bytes read (u64)."""
WATCH_S = 0.01
PRELOADED = [
    "json",
    "struct",
    "binascii",
    "random",
    "re",
    "heapq",
    "collections",
    "errno",
    "math",
    "cmath",
    "array",
    "hashlib",
    "encodings.latin_1",
]

real_open = builtins.open
real_memoryview = builtins.memoryview


def module(name: str, **members: object) -> Any:
    """A new module that `import name` finds."""
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


# -- files ---------------------------------------------------------------------------------------------------


class Mounts:
    """MicroPython's VFS: file systems by mount point, one of them the current one."""

    def __init__(self) -> None:
        self.points: dict[str, Any] = {}
        self.current = ""

    def mount(self, system: Any, point: str) -> None:
        self.points[point] = system

    def umount(self, point: str) -> None:
        self.points.pop(point, None)

    def at(self, path: str) -> tuple[Any, str]:
        """The file system of a path, and the path in it; OSError (ENODEV) if nothing is mounted there."""
        if not path.startswith("/"):
            path, point = path or "", self.current
        else:
            point = "/" + path.split("/")[1]
            path = path[len(point) :] or "/"
        if point not in self.points:
            raise OSError(19)
        return self.points[point], path

    def chdir(self, path: str) -> None:
        system, inside = self.at(path)
        system.chdir(inside)
        if path.startswith("/"):
            self.current = "/" + path.split("/")[1]

    def getcwd(self) -> str:
        return self.current + str(self.points[self.current].getcwd()).rstrip("/")

    def ilistdir(self, path: str = "") -> Iterator[tuple[Any, ...]]:
        if path == "/":
            return iter([(point[1:], 0x4000, 0) for point in self.points])
        system, inside = self.at(path)
        return iter(system.ilistdir(inside))

    def listdir(self, path: str = "") -> list[str]:
        return [entry[0] for entry in self.ilistdir(path)]

    def stat(self, path: str) -> tuple[Any, ...]:
        if path == "/" or path in self.points:
            return (0x4000, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        system, inside = self.at(path)
        return tuple(system.stat(inside))

    def rename(self, old: str, new: str) -> None:
        system, inside = self.at(old)
        system.rename(inside, self.at(new)[1])

    def one_path(self, name: str) -> Callable[[str], Any]:
        """The function `name` of a path's file system."""

        def call(path: str) -> Any:
            system, inside = self.at(path)
            return getattr(system, name)(inside)

        return call

    def open(self, path: str, mode: str = "r") -> Any:
        system, inside = self.at(path)
        return system.open(inside, mode)


class BoardFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports only from the board's files."""

    def __init__(self, mounts: Mounts):
        self.mounts = mounts

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        for folder in sys.path:
            name = f"{folder}/{fullname}.py" if folder.startswith("/") else f"{fullname}.py"
            try:
                self.mounts.stat(name)
            except OSError:
                continue
            return importlib.machinery.ModuleSpec(fullname, self, origin=name)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None and module.__spec__.origin is not None
        run_file(self.mounts, module.__spec__.origin, module.__dict__)


def run_file(mounts: Mounts, path: str, names: dict[str, Any]) -> None:
    """Execute a file of the board."""
    file = mounts.open(path)
    try:
        source = file.read()
    finally:
        file.close()
    exec(compile(source, path.rsplit("/", 1)[-1], "exec"), names)


# -- memory --------------------------------------------------------------------------------------------------


def bytearray_at(address: int, count: int) -> memoryview:
    """The bytes at an address of this process, as a view."""
    return real_memoryview((ctypes.c_ubyte * count).from_address(address)).cast("B")


def addressof(buffer: Any) -> int:
    """The address at which an object's bytes lie."""
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(buffer))


class Struct:
    """`uctypes.struct` as far as the stand-ins use it: an object whose bytes are at an address."""

    _view: memoryview

    def __init__(self, address: int, descriptor: dict[str, tuple[int, int]]):
        self._view = bytearray_at(address, descriptor["data"][1])

    def __bytes__(self) -> bytes:
        return bytes(self._view)


def view(thing: Any) -> memoryview:
    """memoryview() that takes a Struct as well: before Python 3.12 no class can offer its bytes."""
    return real_memoryview(thing._view if isinstance(thing, Struct) else thing)


# -- console and time ----------------------------------------------------------------------------------------


class Console:
    """Standard input that a KeyboardInterrupt can interrupt on every system, with a count of the bytes read."""

    def __init__(self, shared: memoryview):
        self._shared = shared
        self._bytes = bytearray()
        self._read = 0
        self._ended = False
        self._changed = threading.Condition()
        self.buffer = self
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        while data := os.read(0, 65536):
            with self._changed:
                self._bytes += data
                self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()

    def read(self, count: int = -1) -> bytes:
        """Read `count` bytes, or fewer at the end of the input."""
        while True:
            with self._changed:
                if self._ended or 0 <= count <= len(self._bytes):
                    data = bytes(self._bytes[: count if count >= 0 else None])
                    del self._bytes[: len(data)]
                    self._read += len(data)
                    self._shared[READ_AT : READ_AT + 8] = self._read.to_bytes(8, "little")
                    return data
                self._changed.wait(WATCH_S)


def watch(shared: memoryview) -> None:
    """Interrupt the program whenever the host asks for it, as Ctrl-C does."""
    while True:
        time.sleep(WATCH_S)
        if shared[INTERRUPT_AT]:
            shared[INTERRUPT_AT] = 0
            _thread.interrupt_main()


def print_exception(error: BaseException, file: Any = None) -> None:
    """Print an exception as MicroPython does: without source lines, and without the frames of this file."""
    lines = ["Traceback (most recent call last):"]
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename != __file__:
            lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
    name = "ImportError" if isinstance(error, ModuleNotFoundError) else type(error).__name__
    print("\n".join([*lines, f"{name}: {error}"]), file=file or sys.stdout)


def install_time() -> None:
    """Install MicroPython's `time`, whose ticks are numbers of 30 bits that begin again at 0."""

    def ticks_us() -> int:
        return time.monotonic_ns() // 1000 & 0x3FFFFFFF

    def ticks_diff(end: int, start: int) -> int:
        return (end - start + 0x20000000 & 0x3FFFFFFF) - 0x20000000

    module("time", time=time.time, localtime=time.localtime, mktime=time.mktime, sleep=time.sleep,
           sleep_ms=lambda ms: time.sleep(max(ms, 0) / 1000), sleep_us=lambda us: time.sleep(max(us, 0) / 1e6),
           ticks_ms=lambda: time.monotonic_ns() // 1_000_000 & 0x3FFFFFFF, ticks_us=ticks_us, ticks_cpu=ticks_us,
           ticks_add=lambda start, more: start + more & 0x3FFFFFFF, ticks_diff=ticks_diff)  # fmt: skip


def install(mounts: Mounts, ends: dict[int, Any], heap_bytes: int) -> None:
    """Install the modules and functions of MicroPython's Unix port, under their names."""

    def nothing(*arguments: object) -> None:
        return None

    class Inflating:
        def __init__(self, stream: Any, kind: int, bits: int = 15):
            self._data = zlib.decompress(stream.read(), -bits if kind else bits)

        def read(self) -> bytes:
            return self._data

    def open_any(source: Any, mode: str = "r", **named: Any) -> Any:
        # The two ends of the bridge are opened by number.
        return ends[source] if isinstance(source, int) else mounts.open(source, mode)

    def execfile(path: str, names: dict[str, Any]) -> None:
        run_file(mounts, path, names)

    for name in PRELOADED:
        __import__(name)
    module("vfs", mount=mounts.mount, umount=mounts.umount)
    module("uctypes", bytearray_at=bytearray_at, bytes_at=ctypes.string_at, addressof=addressof, struct=Struct,
           ARRAY=0, UINT8=0)  # fmt: skip
    module("deflate", RAW=1, ZLIB=0, DeflateIO=Inflating)
    unneeded = ["mem_info", "stack_use", "qstr_info", "opt_level", "schedule", "heap_lock", "heap_unlock"]
    module("micropython", const=lambda value: value, **dict.fromkeys(unneeded, nothing))
    module("gc", enable=gc.enable, disable=gc.disable, isenabled=gc.isenabled, threshold=nothing, collect=nothing,
           mem_free=lambda: heap_bytes * 256 // 259, mem_alloc=lambda: 0)  # fmt: skip
    # IOBase closes forgotten files at any moment, even in the middle of a request.
    module("io", IOBase=object, BytesIO=io.BytesIO, StringIO=io.StringIO, open=open_any)
    install_time()
    module("os", urandom=os.urandom, ilistdir=mounts.ilistdir, listdir=mounts.listdir, chdir=mounts.chdir,
           getcwd=mounts.getcwd, stat=mounts.stat, rename=mounts.rename,
           **{name: mounts.one_path(name) for name in ("mkdir", "rmdir", "remove", "statvfs")})  # fmt: skip
    vars(builtins).update(open=open_any, memoryview=view, execfile=execfile)
    vars(sys)["print_exception"] = print_exception
    sys.meta_path[:] = [BoardFinder(mounts)]


def main() -> None:
    """Connect, set up MicroPython's environment, run the first program; the exit code is the program's."""
    port, memory_file, *arguments = sys.argv[1:]
    token = os.environ.pop(TOKEN)
    with real_open(os.environ.pop(PROGRAM), encoding="utf-8") as file:
        program = file.read()
    with real_open(memory_file, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    line = socket.create_connection(("127.0.0.1", int(port)))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.sendall(token.encode())
    ends = {0: line.makefile("wb", 0), 1: line.makefile("rb")}
    shared = memoryview(memory)[len(memory) - MORE_BYTES :]
    sys.stdin = Console(shared)
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(raw, "utf-8", "replace", newline="\n", write_through=True)
    # A process that a shell started in the background ignores SIGINT, and `interrupt_main` would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, args=(shared,), daemon=True).start()
    address = str(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    sys.argv = ["micropython", *(address if word == "@ADDRESS" else word for word in arguments)]
    mounts = Mounts()
    install(mounts, ends, int(arguments[4]))
    code = 0
    try:
        exec(compile(program, "_power_on.py", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException as error:
        print_exception(error)
        code = 1
    os._exit(code)


if __name__ == "__main__":
    main()
