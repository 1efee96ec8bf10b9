"""How much less work firmware/decoder.py is than a textbook port, in the same MicroPython, on the same tensors.

    python -m benchmarks.decoder [--quick]

Counts instructions with valgrind's callgrind where it is installed (the same on every run), and takes the best of
some wall times. Also prints the memory that a frame leaves to the garbage collector, and an estimate for the K210:
instructions / (400 MHz · 0.5 instructions per cycle), as if its build of MicroPython took as many instructions as
this one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sim.placed_people import decoder_manifest, scene

ROOT = Path(__file__).resolve().parent.parent

K210_INSTRUCTIONS_PER_MS = 400e6 * 0.5 / 1000

RUN = """
import sys, json, time, gc
which, mode, repeat = sys.argv[1:4]
with open("manifest.json") as f:
    manifest = json.load(f)
with open("heads.bin", "rb") as f:
    data = memoryview(f.read())
cells = manifest["map"]["width"] * manifest["map"]["height"]
heads = []
at = 0
for head in manifest["heads"]:
    heads.append(data[at:at + head["channels"] * cells])
    at += head["channels"] * cells
if which == "integer":
    from decoder import Decoder
    decode = getattr(Decoder(manifest), mode)
else:
    from decoder_textbook import Textbook
    decode = getattr(Textbook(manifest), mode)
poses = decode(heads)
gc.collect()
best = None
if repeat == "memory":
    gc.disable()
    before = gc.mem_alloc()
    decode(heads)
    print(gc.mem_alloc() - before)
else:
    for _ in range(int(repeat)):
        start = time.ticks_us()
        poses = decode(heads)
        taken = time.ticks_diff(time.ticks_us(), start)
        best = taken if best is None or taken < best else best
    print(best, len(poses))
"""


class Bench:
    """One folder with the two decoders and a scene."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = shutil.which("micropython", path=str(Path(sys.executable).parent)) or shutil.which("micropython")
        if not found:
            raise SystemExit("no command micropython; `uv sync` installs it on Linux x86-64")
        self.micropython = found
        self.valgrind = shutil.which("valgrind")
        shutil.copy(ROOT / "firmware" / "decoder.py", folder)
        shutil.copy(ROOT / "benchmarks" / "decoder_textbook.py", folder)
        (folder / "run.py").write_text(RUN)

    def _run(self, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, self.micropython, "-X", "heapsize=4M", "run.py", *arguments],
            cwd=self.folder, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "0"},
        )  # fmt: skip

    def microseconds(self, which: str, mode: str, repeat: int) -> int:
        return int(self._run(which, mode, str(repeat)).stdout.split()[0])

    def garbage_bytes(self, which: str, mode: str) -> int:
        return int(self._run(which, mode, "memory").stdout)

    def instructions(self, which: str, mode: str, repeat: int) -> float:
        """Per frame: the difference of two runs, which takes the start of the interpreter out.

        Exactly so with a fixed hash seed: MicroPython is a module of CPython here, whose start would vary.
        """
        assert self.valgrind
        prefix = (self.valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null")
        counts = []
        for n in (1, 1 + repeat):
            match = re.search(r"Collected : (\d+)", self._run(which, mode, str(n), prefix=prefix).stderr)
            assert match
            counts.append(int(match[1]))
        return (counts[1] - counts[0]) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20×15 map, 0 and 2 people only")
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    print("mode    map    people |  time, µs: integer  textbook  ratio | instructions: integer    textbook  ratio |"
          " garbage, bytes | K210 estimate, ms")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        for width, height in ((320, 240),) if args.quick else ((320, 240), (256, 192)):
            rng = np.random.default_rng(args.seed)
            manifest = decoder_manifest(width, height)
            (bench.folder / "manifest.json").write_text(json.dumps(manifest))
            size = f"{manifest['map']['width']}x{manifest['map']['height']}"
            for people in (0, 2) if args.quick else (0, 1, 2, 5):
                heads = scene(rng, manifest, people)
                (bench.folder / "heads.bin").write_bytes(b"".join(head.tobytes() for head in heads))
                for mode in ("single", "multi"):
                    fast, slow = bench.microseconds("integer", mode, 30), bench.microseconds("textbook", mode, 3)
                    row = f"{mode:7} {size:6} {people:6} | {fast:18} {slow:9} {slow / fast:6.1f} | "
                    estimate = ""
                    if bench.valgrind:
                        few, many = bench.instructions("integer", mode, 5), bench.instructions("textbook", mode, 1)
                        row += f"{few:21,.0f} {many:11,.0f} {many / few:6.1f} | "
                        estimate = f"{few / K210_INSTRUCTIONS_PER_MS:.1f}"
                    else:
                        row += f"{'no valgrind':>40} | "
                    print(f"{row}{bench.garbage_bytes('integer', mode):14} | {estimate:>17}", flush=True)


if __name__ == "__main__":
    main()
