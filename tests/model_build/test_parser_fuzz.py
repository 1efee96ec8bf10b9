"""Damaged files: whatever the bytes, parsers raise FormatError or give a result, and do so quickly.

Small valid files get flipped, missing and inserted bytes from a seed. The quick tests have over 3,000 cases, the long
ones ten times as many.
"""

from __future__ import annotations

import json
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import FormatError, UserError
from model_build import tflite_writer
from model_build.importers import graphdef, tfjs_graph, tflite, tflite_file
from model_build.inspect import flexbuffer, kmodel_v4, read_file, render
from model_build.train import weights_file
from tests.support import posenet_forms as forms
from tests.support.posenet_forms import tiny_posenet

DECODER_OPTIONS = bytes.fromhex(
    "73636f72655f7468726573686f6c64005f737570706f72745f6f75747075745f747970655f666c6f61745f696e5f7175616e74697a65645f"
    "6f70005f6f75747075745f7175616e74697a6564006e6d735f726164697573006d61785f646574656374696f6e7300737472696465000634"
    "601925730d00000009000000010000000600000001000000010000000a00000000002041cdcc4c3e100000006a6a060e0e061e2601"
)
"""The options of Coral's PosenetDecoderOp."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, set to extremes, removed or doubled; one time in ten the file is also cut short."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # Most structure lies at the ends of these formats.
        where = rng.choice((rng.randrange(len(damaged)), rng.randrange(min(400, len(damaged))),
                            len(damaged) - 1 - rng.randrange(min(400, len(damaged)))))  # fmt: skip
        kind = rng.randrange(6)
        if kind == 0:
            damaged[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            damaged[where : where + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", bytes(4)))
        elif kind == 3:
            damaged[where] = rng.randrange(256)
        elif kind == 4 and len(damaged) > 16:
            del damaged[where : where + rng.choice((1, 2, 4, 8))]
        else:
            damaged[where:where] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4))))
    if rng.random() < 0.1:
        del damaged[rng.randrange(len(damaged)) :]
    return bytes(damaged) or b"\0"


@pytest.fixture(params=[10, pytest.param(1, marks=pytest.mark.slow)], ids=["quick", "long"], autouse=True)
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test here twice: with a tenth of its cases, and with all of them."""
    monkeypatch.setattr(sys.modules[__name__], "PART", request.param)


PART = 1


def fuzz(data: bytes, cases: int, parse: Callable[[bytes], object], least_refused: int = 0) -> None:
    """Parse damaged versions, one in PART of `cases`; any exception but FormatError ends the test.

    Of all cases at least `least_refused` must be refused, since otherwise the damage did not reach the parser.
    """
    rng = random.Random(1)
    refused = 0
    for _ in range(cases // PART):
        damaged = mutated(data, rng)
        try:
            parse(damaged)
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= least_refused // PART // 2


def test_damaged_flexbuffers() -> None:
    """The options of custom operators come in this form."""
    fuzz(DECODER_OPTIONS, 12_000, flexbuffer.read, least_refused=1000)


def tflite_without_weights() -> bytes:
    """A file so small that most damage hits its structure."""
    return tflite_writer.write(tiny_posenet(1, width=1, blocks=(2, 2), keypoints=2), 4, 4)


def test_damaged_tflite_structure() -> None:
    """The reader of FlatBuffers and the TFLite schema above it."""
    data = tflite_without_weights()
    assert len(data) < 6000
    fuzz(data, 6000, lambda damaged: tflite_file.read(damaged, "x"), least_refused=1000)


def test_damaged_tflite_imports() -> None:
    """The importer behind the reader meets odd shapes, odd options and graphs with loops."""
    fuzz(tflite_without_weights(), 3000, lambda damaged: tflite.from_bytes(damaged, "x.tflite"), least_refused=1000)


def test_damaged_frozen_graph_imports() -> None:
    """Protocol buffers, GraphDef, and everything that graphs can be."""
    data = forms.frozen_graph(tiny_posenet(1, width=1, blocks=(2, 2)), size=(64, 64))
    fuzz(data, 3000, lambda damaged: graphdef.from_bytes(damaged, "x.pb"), least_refused=500)


def test_damaged_tfjs_graph_imports(tmp_path: Path) -> None:
    """JSON text with damage inside, and shards of wrong lengths."""
    path = forms.write_tfjs_graph(tiny_posenet(1, width=1, blocks=(2, 2)), tmp_path, "uint8")
    shards = {file.name: file.read_bytes() for file in tmp_path.glob("*.bin")}
    fuzz(path.read_bytes(), 1500, lambda damaged: tfjs_graph.from_parts(damaged, shards, "x"), least_refused=1000)
    rng, refused = random.Random(2), 0
    for _ in range(1500 // PART):
        content = json.loads(path.read_text())
        _damage_json(content, rng)
        try:
            tfjs_graph.from_parts(json.dumps(content).encode(), shards, "x")
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 500 // PART
    with pytest.raises(FormatError, match="a shard is missing or truncated"):
        tfjs_graph.from_parts(path.read_bytes(), dict.fromkeys(shards, b""), "x")


def _damage_json(content: object, rng: random.Random) -> None:
    """Put another value somewhere into a JSON tree."""
    place: Any = content
    parent: Any = None
    key: Any = None
    while isinstance(place, dict | list) and place and (parent is None or rng.random() < 0.85):
        parent, key = place, rng.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
        place = parent[key]
    if parent is not None:
        value: object = rng.choice(
            (None, -1, 0, 1, 1e300, True, "", "a", [], {}, [[]], 1 << 70, {"s": "%"}, [1, 2], "U0FNRQ==")
        )
        parent[key] = value


def test_damaged_trained_weights(tmp_path: Path) -> None:
    """Our own weights file is a zip of NumPy arrays. zipfile, zlib and NumPy raise many kinds of errors on damage."""
    path = tmp_path / "w.npz"
    weights_file.save(path, tiny_posenet(1, width=1, blocks=(2, 2)), {})

    def parse(damaged: bytes) -> object:
        path.write_bytes(damaged)
        return read_file.describe(path)

    fuzz(path.read_bytes(), 3000, parse, least_refused=500)


def test_trained_weights_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    """A small file may declare gigabytes. It is refused by its declared size before anything is unpacked."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("about.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 18
    with pytest.raises(FormatError, match="it unpacks to 83,886,080 bytes"):
        weights_file.load(path)


def test_damaged_kmodels_v4() -> None:
    """The V4 file of two nodes is made by hand from the format."""
    import struct

    header = struct.pack("<4s9I", b"LDMK", 4, 1, 1, 8, 4096, 2, 1, 1, 0)
    data = header + struct.pack("<4I", 2, 1, 0, 3072) + struct.pack("<4i", 1, 3, 32, 32)
    data += struct.pack("<4I", 1, 0, 0, 64) + bytes(8)
    data += struct.pack("<2I", 0x2002, 24 + 96 + 20) + struct.pack("<2I", 0x03, 24) + bytes(24 + 96 + 20) + bytes(24)
    model = kmodel_v4.read(data)
    assert [node.kind for node in model.nodes] == ["kpu_conv2d", "dequantize"]
    # nncase leaves out the padding of the last body. More than 7 missing bytes are damage.
    assert kmodel_v4.read(data[:-4]).nodes == kmodel_v4.read(data[:-7]).nodes == model.nodes
    with pytest.raises(FormatError, match="node 1 of 24 bytes"):
        kmodel_v4.read(data[:-8])
    fuzz(data, 4000, lambda damaged: read_file.describe_bytes(damaged, "x.kmodel"), least_refused=500)


@pytest.mark.weights
def test_damaged_real_files(data_dir: Path) -> None:
    """Real files are damaged at their ends and go through everything that `inspect` does, HTML included."""
    for name in ("weights/coral/posenet_mobilenet_v1_075_353_481_decoder.tflite",
                 "kmodels/nncase_cpu_mobilenet_v2.kmodel", "kmodels/maixpy_face_model_at_0x300000.kfpkg",
                 "kmodels/canmv_yolo_face_detect.kmodel"):  # fmt: skip
        path = data_dir / name

        def parse(damaged: bytes, path: Path = path) -> object:
            try:
                return render.html(read_file.describe_bytes(damaged, path.name))
            except FormatError:
                raise
            except UserError as error:
                raise AssertionError(f"{path.name}: {error!r}") from error

        fuzz(path.read_bytes(), 100 if path.stat().st_size > 100_000 else 500, parse)
