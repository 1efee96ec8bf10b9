"""Frames a second of the application on stock MaixPy in the K210 emulator, and where every millisecond goes.

    python -m benchmarks.frames --firmware MAIXPY.bin --build BUILD_FOLDER --photo PERSON.jpg
        [--people 1 2 5] [--before OTHER_FIRMWARE_FOLDER] [--settings '{"single": true}'] [--turbo] [--profile]

Three rows in the same run, on the same picture:

    before   one frame buffer (`"double_buffer": false`), stock clocks; with --before the firmware of another checkout
             (`git worktree add ../before COMMIT`, `--before ../before/firmware`), which may only know this way
    now      this firmware with its default settings, stock clocks
    turbo    the same with `"turbo": true`: CPU and KPU at 600 MHz (with --turbo)

The camera sees copies of one photo, side by side.

Milliseconds are those of the emulated chip: one cycle per instruction, KPU layers by the cycle model, LCD and camera by
their clocks. They are estimates; instructions are counted. With --profile every function of the application and
every call of MaixPy's that it makes each frame is wrapped by a probe. A row is the time in the function itself, without
the time in the rows that it called and without the probes' own time (measured on an empty function), so the rows add up
to the frame. `waiting` is time in which hart 0 executed nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoder_on_k210 import people_in_a_grid
from benchmarks.firmware_py_mpy import NOT_ON_THE_WAY, compiled_file
from common.arrays import Numbers
from common.cli import guarded
from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR
from common.pictures import load_picture
from host_tools.repl import RawRepl
from model_build.build_folder import BuildFolder
from sim.k210.k210_board import K210Board
from sim.parts.board_transport import BoardTransport

COUNTER_ADDRESS = 0x60000000  # nothing is there on the chip; the benchmark's own counter answers
FRAMES = 20
TURBO_MHZ = 600
WARM_UP_FRAMES = 5

START = """
import gc, utime, app
_a = app.App(settings=%r)
_a._start()
for _ in range(%d):
    _a.step()
"""

MEASURE = """
gc.collect()
gc.disable()
m = gc.mem_alloc()
for _ in range(3):
    _a.step()
m = (gc.mem_alloc() - m) // 3
gc.enable()
gc.collect()
n = _a.frames
t = utime.ticks_us()
for _ in range(%d):
    _a.step()
t = utime.ticks_us() - t
from Maix import utils, freq
_r = {"frame_us": t // (_a.frames - n), "garbage_bytes": m, "found": len(_a.net._found),
      "forward_us": _a.net.forward_us, "decode_us": _a.net.decode_us, "system_heap_bytes": utils.heap_free(),
      "gc_heap_bytes": gc.mem_free(), "mhz": freq.get()}
"""

# Every probe keeps [calls, instructions, cycles] of its own; _inner collects what the probes called within took.
PROBES = """
import sys, uctypes
_c = uctypes.struct(%d, {"instructions": uctypes.UINT32 | 0, "cycles": uctypes.UINT32 | 4})
_rows = {}
_inner = [0, 0, 0]
def _probe(name, f):
    row = _rows[name] = [0, 0, 0, 0]
    c, inner = _c, _inner
    def probed(*args, **more):
        i0, c0, n0 = inner
        inner[0] = inner[1] = inner[2] = 0
        i = c.instructions
        t = c.cycles
        result = f(*args, **more)
        t = (c.cycles - t) & 0xFFFFFFFF
        i = (c.instructions - i) & 0xFFFFFFFF
        row[0] += 1
        row[1] += i - inner[0]
        row[2] += t - inner[1]
        row[3] += inner[2]
        inner[0] = i0 + i
        inner[1] = c0 + t
        inner[2] = n0 + 1
        return result
    return probed
class _Module:
    def __init__(self, module, names, label):
        self._module = module
        for name in names:
            if hasattr(module, name):
                setattr(self, name, _probe(label + "." + name, getattr(module, name)))
    def __getattr__(self, name):
        return getattr(self._module, name)
class _Canvas:
    def __init__(self, names):
        self.img = None
        for name in names:
            setattr(self, name, self._call(name))
    def _call(self, name):
        return _probe("img." + name, lambda *args, **more: getattr(self.img, name)(*args, **more))
    def width(self):
        return self.img.width()
    def height(self):
        return self.img.height()
def _wrap(module, names):
    for name in names:
        owner = module
        parts = name.split(".")
        for part in parts[:-1]:
            owner = getattr(owner, part, None)
        if hasattr(owner, parts[-1]):
            setattr(owner, parts[-1], _probe(name, getattr(owner, parts[-1])))
def _nothing():
    pass
_empty = _probe("empty", _nothing)
def _twice():
    _empty()
_outer = _probe("around empty", _twice)
def _plain():
    _nothing()
_bare = _probe("around nothing", _plain)
for _ in range(50):
    _outer()
    _bare()
_cost = [[v // 50 for v in _rows.pop(name)[:3]] for name in ("empty", "around empty", "around nothing")]
"""


@dataclass(frozen=True)
class Way:
    """How a row of the table is measured."""

    name: str
    settings: dict[str, Any]
    folder: Path
    mhz: int | None = None


@dataclass(frozen=True)
class Speed:
    """What one firmware does with one build and picture."""

    frame_ms: float
    found: int
    garbage_bytes: int
    forward_ms: float
    decode_ms: float
    system_heap_bytes: int
    gc_heap_bytes: int
    cpu_mhz: int
    kpu_mhz: int
    shown: Numbers
    """The LCD after the last frame, uint8 (240, 320, 3) RGB."""

    @property
    def frames_per_second(self) -> float:
        """1000 ms over the time of a frame."""
        return 1e3 / self.frame_ms


@dataclass(frozen=True)
class Row:
    """A function's own part of a frame."""

    name: str
    calls: float
    instructions: float
    ms: float
    waiting_ms: float


class Bench:
    """A board at its prompt with a build and one firmware in its flash. `run` begins from that state each time."""

    def __init__(self, image: bytes, build: BuildFolder, folder: Path, camera: str = "ov2640", mhz: int | None = None):
        self.build = build
        self.manifest = build.load_manifest()
        self.board = K210Board(image, source=self._picture, camera=camera)
        kmodel = build.kmodel.read_bytes()
        address = self.manifest.kmodel.flash_address
        self.board.flash.memory[address : address + len(kmodel)] = kmodel
        self.repl = RawRepl(BoardTransport(self.board))
        if not self.repl.enter_after_reset():
            raise UserError("the emulated board's REPL did not answer")
        files = {"posenet.json": build.manifest.read_bytes()}
        with tempfile.TemporaryDirectory() as name:
            for module in sorted(folder.glob("*.py")):
                if module.stem not in NOT_ON_THE_WAY:
                    files[f"{module.stem}.mpy"] = compiled_file(module, Path(name))
        self.repl.install(files, self.repl.info())
        if mhz is not None:
            self.repl._execute_quietly(f"from Maix import freq\nfreq.set(cpu={mhz}, pll1={mhz}, kpu_div=1)")
            # It restarted by itself, and is at its prompt again.
            if not self.repl.try_enter():
                raise UserError(f"the emulated board's REPL did not answer at {mhz} MHz")
        self._at_prompt = self.board.save()
        for hart in self.board.soc.harts:
            hart.map_device(COUNTER_ADDRESS, 4096, self._count, lambda offset, value: None)
        self.photo = np.full((240, 320, 3), 128, np.uint8)
        self.people = 1

    def _picture(self, width: int, height: int) -> Numbers:
        return people_in_a_grid(self.photo, self.people, width, height)

    def _count(self, offset: int) -> int:
        soc = self.board.soc
        hart = soc.harts[0]
        counted = soc.instructions[0] + hart.executed() if offset == 0 else soc.now
        return counted & 0xFFFFFFFF

    def start(self, people: int, settings: dict[str, Any]) -> None:
        """Switch a board on and let the application run until its frame loop is warm."""
        self.people = people
        self.board.restore(self._at_prompt)
        self.repl.ask(START % (settings, WARM_UP_FRAMES) + "_r = 0", timeout_s=60)

    def speed(self, frames: int = FRAMES) -> Speed:
        """Measure the time of a frame without any probe, the mean of so many."""
        answer = self.repl.ask(MEASURE % frames, timeout_s=3 * frames)
        assert isinstance(answer, dict)
        cpu_mhz, kpu_mhz = answer["mhz"]
        return Speed(
            answer["frame_us"] / 1e3, answer["found"], answer["garbage_bytes"], answer["forward_us"] / 1e3,
            answer["decode_us"] / 1e3, answer["system_heap_bytes"], answer["gc_heap_bytes"], cpu_mhz, kpu_mhz,
            self.board.lcd.image(),
        )  # fmt: skip

    def profile(self) -> list[Row]:
        """The rows of the loop that runs after `start`, the most expensive first."""
        self.repl.ask(PROBES % COUNTER_ADDRESS + "_r = 0", timeout_s=60)
        self.repl.ask(WRAP + "_r = 0", timeout_s=60)
        self.repl.ask("_a.step()\n_a.step()\nfor r in _rows.values():\n    r[:] = [0, 0, 0, 0]\n_r = 0", timeout_s=60)
        for _ in range(FRAMES):
            self.repl.ask("_a.step()\n_r = 0", timeout_s=60)
        answer = self.repl.ask("_r = (_rows, _cost)", timeout_s=60)
        assert isinstance(answer, tuple)
        rows, cost = answer
        # A probe's cost within its own row, and that in the row of its caller.
        within = cost[0][1:]
        around = [cost[1][i] - cost[2][i] for i in (1, 2)]
        hz = self.board.soc.sysctl.cpu_hz
        table = []
        for name, (calls, instructions, cycles, children) in rows.items():
            own = [
                (total - calls * inside - children * outside) / FRAMES
                for total, inside, outside in zip((instructions, cycles), within, around, strict=True)
            ]
            if calls:
                table.append(Row(name, calls / FRAMES, own[0], 1e3 * own[1] / hz, 1e3 * (own[1] - own[0]) / hz))
        return sorted(table, key=lambda row: -row.ms)


# What is wrapped: names that a firmware lacks are left out, so that older ones can be measured.
WRAP = """
import app, posenet, decoder, screen, tracker, lines, sensor, lcd, gc
import KPU
_wrap(app, ("App.step", "App._count", "App._corner", "App._poll_button", "App._feed", "App._texts"))
_wrap(posenet, ("PoseNet.poses", "PoseNet._fill"))
_wrap(decoder, ("Decoder.multi", "Decoder.single", "Decoder._load", "Decoder._roots", "Decoder._follow",
                "Decoder._score"))
_wrap(screen, ("Screen.draw", "Screen.show", "Screen.canvas", "Screen.corner", "Screen._frame"))
_wrap(tracker, ("Tracker.update", "Tracker._match", "Tracker._smooth", "OneEuro.update"))
_wrap(lines, ("format_line", "UartLines.send"))
_net = _a.net
_net._decode = getattr(_net._decoder, "single" if _a.settings["single"] else "multi")
getattr(_net, "_model", _net)._kpu = _Module(KPU, ("forward", "get_output"), "KPU")
sys.modules["sensor"] = _Module(sensor, ("snapshot",), "sensor")
try:
    import drawing
    screen.draw_poses = _probe("draw_poses", screen.draw_poses)
    _wrap(screen, ("KeptRows.drop",))
except ImportError:
    pass
screen.lcd = _Module(lcd, ("display", "draw_string", "fill_rectangle", "clear"), "lcd")
app.gc = _Module(gc, ("collect",), "gc")
_img = _Canvas(("draw_line", "draw_circle", "draw_string", "draw_rectangle", "draw_image", "resize"))
_canvas = screen.Screen.canvas
_show = screen.Screen.show
def _proxied(self, img):
    _img.img = _canvas(self, img)
    return _img
screen.Screen.canvas = _proxied
screen.Screen.show = lambda self, canvas: _show(self, canvas.img)
"""


def table(rows: list[Row]) -> Iterator[str]:
    """The profile as text."""
    yield f"  {'a frame, each row without the rows it calls':44}{'calls':>7}{'instructions':>14}{'ms':>8}{'waiting':>9}"
    for row in rows:
        yield f"  {row.name:44}{row.calls:7.1f}{row.instructions:14,.0f}{row.ms:8.2f}{row.waiting_ms:9.2f}"
    total = [sum(getattr(row, name) for row in rows) for name in ("instructions", "ms", "waiting_ms")]
    yield f"  {'sum':44}{'':7}{total[0]:14,.0f}{total[1]:8.2f}{total[2]:9.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--firmware", type=Path, required=True, help="MaixPy image (.bin)")
    parser.add_argument("--build", type=Path, nargs="+", required=True, help="build folders")
    parser.add_argument("--photo", type=Path, required=True, help="photo with one person, upright")
    parser.add_argument("--people", type=int, nargs="+", default=[1], help="copies of the person shown")
    parser.add_argument("--before", type=Path, help="firmware folder that the row `before` is measured with")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON over the application's settings")
    parser.add_argument("--turbo", action="store_true", help="measure at 600 MHz as well")
    parser.add_argument("--camera", default="ov2640", help="the emulated sensor")
    parser.add_argument("--frames", type=int, default=FRAMES, help="how many are measured (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes as well")
    options = parser.parse_args()
    image = options.firmware.read_bytes()
    photo = load_picture(options.photo)
    ways = [Way("before", {"double_buffer": False}, options.before or FIRMWARE_DIR), Way("now", {}, FIRMWARE_DIR)]
    if options.turbo:
        ways.append(Way("turbo", {"turbo": True}, FIRMWARE_DIR, TURBO_MHZ))
    print(f"{options.firmware.name}, camera {options.camera}, settings {options.settings or 'as they are by default'}")
    print(f"{'build':34}{'people':>7}{'found':>6}{'':>8}{'MHz':>9}{'ms':>8}{'fps':>7}{'KPU ms':>8}{'dec ms':>8}"
          f"{'garbage':>9}")  # fmt: skip
    for path in options.build:
        benches: dict[
            tuple[Path, int | None], Bench
        ] = {}  # ways with the same files and clocks begin from one snapshot
        for way in ways:
            bench = benches.get((way.folder, way.mhz))
            if bench is None:
                bench = Bench(image, BuildFolder(path), way.folder, options.camera, way.mhz)
                bench.photo = photo
                benches[way.folder, way.mhz] = bench
            for people in options.people:
                bench.start(people, {**way.settings, **options.settings})
                speed = bench.speed(options.frames)
                print(
                    f"{path.name:34}{people:7}{speed.found:6}{way.name:>8}{speed.cpu_mhz:5}/{speed.kpu_mhz}"
                    f"{speed.frame_ms:8.2f}{speed.frames_per_second:7.2f}{speed.forward_ms:8.2f}{speed.decode_ms:8.2f}"
                    f"{speed.garbage_bytes:9}", flush=True,
                )  # fmt: skip
                if options.profile:
                    print("\n".join(table(bench.profile())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
