# First program of every power-on: puts MaixPy's modules, file systems and memory sizes in place, then boots.
# Arguments: shared memory address and size, request and answer pipe, GC heap bytes, system heap window, /flash,
# /sd or -, script or -, clock scale.
import sys

address, size, request_fd, answer_fd, gc_heap, window = [int(v) for v in sys.argv[1:7]]
flash_dir, sd_dir, script, clock_scale = sys.argv[7], sys.argv[8], sys.argv[9], int(sys.argv[10])
sys.path[:] = [__file__.rsplit("/", 1)[0]]

import _bridge

_bridge.connect(request_fd, answer_fd, address, size)

import _core

_core.install(clock_scale)
for name in ("image", "sensor", "lcd", "KPU", "Maix", "fpioa_manager", "machine", "board"):
    __import__(name)
program = None
if script != "-":
    with open(script) as file:
        program = compile(file.read(), script, "exec")
_core.mount(flash_dir, None if sd_dir == "-" else sd_dir)
del name
_core.leave_heap(gc_heap)
if program is None:
    _core.boot()
else:
    exec(program, {"__name__": "__main__"})
