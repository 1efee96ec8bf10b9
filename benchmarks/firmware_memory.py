"""Memory of the firmware on the simulated board: GC heap and system heap, after the start and per frame.

    python -m benchmarks.firmware_memory --build BUILD_FOLDER

The figures are compared with what the board has: a GC heap of 512 KiB, and the system heap that MaixPy leaves (measured
on the stock image in the emulator). The simulated board's MicroPython is newer than MaixPy's: blocks have the same
size, bytecode differs a little. benchmarks/firmware_py_mpy.py measures the same program on MaixPy itself.
"""

from __future__ import annotations

import argparse
import ast
import shutil
import tempfile
from pathlib import Path

from benchmarks.firmware_py_mpy import MEASURE
from common.firmware_modules import FIRMWARE_DIR
from common.flash_map import KMODEL_ADDRESS
from model_build.build_folder import BuildFolder
from model_build.scene import Scene
from sim.boards.devices import GC_HEAP_BYTES, SYSTEM_HEAP_BYTES, Devices
from sim.boards.vm import MicroPythonVm
from sim.parts.camera_source import FunctionCamera


def measure(build: BuildFolder) -> dict[str, int]:
    """Run MEASURE on a simulated board with this build."""
    scene = Scene(0, people=2)
    board = Devices(camera=FunctionCamera(lambda frame, w, h: scene.frame(1.0, w, h)))
    kmodel = build.kmodel.read_bytes()
    board.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)] = kmodel
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in FIRMWARE_DIR.glob("*.py"):
            shutil.copy(file, folder)
        shutil.copy(build.manifest, folder)
        (folder / "main.py").write_text(MEASURE + "\nprint('measured', _r)\n", encoding="utf-8")
        with MicroPythonVm(folder, board) as vm:
            said = vm.output()
    line = next((line for line in said.splitlines() if line.startswith("measured ")), None)
    if line is None:
        raise SystemExit(said)
    figures: dict[str, int] = ast.literal_eval(line.removeprefix("measured "))
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    build = BuildFolder(parser.parse_args().build)
    manifest = build.load_manifest()
    figures = measure(build)
    system = figures["system_heap_before_bytes"] - figures["system_heap_after_bytes"]
    rows = [
        ("GC heap: modules", figures["modules_bytes"], GC_HEAP_BYTES),
        ("GC heap: most while importing", figures["import_heap_bytes"], GC_HEAP_BYTES),
        ("GC heap: all, ready for frames", figures["started_bytes"], GC_HEAP_BYTES),
        ("GC heap: garbage per frame (1)", figures["garbage_per_frame_bytes"], GC_HEAP_BYTES),
        ("GC heap: kept after 3 more frames", figures["kept_after_3_frames_bytes"], GC_HEAP_BYTES),
        ("System heap: frames and network", system, SYSTEM_HEAP_BYTES),
        ("System heap: left", figures["system_heap_after_bytes"], SYSTEM_HEAP_BYTES),
    ]
    print(f"{manifest.network} {manifest.width}x{manifest.height}, kmodel {manifest.kmodel.bytes} bytes")
    print(f"{'':36}{'bytes':>10}{'of':>10}{'ratio':>8}")
    for name, count, whole in rows:
        print(f"{name:36}{count:>10}{whole:>10}{count / whole:>8.1%}")
    print("(1) most of it by the stand-ins for MaixPy's modules, which are C on the board: see firmware_py_mpy.py")


if __name__ == "__main__":
    main()
