"""`inspect`: what CUSTOM means, and every kind of file in text, JSON and HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.cli import dispatch
from common.errors import FormatError
from model_build import tflite_writer
from model_build.__main__ import COMMANDS
from model_build.inspect import flexbuffer, read_file, render
from tests import posenet_forms as forms

CORAL = "coral/posenet_mobilenet_v1_075_353_481_"


class _Page(HTMLParser):
    """Collects what a page would load from elsewhere, and whether tags close."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_form_in_every_rendering(tmp_path: Path) -> None:
    """One small network in four forms: facts, tables and the advice that it can be built; HTML loads nothing."""
    network = forms.tiny_posenet(1)
    (tmp_path / "net.tflite").write_bytes(tflite_writer.write(network, 64, 64))
    (tmp_path / "net.pb").write_bytes(forms.frozen_graph(network))
    paths = [tmp_path / "net.tflite", tmp_path / "net.pb", forms.write_tfjs_graph(network, tmp_path / "g", "uint8")]
    for path in paths:
        assert dispatch("x", "", COMMANDS, ["inspect", str(path), "--json", str(tmp_path / "o.json"),
                        "--html", str(tmp_path / "o.html")]) == 0  # fmt: skip
        found = json.loads((tmp_path / "o.json").read_text())
        assert "A PoseNet: 7 trunk layers" in found["notes"][0]
        page = _Page((tmp_path / "o.html").read_text())
        assert page.links == [] and page.open == []
        assert found["file"] == path.name
    assert found["facts"]["stored"] == f"{len(list(network.layers())) * 2} weights as uint8"


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    """Names come from strangers' files: they must not become HTML."""
    network = forms.tiny_posenet(1)
    data = forms.frozen_graph(network).replace(b"sub_2", b'<b>&"').replace(b"MobilenetV1/", b"<script>a</s")
    found = read_file.describe_bytes(data, "<i>.pb")
    text = render.html(found)
    assert "<b>&" not in text and "<script>a" not in text and "<i>" not in text
    assert "&lt;script&gt;a" in text


@pytest.mark.weights
def test_decoder_op(weights_dir: Path) -> None:
    """The options that Coral compiled in, decoded from FlexBuffers."""
    found = read_file.describe(weights_dir / f"{CORAL}quant_decoder.tflite")
    (op,) = found.custom_ops
    assert op.name == "PosenetDecoderOp" and "libcoral" in op.what
    assert op.options["max_detections"].startswith("10 ")
    assert op.options["score_threshold"].startswith("0.2 ")
    assert op.options["stride"].startswith("16 ")
    assert op.options["nms_radius"].startswith("10.0 ")
    alone = read_file.describe(weights_dir / f"{CORAL}decoder.tflite").custom_ops[0]
    assert alone.options["max_detections"].startswith("20 ")


@pytest.mark.weights
def test_edgetpu_op(weights_dir: Path) -> None:
    """Size, chip and kind of the compiled blob, and where the weights are to be had."""
    found = read_file.describe(weights_dir / f"{CORAL}quant_decoder_edgetpu.tflite")
    edgetpu, decoder = found.custom_ops
    assert edgetpu.options["chip"] == "beagle (Edge TPU)"
    assert edgetpu.options["executable"].startswith("1,544,192 bytes") and "DWN1" in edgetpu.options["executable"]
    assert decoder.name == "PosenetDecoderOp"
    assert "quant_decoder.tflite instead" in found.notes[0]


@pytest.mark.weights
def test_coral_tensors(weights_dir: Path) -> None:
    """Tensors with shape, type, scale and zero point as the reference documents them; multiply-adds add up."""
    found = read_file.describe(weights_dir / f"{CORAL}quant.tflite").to_dict()
    assert found["tables"]["inputs"][0] | {"tensor": 0} == {
        "tensor": 0, "name": "sub_2", "shape": "1×353×481×3", "type": "uint8", "scale": "0.0078125",
        "zero point": "128"}  # fmt: skip
    assert [row["name"] for row in found["tables"]["outputs"]] == [
        "float_heatmaps", "float_short_offsets", "float_mid_offsets"]  # fmt: skip
    assert found["facts"]["multiply-adds"] == "1,246.2 million"
    assert found["facts"]["weights"] == "1,258,195 values"


@pytest.mark.weights
@pytest.mark.parametrize(
    ("file", "form", "fact"),
    [
        ("canmv_mobilenet_0.25.kmodel", "kmodel V4", "25 kpu_conv2d"),
        ("canmv_yolo_face_detect.kmodel", "kmodel V3", "30 k210_conv"),
        ("maixpy_yolov2_fruit.kmodel", "kmodel V3", "28 k210_conv"),
        ("nncase_cpu_mobilenet_v2.kmodel", "kmodel V5", "stackvm"),
        ("maixpy_face_model_at_0x300000.kfpkg", "kflash package", "1"),
    ],
)
def test_kmodels(data_dir: Path, file: str, form: str, fact: str) -> None:
    """Public kmodels of all three versions, and a flash package."""
    found = read_file.describe(data_dir / "kmodels" / file)
    assert found.form.startswith(form)
    assert any(fact in str(value) for value in found.facts.values())
    assert _Page(render.html(found)).open == []
    assert render.text(found).startswith(file)


def test_flexbuffer_kinds() -> None:
    """Each kind of value, against the official writer."""
    from flatbuffers import flexbuffers

    value = {"a": -5, "b": 3.25, "c": "text", "d": [1, "two", None, True], "e": b"\x80\x81", "f": {"g": 70000},
             "h": [], "i": 1 << 40}  # fmt: skip
    data = bytes(flexbuffers.Dumps(value))
    assert flexbuffer.read(data) == value
    builder = flexbuffers.Builder()
    with builder.TypedVector():
        for number in (1, 2, 300):
            builder.Int(number)
    assert flexbuffer.read(bytes(builder.Finish())) == [1, 2, 300]
    for cut in range(len(data)):
        try:
            flexbuffer.read(data[:cut])
        except FormatError:
            continue
