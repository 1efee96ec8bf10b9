"""Decoder and tracker give the same integers in CPython, in a new MicroPython and in one as old as the board's."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic_heads import BUILD_QUANTIZATION, CORAL_QUANTIZATION, HeadScale, decoder_manifest, scene
from common.arrays import Numbers
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from tests.conftest import absent
from tests.support.micropython_command import micropython_command

Decoder = firmware_module("decoder").Decoder
SUPPORT = Path(__file__).resolve().parents[1] / "support"
TRACKER_WALK = (FIRMWARE_DIR / "tracker.py").read_text() + (SUPPORT / "tracker_walk.py").read_text()
SOURCE = (FIRMWARE_DIR / "decoder.py").read_text() + (SUPPORT / "decoder_batch.py").read_text()


@dataclass
class Case:
    manifest: dict[str, Any]
    options: dict[str, int]
    mode: str
    frames: list[list[Numbers]]

    def header(self) -> str:
        return json.dumps(
            {"manifest": self.manifest, "options": self.options, "mode": self.mode, "frames": len(self.frames)}
        )

    def data(self) -> bytes:
        return b"".join(head.tobytes() for frame in self.frames for head in frame)

    def expected(self) -> list[list[list[int]]]:
        decode = getattr(Decoder(self.manifest, **self.options), self.mode)
        return [[list(pose) for pose in decode([head.tobytes() for head in frame])] for frame in self.frames]


def per_channel(rng: np.random.Generator, channels: int) -> HeadScale:
    """A scale and a zero point for every channel."""
    return HeadScale(rng.uniform(0.01, 2, channels).tolist(), rng.integers(0, 256, channels).tolist())


def random_frame(rng: np.random.Generator, manifest: dict[str, Any]) -> list[Numbers]:
    """Heads of all kinds: people, random bytes, few different bytes (which tie), and saturated ones."""
    shapes = [(h["channels"], manifest["map"]["height"], manifest["map"]["width"]) for h in manifest["heads"]]
    kind = rng.integers(4)
    if kind == 0:
        return scene(rng, manifest, int(rng.integers(0, 5)), noise=float(rng.uniform(0, 3)))
    heads = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    if kind == 2:
        heads[0] = rng.choice(np.array([0, 1, 127, 128, 160, 200, 254, 255], dtype=np.uint8), shapes[0])
    if kind == 3:
        heads = [np.where(rng.random(shape) < 0.5, head, rng.choice([0, 255])).astype(np.uint8)
                 for head, shape in zip(heads, shapes, strict=True)]  # fmt: skip
    return heads


def random_case(rng: np.random.Generator, frames: int) -> Case:
    """A small map of any shape with any stride, options and quantization, and frames for it."""
    stride = int(rng.choice([8, 16, 32]))
    width, height = (int(n) * stride for n in rng.integers(1, 9, 2))
    own = (
        HeadScale(float(rng.uniform(0.01, 0.3)), int(rng.integers(0, 256))),
        per_channel(rng, 34), per_channel(rng, 32), per_channel(rng, 32),
    )  # fmt: skip
    quantization = (BUILD_QUANTIZATION, CORAL_QUANTIZATION, own, own)[rng.integers(4)]
    manifest = decoder_manifest(width, height, stride, quantization)
    options = {
        "score_threshold_q15": int(rng.choice([0, 9830, 16384, 24000, 32767])),
        "nms_radius_px": int(rng.choice([0, 5, 20, 60])),
        "max_poses": int(rng.integers(1, 8)),
        "refinement_steps": int(rng.integers(0, 4)),
        "min_pose_score_q15": int(rng.choice([0, 4915, 16384])),
        "min_keypoints": int(rng.choice([0, 1, 4, 17])),
    }
    mode = str(rng.choice(["single", "multi", "multi"]))
    return Case(manifest, options, mode, [random_frame(rng, manifest) for _ in range(frames)])


def parse(output: str, cases: list[Case]) -> Iterator[tuple[Case, list[Any]]]:
    lines = [line for line in output.splitlines() if line.startswith("[")]
    assert len(lines) == len(cases), output[-2000:]
    return zip(cases, (json.loads(line) for line in lines), strict=True)


def micropython(script: str, folder: Path) -> str:
    """What a script prints in the MicroPython of the package registry."""
    (folder / "batch.py").write_text(script)
    done = subprocess.run([micropython_command(), "batch.py"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    return done.stdout


def run_unix(cases: list[Case], folder: Path) -> str:
    """Run all cases in one MicroPython of the package registry."""
    script = SOURCE
    for n, case in enumerate(cases):
        (folder / f"{n}.bin").write_bytes(case.data())
        (folder / f"{n}.json").write_text(case.header())
    script += f"""
for n in range({len(cases)}):
    with open("%d.json" % n) as header, open("%d.bin" % n, "rb") as data:
        run(header.read(), data.read())
"""
    return micropython(script, folder)


def wasm_package() -> Path:
    """The unpacked npm package `micropython`, from MAIX_POSENET_MICROPYTHON_WASM or the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maix-posenet"
    default = cache / "micropython-1.1.8" / "package"
    folder = Path(os.environ.get("MAIX_POSENET_MICROPYTHON_WASM") or default)
    if not (folder / "lib" / "micropython.js").is_file() or not shutil.which("node"):
        absent("node", f"MicroPython 1.10 for Node in {folder}")
    return folder.resolve()


def run_wasm(cases: list[Case], folder: Path) -> str:
    """Run all cases in one MicroPython 1.10 under Node."""
    package = wasm_package()
    pieces = ["import sys\nprint('version', sys.implementation.version)\n", SOURCE, "import ubinascii\n"]
    for case in cases:
        # This interpreter can hold only short strings, so the data goes in pieces.
        pieces.append("parts = []\n")
        text = base64.b64encode(case.data()).decode()
        pieces += [f"parts.append('{text[i : i + 8000]}')\n" for i in range(0, len(text), 8000)]
        pieces.append(f"run({case.header()!r}, ubinascii.a2b_base64(''.join(parts)))\n")
    (folder / "pieces.json").write_text(json.dumps(pieces))
    runner = SUPPORT / "micropython_wasm.js"
    subprocess.run(
        ["node", str(runner), str(package), "pieces.json", "output"],
        cwd=folder, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return (folder / "output").read_text()


def compare(run: Callable[[list[Case], Path], str], cases: list[Case], folder: Path) -> str:
    output = run(cases, folder)
    for case, result in parse(output, cases):
        assert result == case.expected(), (case.mode, case.options, case.manifest["map"])
    return output


@pytest.mark.parametrize("cases", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_micropython_equals_cpython(tmp_path: Path, cases: int) -> None:
    """What the host computes must be what the board shows: 20 frames for each case, every integer equal."""
    rng = np.random.default_rng(2024)
    compare(run_unix, [random_case(rng, frames=20) for _ in range(cases)], tmp_path)


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_micropython_1_10_equals_cpython(tmp_path: Path, count: int) -> None:
    """MaixPy is MicroPython 1.11. The nearest that runs here is 1.10, whose small integers have only 31 bits."""
    rng = np.random.default_rng(7)
    cases = [random_case(rng, frames=5) for _ in range(count)]
    output = compare(run_wasm, cases, tmp_path)
    assert "version (1, 10, 0)" in output


def test_micropython_equals_cpython_on_maps_of_the_usual_sizes(tmp_path: Path) -> None:
    """20×15 and 16×12 are the maps of the sizes in use; they get 0 to 5 people."""
    rng = np.random.default_rng(3)
    cases = []
    for width, height in ((320, 240), (256, 192)):
        for quantization in (BUILD_QUANTIZATION, CORAL_QUANTIZATION):
            manifest = decoder_manifest(width, height, quantization=quantization)
            for mode in ("single", "multi"):
                cases.append(Case(manifest, {}, mode, [scene(rng, manifest, people) for people in range(6)]))
    compare(run_unix, cases, tmp_path)


def test_the_tracker_in_micropython_equals_cpython(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, coordinates and people outside the view agree; test_k210_maixpy.py does it in MaixPy's own interpreter.

    1.10 under Node is left out, because it writes negative long integers wrongly into arrays. Its small integers have
    31 bits, the K210's 63.
    """
    exec(TRACKER_WALK, {})
    expected = capsys.readouterr().out
    assert micropython(TRACKER_WALK, tmp_path) == expected
    assert max(map(int, re.findall(r"\((\d+), ", expected))) > 3 and expected.count("away") == 120
