"""Speed of the K210 emulator on this machine: boot, firmware, snapshot, a pose frame.

    python -m benchmarks.emulator_speed --firmware maixpy.bin --build build/posenet-075-coral-256x192
    python -m benchmarks.emulator_speed --flashed build/emu-board/flash.bin     the application that flash.py put there

It prints CPU and wall seconds of this process (other load affects CPU seconds less); the ratio is CPU time to the
chip's own time, which is a model. The KPU's share of a pose frame is measured on the engine alone in the same run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.decoder_on_k210 import with_corner
from common.arrays import Numbers
from common.cli import guarded
from common.errors import UserError
from common.flash_map import KMODEL_ADDRESS
from host_tools.repl import RawRepl
from model_build.build_folder import BuildFolder
from model_build.engines.kpu import KpuEngine
from sim.k210.k210_board import K210Board
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import open_camera

FRAMES = 5
LOOP = "t = 0\nfor i in range(100000):\n    t = t + i * i\nprint(t)"
FRAME = (
    "img = sensor.snapshot()\nf = kpu.forward(task, img)\n"
    "h = [bytes(kpu.get_output(task, i)) for i in range(4)]\nlcd.display(img)"
)


def application(flashed: Path, images: str) -> None:
    """Print the cost of a frame of the application, with its lines, decoder, drawing and LCD."""
    board = K210Board(flash=bytearray(flashed.read_bytes()), source=open_camera(images).frame)

    def until_frame(number: int) -> None:
        board.run_until_output(b'{"seq":%d,' % number)

    def times() -> Numbers:
        return np.array((time.process_time(), time.monotonic(), board.seconds))

    board.power_on()
    print(f"{'':34} {'CPU s':>8} {'wall s':>8} {'chip s':>8}")
    for name, first, last in (("power-on to the first poses", 0, 1), ("a frame of the application", 2, 2 + FRAMES)):
        if first:
            until_frame(first)
        start = times()
        until_frame(last)
        cpu, wall, chip = (times() - start) / (last - first)
        print(f"{name:34} {cpu:8.3f} {wall:8.3f} {chip:8.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--firmware", type=Path, help="MaixPy image (.bin)")
    parser.add_argument("--build", type=Path, help="build folder")
    parser.add_argument("--flashed", type=Path, metavar="FILE", help="flash of a board of flash.py --board emu instead")
    parser.add_argument("--images", default="scene", metavar="FILE", help="what its camera sees (default: a scene)")
    options = parser.parse_args()
    if options.flashed:
        application(options.flashed, options.images)
        return 0
    if not (options.firmware and options.build):
        parser.error("give --firmware and --build, or --flashed")
    build = BuildFolder(options.build)
    manifest = build.load_manifest()
    kmodel = build.kmodel.read_bytes()
    size = (manifest.width, manifest.height)

    board = K210Board(options.firmware.read_bytes())
    board.flash.memory[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)] = kmodel
    print(f"{options.firmware.name}, {options.build.name}")
    print(f"{'':36} {'CPU s':>8} {'wall s':>8} {'chip s':>8} {'slower':>7} {'MIPS':>6}")

    def measure(name: str, action: Callable[[], object], times: int = 1) -> None:
        cpu, wall, chip = time.process_time(), time.monotonic(), board.seconds
        instructions = sum(board.soc.instructions)
        for _ in range(times):
            action()
        cpu, wall = (time.process_time() - cpu) / times, (time.monotonic() - wall) / times
        chip = (board.seconds - chip) / times
        mips = (sum(board.soc.instructions) - instructions) / times / cpu / 1e6
        ratio = f"{cpu / chip:7.1f}" if chip > 0 else f"{'':7}"
        print(f"{name:36} {cpu:8.3f} {wall:8.3f} {chip:8.3f} {ratio} {mips:6.1f}")

    def boot() -> None:
        board.power_on()
        board.run_until_output(b">>> ")

    measure("first boot (formats SPIFFS)", boot)
    measure("boot to the prompt", boot)
    saved: list[bytes] = []
    measure("idle at the prompt, one chip second", lambda: board.run_for(1))
    measure("save a snapshot", lambda: saved.append(board.save()))
    measure("restore it", lambda: board.restore(saved[0]))
    repl = RawRepl(BoardTransport(board))
    if not repl.try_enter():
        raise UserError("the emulated board's REPL did not answer")
    measure("Python loop, 100000 turns", lambda: repl._execute(LOOP, 60))
    picture = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert board.camera is not None
    board.camera.source = with_corner(picture)
    setup = "import sensor, lcd\nimport KPU as kpu\nlcd.init()\nsensor.reset()\nsensor.set_pixformat(sensor.RGB565)\n"
    setup += f"sensor.set_framesize(sensor.QVGA)\nsensor.set_windowing({size})\nsensor.run(1)\n"
    setup += f"task = kpu.load({KMODEL_ADDRESS})"
    measure("sensor.reset, kpu.load", lambda: repl._execute(setup, 120))
    repl._execute(FRAME, 60)
    measure(f"pose frame {size[0]}x{size[1]}", lambda: repl._execute(FRAME, 60), FRAMES)
    engine = KpuEngine(kmodel)
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1))
    engine.run(planes)
    cpu = time.process_time()
    for _ in range(FRAMES):
        engine.run(planes)
    print(f"{'of it KPU arithmetic (engine alone)':36} {(time.process_time() - cpu) / FRAMES:7.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
