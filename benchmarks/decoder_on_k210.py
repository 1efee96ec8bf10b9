r"""Cost of firmware/decoder.py on the board's own interpreter: RISC-V instructions a frame, for 0 to 5 people.

    python -m benchmarks.decoder_on_k210 --firmware maixpy_v0.6.2_84.bin \
        --build build/posenet-075-coral-256x192 --photo person.jpg

It boots the stock MaixPy image on the K210 emulator, copies decoder.py and posenet.json to /flash over the raw REPL,
and shows the emulated camera pictures with copies of one photo. For each picture the board runs snapshot, kpu.forward,
get_output and the decoder. The instructions are those that hart 0 executed between two reads of its cycle counter; the
milliseconds are an estimate at 400 MHz with --cycles-per-instruction (1.0: no stalls, which is a lower bound). The peer
is the same decoder on CPython on this machine, checked to return the same poses.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from common.arrays import Numbers, Picture
from common.cli import guarded
from common.errors import UserError
from common.files import atomic_path
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from common.flash_map import KMODEL_ADDRESS
from common.pictures import letterbox, load_picture
from host_tools.repl import RawRepl
from model_build.build_folder import BuildFolder
from model_build.engines.kpu import KpuEngine
from sim.k210.k210_board import K210Board
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_sensors import Source

CPU_HZ = 400e6
KEEP_RUNS = 3

SETUP = """
import gc, sensor, ujson, utime
import KPU as kpu
from decoder import Decoder
sensor.reset()
sensor.set_pixformat(sensor.RGB565)
sensor.set_framesize(sensor.QVGA)
{windowing}
sensor.run(1)
task = kpu.load({address})
manifest = ujson.loads(open('posenet.json').read())
dec = Decoder(manifest)
del manifest
def frame():
    img = sensor.snapshot()
    fmap = kpu.forward(task, img)
    return [memoryview(kpu.get_output(task, i)) for i in range(4)]
"""

MEASURE = """
heads = frame()
heads = frame()
gc.collect()
c0 = utime.ticks_cpu(); p = dec.single(heads); c1 = utime.ticks_cpu(); s = [list(x) for x in p]
gc.collect()
c2 = utime.ticks_cpu(); p = dec.multi(heads); c3 = utime.ticks_cpu(); m = [list(x) for x in p]
print((c1 - c0, c3 - c2, s, m))
"""


def with_corner(picture: Picture) -> Source:
    """A black scene with the picture, pixel for pixel, in its top left corner, which is what MaixPy's window shows."""

    def source(width: int, height: int) -> Picture:
        scene = np.zeros((height, width, 3), np.uint8)
        scene[: picture.shape[0], : picture.shape[1]] = picture
        return scene

    return source


def people_in_a_grid(person: Numbers, count: int, width: int, height: int) -> Numbers:
    """A grey picture with `count` copies of a photo, up to four in a row."""
    canvas = np.full((height, width, 3), 128, np.uint8)
    rows = -(-count // 4)
    columns = -(-count // rows) if rows else 0
    for index in range(count):
        row, column = divmod(index, columns)
        top, bottom = height * row // rows, height * (row + 1) // rows
        left, right = width * column // columns, width * (column + 1) // columns
        canvas[top:bottom, left:right] = letterbox(person, right - left, bottom - top)[0]
    return canvas


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--firmware", type=Path, required=True, help="MaixPy image (.bin)")
    parser.add_argument("--build", type=Path, required=True, help="build folder")
    parser.add_argument("--photo", type=Path, required=True, help="photo with one person, upright")
    parser.add_argument("--people", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5], help="copies of the person shown")
    parser.add_argument("--cycles-per-instruction", type=float, default=1.0)
    parser.add_argument("--csv", type=Path, help="write the table there as well")
    options = parser.parse_args()

    build = BuildFolder(options.build)
    manifest_text = build.manifest.read_text(encoding="utf-8")
    manifest = build.load_manifest()
    width, height = manifest.width, manifest.height
    kmodel = build.kmodel.read_bytes()
    person = load_picture(options.photo)

    board = K210Board(options.firmware.read_bytes())
    board.flash.memory[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)] = kmodel
    board.power_on()
    board.run_until_output(b">>> ")
    repl = RawRepl(BoardTransport(board))
    if not repl.try_enter():
        raise UserError("the emulated board's REPL did not answer")
    repl.write_file("decoder.py", (FIRMWARE_DIR / "decoder.py").read_bytes())
    repl.write_file("posenet.json", manifest_text.encode())
    windowing = "" if (width, height) == (320, 240) else f"sensor.set_windowing(({width}, {height}))"
    repl._execute(SETUP.format(windowing=windowing, address=KMODEL_ADDRESS), 60)

    import json

    host_decoder = firmware_module("decoder").Decoder(json.loads(manifest_text))
    engine = KpuEngine(kmodel)
    rows = ["shown,found,single_instructions,single_ms,multi_instructions,multi_ms,host_multi_ms,board_over_host"]
    print(f"{options.firmware.name}, {options.build.name}, {options.cycles_per_instruction:g} cycles per instruction")
    print(f"{'shown':>5} {'found':>5} {'single':>12} {'ms':>6} {'multi':>12} {'ms':>6} {'CPython ms':>10} {'ratio':>6}")
    for count in options.people:
        picture = people_in_a_grid(person, count, width, height)
        assert board.camera is not None
        board.camera.source = with_corner(picture)
        answer = repl._execute(MEASURE, 60)
        single, multi, single_poses, multi_poses = eval(answer, {"__builtins__": {}})
        heads = engine.run(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        buffers = [np.ascontiguousarray(head).tobytes() for head in heads]
        if [list(pose) for pose in host_decoder.multi(buffers)] != multi_poses:
            raise UserError(f"{count} people: the board's poses differ from the host's")
        if [list(pose) for pose in host_decoder.single(buffers)] != single_poses:
            raise UserError(f"{count} people: the board's single pose differs from the host's")
        durations = []
        for _ in range(KEEP_RUNS):
            start = time.perf_counter()
            host_decoder.multi(buffers)
            durations.append(time.perf_counter() - start)
        host_ms = 1e3 * min(durations)
        ms = [1e3 * n * options.cycles_per_instruction / CPU_HZ for n in (single, multi)]
        print(
            f"{count:5d} {len(multi_poses):5d} {single:12,d} {ms[0]:6.2f} {multi:12,d} {ms[1]:6.2f}"
            f" {host_ms:10.2f} {ms[1] / host_ms:6.1f}"
        )
        rows.append(
            f"{count},{len(multi_poses)},{single},{ms[0]:.3f},{multi},{ms[1]:.3f},{host_ms:.3f},{ms[1] / host_ms:.2f}"
        )
    if options.csv:
        with atomic_path(options.csv) as temporary:
            temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
