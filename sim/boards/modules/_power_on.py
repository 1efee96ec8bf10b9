# The first program after power-on: sets up MaixPy's modules, file systems and memory sizes, then boots.
# Arguments: shared memory address and size, request and answer pipe, GC heap bytes, system heap window, whether there
# is an SD card, picture_ms of _core.py. The sandbox (sim/boards/sandbox.py) has no file system to read from, so
# sim/boards/vm.py prepends MODULES, the texts of this folder, and SCRIPT, a program to run in place of MaixPy's boot
# ("" for none).
import io
import sys

import vfs

address, size, request_fd, answer_fd, gc_heap, window, has_sd, picture_ms = [int(v) for v in sys.argv[1:]]


class _Modules:
    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def stat(self, path):
        if path.lstrip("/") not in MODULES:  # noqa: F821
            raise OSError(2)
        return (0x8000, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def open(self, path, mode):
        return io.BytesIO(MODULES[path.lstrip("/")].encode())  # noqa: F821


vfs.umount("/")
vfs.mount(_Modules(), "/modules")
sys.path[:] = ["/modules"]

import _bridge

_bridge.connect(request_fd, answer_fd, address, size)

import _core

_core.install(picture_ms)
for name in ("image", "sensor", "lcd", "KPU", "Maix", "fpioa_manager", "machine", "board"):
    __import__(name)
program = compile(SCRIPT, "program.py", "exec") if SCRIPT else None  # noqa: F821
_core.mount(has_sd)
del name, MODULES, SCRIPT  # noqa: F821
_core.leave_heap(gc_heap)
if program is None:
    _core.boot()
else:
    exec(program, {"__name__": "__main__"})
