# MaixPy's uos, utime, gc, micropython and import rules, made from those of the Unix port. Runs in MicroPython.
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


# Modules of the Unix port that MaixPy does not have (P/include/mpconfigport.h); importing them must fail.
_ABSENT = (
    "io select uselect asyncio uasyncio ssl tls websocket framebuf deflate cryptolib platform vfs requests mip "
    "termios argparse ffi _asyncio _bridge _core _power_on"
).split()
# Names with u → names without, of modules that MaixPy knows by the first or by both.
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


def _make_time():
    module = _Namespace()
    for name in "sleep_us ticks_ms ticks_us ticks_cpu ticks_add ticks_diff time localtime mktime".split():
        setattr(module, name, getattr(_time, name))

    def sleep(seconds):
        sleep_ms(int(seconds * 1000))

    def sleep_ms(ms):
        # In slices, so that Ctrl-C and a reset take effect.
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


# The program's clock counts this much for each picture, plus what it sleeps, and nothing else; 0: the computer's time.
picture_ms = 0
_counted_us = 1000000


def _make_counted_time():
    module = _make_time()

    def sleep_us(us):
        global _counted_us
        _counted_us += us
        _bridge.call(b"heap_free")  # delivers a pending Ctrl-C

    module.sleep_us = sleep_us
    module.sleep_ms = lambda ms: sleep_us(ms * 1000)
    module.sleep = lambda seconds: sleep_us(int(seconds * 1000000))
    module.ticks_us = module.ticks_cpu = lambda: _counted_us
    module.ticks_ms = module.ticks = lambda: _counted_us // 1000
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
    # Fill the heap until as much is free as in a MaixPy heap of `size` bytes, whose allocation tables take 1/128 +
    # 1/256 of it. Blocks are 32 bytes in both.
    global _foreign, _ballast
    _gc.collect()
    usable = size * 256 // 259
    # In small pieces, which fill the gaps left by the start, so that the free memory is in one piece, as on the chip.
    _ballast = []
    while True:
        excess = _gc.mem_free() - usable  # walks the whole heap
        if excess < 96:
            break
        try:
            for _ in range(max(excess // 1280, 1)):
                _ballast.append(bytearray(max(min(excess - 64, 1024), 1)))
        except MemoryError:
            break
    _gc.collect()
    _foreign = _gc.mem_alloc()


# --- files


# The bytes read last, kept outside the program's own heap: an import reads 255 bytes at a time, json.load() single
# bytes, and a request to the host for each would leave garbage between the objects that the import keeps.
_kept = bytearray(65536)
_kept_view = memoryview(_kept)
_kept_of = None
_kept_at = _kept_count = 0


class _File(_io.IOBase):
    # A file that the host has open (sim/boards/board_files.py); only the position is kept here.
    def __init__(self, handle, mode):
        self._handle = handle
        self._text = "b" not in mode
        self._append = "a" in mode
        self._position = 0

    def _fill(self):
        # Make _kept hold the bytes at the position; returns how many there are, 0 at the end of the file.
        global _kept_of, _kept_at, _kept_count
        inside = self._position - _kept_at
        if _kept_of is not self or not 0 <= inside < _kept_count:
            _bridge.call(b"fs_read", self._handle, len(_kept), self._position, into=_kept_view)
            _kept_of, _kept_at, _kept_count = self, self._position, _bridge.length
            inside = 0
        return _kept_count - inside

    def _bytes(self, count):
        if 0 <= count <= len(_kept):
            count = min(count, self._fill())
            start = self._position - _kept_at
            data = bytes(_kept_view[start : start + count])
        else:
            data = _bridge.call(b"fs_read", self._handle, count, self._position)
        self._position += len(data)
        return data

    def _shown(self, data):
        if not self._text:
            return data
        while True:
            try:
                return str(data, "utf-8")
            except UnicodeError:
                # The bytes end in the middle of a character, or they are no text at all.
                more = self._bytes(1) if len(data) and data[-1] & 0x80 else b""
                if not more:
                    raise
                data += more

    def read(self, count=-1):
        return self._shown(self._bytes(-1 if count is None else count))

    def readinto(self, buffer, count=-1):
        view = memoryview(buffer)
        if count >= 0:
            view = view[:count]
        done = 0
        # Fill the buffer unless the file ends, because an import takes anything less for the end of the file.
        while done < len(view):
            step = min(self._fill(), len(view) - done)
            if not step:
                break
            start = self._position - _kept_at
            view[done : done + step] = _kept_view[start : start + step]
            self._position += step
            done += step
        return done

    def readline(self, count=-1):
        line = b""
        while count < 0 or len(line) < count:
            here = self._fill()
            if not here:
                break
            start = self._position - _kept_at
            end = _kept.find(b"\n", start, start + here) + 1 or start + here
            if count >= 0:
                end = min(end, start + count - len(line))
            line += _kept_view[start:end]
            self._position += end - start
            if line.endswith(b"\n"):
                break
        return self._shown(line)

    def readlines(self):
        return list(self)

    def __iter__(self):
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def write(self, data):
        global _kept_of
        raw = data.encode() if isinstance(data, str) else data
        _kept_of = None
        _bridge.call(b"fs_write", self._handle, -1 if self._append else self._position, payload=raw)
        count, self._position = _bridge.values[:2]
        return count

    def seek(self, offset, whence=0):
        if whence == 1:
            offset += self._position
        elif whence == 2:
            _bridge.call(b"fs_size", self._handle)
            offset += _bridge.values[0]
        if offset < 0:
            raise OSError(22)
        self._position = offset
        return offset

    def tell(self):
        return self._position

    def ioctl(self, request, arg):
        if request == 4:
            self.close()
        elif request == 2:
            return -1
        elif request == 11:
            return 255
        return 0

    def flush(self):
        pass

    def close(self):
        global _kept_of
        _bridge.call(b"fs_close", self._handle)
        self._handle = -1
        if _kept_of is self:
            _kept_of = None

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        self.close()


class _Files:
    # A volume on the host as a file system: 0 is SPIFFS, which has no folders, 1 is FAT.
    def __init__(self, volume):
        self._volume = volume
        self._folder = "/"

    def _call(self, name, path):
        return _bridge.call(name, self._volume, payload=self._name(path).encode())

    def _name(self, path):
        return path if path.startswith("/") else self._folder + path

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def open(self, path, mode):
        _bridge.call(b"fs_open", self._volume, payload=(mode + "\0" + self._name(path)).encode())
        return _File(_bridge.values[0], mode)

    def chdir(self, path):
        parts = []
        for part in self._name(path).split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                parts.append(part)
        folder = "/" + "/".join(parts)
        self._call(b"fs_stat", folder)
        if _bridge.values[0] != 0x4000:
            raise OSError(2)
        self._folder = folder if folder.endswith("/") else folder + "/"

    def getcwd(self):
        return self._folder[:-1] or "/"

    def ilistdir(self, path):
        parts = bytes(self._call(b"fs_list", path)).split(b"\0")
        for i in range(0, len(parts) - 1, 2):
            yield (str(parts[i + 1], "utf-8"), int(parts[i]), 0)

    def mkdir(self, path):
        if self._volume == 0:
            raise NotImplementedError("SPIFFS not support")
        self._call(b"fs_mkdir", path)

    def rmdir(self, path):
        if self._volume == 0:
            raise OSError(5)
        self._call(b"fs_rmdir", path)

    def remove(self, path):
        self._call(b"fs_remove", path)

    def rename(self, old, new):
        names = self._name(old) + "\0" + self._name(new)
        _bridge.call(b"fs_rename", self._volume, payload=names.encode())

    def stat(self, path):
        self._call(b"fs_stat", path)
        mode, size, changed = _bridge.values[:3]
        return (mode, 0, 0, 0, 0, 0, size, changed, changed, changed)

    def statvfs(self, path):
        _bridge.call(b"fs_statvfs", self._volume)
        block, blocks, free = _bridge.values[:3]
        return (block, block, blocks, free, free, 0, 0, 0, 0, 126)


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


def mount(has_sd):
    # Import now whatever programs may use of the Unix port, because the stand-ins' folder is about to be unmounted.
    for name in "json struct binascii random re heapq collections errno math cmath array hashlib uctypes".split():
        __import__(name)
    _vfs.umount("/modules")
    _vfs.mount(_Files(0), "/flash")
    sys.path[:] = ["", ".", "/flash"]
    if has_sd:
        _vfs.mount(_Files(1), "/sd")
        sys.path[:] = ["", ".", "/sd", "/flash"]
    _os.chdir("/sd" if has_sd else "/flash")


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
    # Decompression only, as in MicroPython 1.11; a negative wbits means a raw stream without zlib's header.
    import deflate

    module = _Namespace()

    def decompress(data, wbits=0, bufsize=0):
        kind = deflate.RAW if wbits < 0 else deflate.ZLIB
        return deflate.DeflateIO(_io.BytesIO(data), kind, 15).read()

    module.decompress = decompress
    return module


def install(ms_of_a_picture):
    global picture_ms
    picture_ms = ms_of_a_picture
    time, os = _make_counted_time() if picture_ms else _make_time(), _make_os()
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
