"""Compares the work of firmware/decoder.py with that of a textbook port, in the same MicroPython, on the same tensors.

    python -m benchmarks.decoder [--quantization coral] [--lean] [--quick]

Prints a Markdown table: instructions a frame as valgrind's callgrind counts them, of the integer decoder both when it
decodes a frame again and when it decodes its very first; the best of some wall times as a ratio; the memory that a
frame leaves to the garbage collector; and an estimate for the K210: instructions / (400 MHz · 0.5 instructions per
cycle), as if its build of MicroPython took as many instructions as this one.
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

from benchmarks.synthetic_heads import BUILD_QUANTIZATION, CORAL_QUANTIZATION, decoder_manifest, scene

ROOT = Path(__file__).resolve().parent.parent

QUANTIZATIONS = {"build": BUILD_QUANTIZATION, "coral": CORAL_QUANTIZATION}
K210_INSTRUCTIONS_PER_MS = 400e6 * 0.5 / 1000
ROUNDS = 5

RUN = """
import sys, json, time, gc
which, mode, what, repeat = sys.argv[1:5]
repeat = int(repeat)
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
if which == "Decoder":
    from decoder import Decoder
else:
    import decoder_textbook
    Decoder = getattr(decoder_textbook, which)
decode = getattr(Decoder(manifest), mode)
if what != "first":
    decode(heads)
gc.collect()
if what == "memory":
    gc.disable()
    before = gc.mem_alloc()
    decode(heads)
    print(gc.mem_alloc() - before)
elif what == "time":
    best = None
    for _ in range(repeat):
        start = time.ticks_us()
        decode(heads)
        taken = time.ticks_diff(time.ticks_us(), start)
        best = taken if best is None or taken < best else best
    print(best)
else:
    for _ in range(repeat):
        decode(heads)
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
        (folder / "run.py").write_text(RUN, encoding="utf-8")

    def _run(self, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, self.micropython, "-X", "heapsize=4M", "run.py", *arguments],
            cwd=self.folder, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "0"},
        )  # fmt: skip

    def microseconds(self, which: str, mode: str, repeat: int) -> int:
        return int(self._run(which, mode, "time", str(repeat)).stdout)

    def garbage_bytes(self, which: str, mode: str) -> int:
        return int(self._run(which, mode, "memory", "1").stdout)

    def instructions(self, which: str, mode: str, what: str, repeat: int) -> float:
        """Count the instructions of one frame: the difference between two runs, which removes the start of the
        interpreter.

        `what` is "again" for a frame like the one before, or "first" for the first in the interpreter's life. The hash
        seed is fixed, because MicroPython is a module of CPython here, whose start would vary otherwise.
        """
        assert self.valgrind
        prefix = (self.valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null")
        counts = []
        for n in (0, repeat):
            match = re.search(r"Collected : (\d+)", self._run(which, mode, what, str(n), prefix=prefix).stderr)
            assert match
            counts.append(int(match[1]))
        return (counts[1] - counts[0]) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantization", choices=QUANTIZATIONS, default="build",
                        help="the heads' constants: what model_build gives, or near Coral's")  # fmt: skip
    parser.add_argument("--lean", action="store_true", help="a textbook port that makes only the scores that it reads")
    parser.add_argument("--quick", action="store_true", help="16×12 map, 0 and 5 people only")
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    port = "LeanTextbook" if args.lean else "Textbook"
    heatmap = QUANTIZATIONS[args.quantization][0]
    print(f"Constants: {args.quantization} (heatmap: scale {heatmap.scale:.4f}, zero point {heatmap.zero_point})."
          f" Port: {port}.\n")  # fmt: skip
    print("| mode | map | people | textbook | integer | ratio | first frame | ratio | time, ratio | garbage, bytes"
          " | K210 estimate, ms |")  # fmt: skip
    print("|" + "---|" * 11)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        # The scenes of --quick are those of the whole table.
        for width, height in ((320, 240), (256, 192)):
            rng = np.random.default_rng(args.seed)
            manifest = decoder_manifest(width, height, quantization=QUANTIZATIONS[args.quantization])
            (bench.folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
            size = f"{manifest['map']['width']}×{manifest['map']['height']}"
            for people in (0, 1, 2, 5):
                heads = scene(rng, manifest, people)
                if args.quick and (width == 320 or people in (1, 2)):
                    continue
                (bench.folder / "heads.bin").write_bytes(b"".join(head.tobytes() for head in heads))
                for mode in ("single", "multi"):
                    counts, estimate = "no valgrind | | | | ", ""
                    if bench.valgrind:
                        slow = bench.instructions(port, mode, "again", 1)
                        fast = bench.instructions("Decoder", mode, "again", ROUNDS)
                        first = bench.instructions("Decoder", mode, "first", 1)
                        counts = f"{slow:,.0f} | {fast:,.0f} | {slow / fast:.1f} | {first:,.0f} | {slow / first:.1f}"
                        estimate = f"{fast / K210_INSTRUCTIONS_PER_MS:.1f}"
                    time = bench.microseconds(port, mode, 3) / bench.microseconds("Decoder", mode, 30)
                    print(f"| {mode} | {size} | {people} | {counts} | {time:.1f}"
                          f" | {bench.garbage_bytes('Decoder', mode)} | {estimate} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
