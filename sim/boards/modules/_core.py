# MaixPy's uos, utime, gc, micropython and import rules over the Unix port's own. Runs in MicroPython.
import builtins
import gc as _gc
import io as _io
import os as _os
import sys
import time as _time

import _bridge
import micropython as _micropython
import vfs as _vfs

_Module = type(sys)


class _Namespace:
    pass


# Modules that the Unix port has and MaixPy has not (P/include/mpconfigport.h): importing them fails there.
_ABSENT = (
    "io select uselect asyncio uasyncio ssl tls websocket framebuf deflate cryptolib platform vfs requests mip "
    "termios argparse ffi _asyncio _bridge _core _power_on"
).split()
# Known by a u-name only or by both.
_U_NAMES = {
    "uos": "os", "utime": "time", "ujson": "json", "ustruct": "struct", "ubinascii": "binascii",
    "urandom": "random", "ure": "re", "uheapq": "heapq", "ucollections": "collections", "uerrno": "errno",
    "uhashlib": "hashlib", "usocket": "socket",
}  # fmt: skip


def _make_import():
    original = builtins.__import__

    def maixpy_import(name, *rest):
        if name in _ABSENT and name not in sys.modules:
            raise ImportError("no module named '%s'" % name)
        return original(name, *rest)

    return maixpy_import


# --- time


class _Clock:
    # utime.clock(): frames per second.
    def __init__(self):
        self.reset()

    def tick(self):
        self._start = _time.ticks_ms()

    def fps(self):
        self._frames += 1
        self._elapsed += max(_time.ticks_ms() - self._start, 1)
        return 1000 * self._frames / self._elapsed

    def avg(self):
        self._frames += 1
        self._elapsed += _time.ticks_ms() - self._start
        return self._elapsed / self._frames

    def reset(self):
        self._start = _time.ticks_ms()
        self._frames = 0
        self._elapsed = 0


def _make_time(scale):
    module = _Namespace()
    for name in "sleep_us ticks_ms ticks_us ticks_cpu ticks_add ticks_diff time localtime mktime".split():
        setattr(module, name, getattr(_time, name))

    def sleep(seconds):
        sleep_ms(int(seconds * 1000))

    def sleep_ms(ms):
        # Slices, so that Ctrl-C and a reset are served.
        ms = ms // scale
        until = _time.ticks_add(_time.ticks_ms(), ms)
        while True:
            left = _time.ticks_diff(until, _time.ticks_ms())
            if left <= 0:
                return
            _time.sleep_ms(min(left, 20))
            _bridge.call(b"heap_free")  # delivers a pending Ctrl-C

    module.sleep = sleep
    module.sleep_ms = sleep_ms
    module.ticks = _time.ticks_ms
    module.clock = _Clock
    module.set_time = lambda *a: None
    return module


# --- memory

_foreign = 0
_ballast = None


def _make_gc():
    module = _Namespace()
    for name in "enable disable isenabled threshold".split():
        setattr(module, name, getattr(_gc, name))

    def collect():
        _gc.collect()

    module.collect = collect
    module.mem_free = _gc.mem_free
    module.mem_alloc = lambda: _gc.mem_alloc() - _foreign
    return module


def leave_heap(size):
    # Fill the heap until the program finds what a MaixPy heap of `size` bytes has free: the allocation
    # tables take 1 bit in 128 for each, i.e. 1/128 + 1/256 of it. Blocks are 32 bytes in both.
    global _foreign, _ballast
    _gc.collect()
    usable = size * 256 // 259
    # In pieces: one large block would need a gap of its own size after fragmentation.
    _ballast = []
    while True:
        excess = _gc.mem_free() - usable
        if excess < 96:
            break
        try:
            _ballast.append(bytearray(max(min(excess - 64, 65536), 1)))
        except MemoryError:
            break
    _gc.collect()
    _foreign = _gc.mem_alloc()


# --- files


class _LimitedFile(_io.IOBase):
    # A file open for writing on a card that can be full.
    def __init__(self, file):
        self._file = file

    def readinto(self, buffer):
        return self._file.readinto(buffer)

    def write(self, data):
        raw = data.encode() if isinstance(data, str) else data
        _bridge.call(b"sd_room", len(raw))
        if not _bridge.values[0]:
            raise OSError(28)
        return self._file.write(data)

    def ioctl(self, request, arg):
        if request == 4:
            self._file.close()
        elif request == 1:
            self._file.flush()
        elif request == 2:
            return -1
        return 0

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        self.close()


class _FlashFile(_LimitedFile):
    # A file open for writing on SPIFFS, with the room that there was when it was opened.
    def __init__(self, file, free):
        self._file = file
        self._free = free

    def write(self, data):
        raw = data.encode() if isinstance(data, str) else data
        self._free -= len(raw)
        if self._free < 0:
            raise OSError(28)
        return self._file.write(data)


class _Files:
    # SPIFFS: flat, its own error habits (vfs_spiffs.c). FAT: directories, a card that can be full.
    def __init__(self, root, flat):
        self._posix = _vfs.VfsPosix(root)
        self._flat = flat

    def _name(self, path):
        if path.startswith("./"):
            path = path[2:]
        return path

    def mount(self, readonly, mkfs):
        return self._posix.mount(readonly, mkfs)

    def umount(self):
        return self._posix.umount()

    def open(self, path, mode):
        path = self._name(path)
        if self._flat:
            if "/" in path.strip("/"):
                raise OSError(2)
            if "a" in mode:
                self._posix.stat(path)
            writes = not mode.startswith("r") or "+" in mode
            free = self.statvfs("/")[3] * 4096 if writes else 0
            if writes and free < 8192:
                raise OSError(2)  # whatever goes wrong with open() is ENOENT
            try:
                file = self._posix.open(path, mode.replace("x", "w"))
            except OSError:
                raise OSError(2)
            return _FlashFile(file, free - 4096) if writes else file
        file = self._posix.open(path, mode)
        return file if mode.startswith("r") and "+" not in mode else _LimitedFile(file)

    def chdir(self, path):
        return self._posix.chdir(path)

    def getcwd(self):
        return self._posix.getcwd()

    def ilistdir(self, path):
        return self._posix.ilistdir(path)

    def mkdir(self, path):
        if self._flat:
            raise NotImplementedError("SPIFFS not support")
        return self._posix.mkdir(path)

    def rmdir(self, path):
        if self._flat:
            raise OSError(5)
        return self._posix.rmdir(path)

    def remove(self, path):
        return self._posix.remove(self._name(path))

    def rename(self, old, new):
        if self._flat and self._name(new).lstrip("/") in [entry[0] for entry in self._posix.ilistdir("/")]:
            raise OSError(5)  # SPIFFS_ERR_CONFLICTING_NAME
        return self._posix.rename(self._name(old), self._name(new))

    def stat(self, path):
        return self._posix.stat(self._name(path))

    def statvfs(self, path):
        if self._flat:
            used = 0
            for entry in self._posix.ilistdir("/"):
                used += 4096 + (self._posix.stat("/" + entry[0])[6] + 4095) // 4096 * 4096
            return (4096, 4096, 768, 768 - used // 4096, 768 - used // 4096, 0, 0, 0, 0, 126)
        return self._posix.statvfs(path)


def _make_os():
    module = _Namespace()
    for name in "urandom ilistdir listdir mkdir rmdir chdir getcwd remove rename stat statvfs".split():
        setattr(module, name, getattr(_os, name))
    module.mount, module.umount = _vfs.mount, _vfs.umount
    module.sync = lambda: None

    class _Uname(tuple):
        machine = "Sipeed_M1 with kendryte-k210"

    module.uname = lambda: _Uname(("MaixPy", "MaixPy", "1.11.0", "v0.6.2 (simulated)", _Uname.machine))

    def flash_format():
        for entry in _os.ilistdir("/flash"):
            _os.remove("/flash/" + entry[0])

    module.flash_format = flash_format
    return module


def mount(flash_dir, sd_dir):
    # Eager: what the programs may still ask of the Unix port must be loaded before its root goes away.
    for name in "json struct binascii random re heapq collections errno math cmath array hashlib uctypes".split():
        __import__(name)
    _vfs.umount("/")
    _vfs.mount(_Files(flash_dir, True), "/flash")
    sys.path[:] = ["", ".", "/flash"]
    if sd_dir:
        _vfs.mount(_Files(sd_dir, False), "/sd")
        sys.path[:] = ["", ".", "/sd", "/flash"]
    _os.chdir("/sd" if sd_dir else "/flash")


def _make_micropython():
    module = _Namespace()
    for name in "mem_info stack_use qstr_info const opt_level schedule heap_lock heap_unlock".split():
        setattr(module, name, getattr(_micropython, name))

    def kbd_intr(character):
        _bridge.call(b"kbd_intr", character)

    module.kbd_intr = kbd_intr
    module.alloc_emergency_exception_buf = lambda size: None
    return module


def _make_zlib():
    # Decompression only, as in MicroPython 1.11: wbits 0 or more for zlib's header, below for a raw stream.
    import deflate

    module = _Namespace()

    def decompress(data, wbits=0, bufsize=0):
        kind = deflate.RAW if wbits < 0 else deflate.ZLIB
        return deflate.DeflateIO(_io.BytesIO(data), kind, 15).read()

    module.decompress = decompress
    return module


def install(clock_scale):
    time, os = _make_time(clock_scale), _make_os()
    sys.modules.update({
        "time": time, "utime": time, "os": os, "uos": os, "gc": _make_gc(), "micropython": _make_micropython(),
        "uio": _io, "uzlib": _make_zlib(),
    })  # fmt: skip
    sys.modules["zlib"] = sys.modules["uzlib"]
    for u_name, name in _U_NAMES.items():
        if u_name not in sys.modules and name != "socket":
            sys.modules[u_name] = __import__(name)
    builtins.__import__ = _make_import()


def boot():
    # maixpy_main.c: boot.py, then main.py, from the current folder only.
    print("[MaixPy] init end")
    names = {"__name__": "__main__"}
    for name in ("boot.py", "main.py"):
        try:
            _os.stat(name)
        except OSError:
            continue
        try:
            execfile(name, names)  # noqa: F821
        except SystemExit:
            pass
        except BaseException as error:
            sys.print_exception(error)
