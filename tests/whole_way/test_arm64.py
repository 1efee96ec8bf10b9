"""A Raspberry Pi's arm64 Python, run by QEMU, does what this computer does. `.ci/arm64` fetches it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_build import catalog
from model_build.calibration import rendered
from sim.boards.vm import CPYTHON_NOTE
from sim.parts.camera_source import scene_camera
from tests.conftest import absent

ROOT = Path(__file__).resolve().parents[2]
ARM64 = catalog.cache_dir() / "arm64" / "python"
SIZE = (96, 96)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("arm64")]


def run(python: Path | str, *words: Path | str) -> str:
    """What a command of ours prints under that Python. Without photos, both build from the same pictures."""
    environment = os.environ | {"MAIX_POSENET_DATA": "", "MAIX_POSENET_INTERPRETER": "cpython"}
    done = subprocess.run(
        [str(python), *map(str, words)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(python: Path | str, folder: Path) -> Path:
    """`demo`, built in this folder by that Python."""
    run(python, "-m", "model_build", "build", "demo", "--size", "{}x{}".format(*SIZE), "--out", folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def arm64_is_here() -> None:
    """Skip all of these tests where the arm64 Python is absent."""
    if not ARM64.is_file():
        absent("arm64", "an arm64 Python (.ci/arm64 gets one)")


@pytest.fixture(scope="module")
def built_here(tmp_path_factory) -> Path:
    """`demo`, built by this computer."""
    return build(sys.executable, tmp_path_factory.mktemp("builds") / "here")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


QUANTIZE = """
import hashlib, sys
import numpy as np
from model_build.build import lay_out
from model_build.channel_quantization import quantize
from model_build.importers import open_network
from model_build.kpu import kmodel_v3, lower
pictures = np.load(sys.argv[1])
program = lower.lower(quantize(open_network("demo"), list(pictures)))
print(hashlib.sha256(kmodel_v3.write(lay_out(program, *pictures.shape[2:0:-1])[0])).hexdigest())
"""


def test_the_same_pictures_give_the_same_kmodel(tmp_path):
    """Float sums that decide a rounding are exact, so a kmodel shows neither the processor nor its BLAS library."""
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, np.stack(rendered(4).views(*SIZE)))
    told = [run(python, "-c", QUANTIZE, pictures) for python in (ARM64, sys.executable)]
    assert told[0] == told[1] and len(told[0]) == 65


def test_a_build_ends_and_differs_by_rounding_only(built_here, tmp_path):
    """On arm64 OpenCV rounds halves differently, in one of a thousand bytes of a picture that it has shrunk.

    From such pictures come other integers, which are as good: the float network is the same, and the integers are as
    far from it.
    """
    arm64, here = files_of(build(ARM64, tmp_path / "arm64")), files_of(built_here)
    assert arm64.keys() == here.keys() and arm64["posenet.tflite"] == here["posenet.tflite"]
    heads = [json.loads(files["report.json"])["quality"]["heads"] for files in (arm64, here)]
    for theirs, ours in zip(*heads, strict=True):
        assert theirs["cosine"] > 0.999 and abs(theirs["cosine"] - ours["cosine"]) < 0.0005


def test_a_picture_gives_the_same_heads_and_poses(built_here, tmp_path):
    """The KPU's integers come from TFLite's arm64 kernels. The picture has the network's size, so it is not shrunk."""
    frame = scene_camera().frame(*SIZE)
    assert frame is not None
    picture = tmp_path / "scene.png"
    Image.fromarray(frame).save(picture)
    for name, python in (("arm64", ARM64), ("here", sys.executable)):
        out = tmp_path / name
        words = ("--build", built_here, picture, "--tensors", out, "--json", out / "poses.json")
        run(python, "-m", "sim", "run", *words)
    arm64, here = files_of(tmp_path / "arm64"), files_of(tmp_path / "here")
    assert len(here) == 6 and arm64 == here and b"nose" in here["poses.json"]


def test_the_first_command_finds_the_same_people(built_here, tmp_path):
    """It flashes, verifies and starts on the simulated board in CPython.

    People may be a pixel or two elsewhere, because the simulated camera shrinks what it sees.
    """
    said = {}
    for name, python in (("arm64", ARM64), ("here", sys.executable)):
        state = tmp_path / name
        words = ("--board", "sim", "--model", built_here, "--images", "scene", "--state", state, "--frames", "2")
        text = run(python, "flash.py", *words)
        assert CPYTHON_NOTE in text and "read back right, length and CRC-32" in text and "LCD picture: " in text
        assert "2 frame(s)" in text
        said[name] = [[*map(int, nose)] for nose in re.findall(r"nose (\d+),(\d+)", text)]
    assert len(said["here"]) >= 2 and np.shape(said["arm64"]) == np.shape(said["here"])
    assert np.abs(np.subtract(said["arm64"], said["here"])).max() <= 2
