"""`inspect`: what custom operators mean, and every kind of file as text, JSON and HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.cli import dispatch
from common.errors import FormatError
from model_build import importers, tflite_writer
from model_build.__main__ import COMMANDS
from model_build.importers import tfjs_checkpoint
from model_build.inspect import flexbuffer, read_file, render
from tests.support import posenet_forms as forms
from tests.support.refusals import unless_refused
from tests.support.tensorflow_later import tf

CORAL = "coral/posenet_mobilenet_v1_075_353_481_"


class _Page(HTMLParser):
    """Collects what a page would load from elsewhere, and checks that its tags close."""

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


def test_every_form_is_shown_in_every_rendering(tmp_path: Path) -> None:
    """One small network in several forms has facts, tables and the remark that it can be built. HTML loads nothing."""
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
    """Names come from strangers' files and must not become HTML."""
    network = forms.tiny_posenet(1)
    data = forms.frozen_graph(network).replace(b"sub_2", b'<b>&"').replace(b"MobilenetV1/", b"<script>a</s")
    found = read_file.describe_bytes(data, "<i>.pb")
    text = render.html(found)
    assert "<b>&" not in text and "<script>a" not in text and "<i>" not in text
    assert "&lt;script&gt;a" in text


def test_a_graph_model_without_its_shards_is_described(tmp_path: Path) -> None:
    """People give only the JSON, which tells operators, shapes and types. What is missing is named."""
    path = forms.write_tfjs_graph(forms.tiny_posenet(1), tmp_path, "uint8")
    whole = read_file.describe(path)
    (tmp_path / "group1-shard2of2.bin").unlink()
    found = read_file.describe(path)
    assert found.facts["shards"] == "1 of 2 are not beside it"
    assert found.notes == [f"{tmp_path}/group1-shard2of2.bin: no such file, but {path.name} names it; get all shards"]
    kept = {name: value for name, value in found.facts.items() if name != "shards"}
    assert kept == {name: value for name, value in whole.facts.items() if name != "shards"}
    assert {table.title: len(table.rows) for table in found.tables} == {
        table.title: len(table.rows) for table in whole.tables
    }


def test_a_checkpoint_without_its_parts_is_described(tmp_path: Path) -> None:
    """The manifest alone tells the variables and their shapes."""
    network = forms.tiny_posenet(3, blocks=tfjs_checkpoint.BLOCK_STRIDES_16)
    path = forms.write_tfjs_checkpoint(network, tmp_path)
    (tmp_path / "MobilenetV1_heatmap_2_biases").unlink()
    found = read_file.describe(path)
    assert found.facts["variables"] == 2 * len(list(network.layers()))
    assert "MobilenetV1_heatmap_2_biases: no such file" in found.notes[0]
    (tensors,) = found.tables
    assert ("MobilenetV1/heatmap_2/biases", "17", "MobilenetV1_heatmap_2_biases") in tensors.rows


def test_a_layers_model_is_named(tmp_path: Path) -> None:
    """This is Keras's other form in TensorFlow.js. Its layers are listed, with how to convert it."""
    path = tmp_path / "model.json"
    layers = [{"class_name": "Conv2D", "config": {"name": "first"}}, {"class_name": "ReLU", "config": {}}, 3]
    path.write_text(json.dumps({"modelTopology": {"model_config": {"config": {"layers": layers}}}}))
    found = read_file.describe(path)
    assert found.form == "TensorFlow.js layers model (Keras)"
    assert found.tables[0].rows == [("first", "Conv2D"), ("", "ReLU")]
    assert "tensorflowjs_converter" in found.notes[0]


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5242880\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("net.tflite", LFS_POINTER, r"Git LFS pointer, not the file of 5,242,880 bytes itself: run `git lfs pull`"),
        ("model.json", LFS_POINTER, "Git LFS pointer"),
        ("net.kmodel", b"\x13\x27\0\0" + bytes(99), "an smodel.*only that board"),
        ("net.smodel", b"\x13\x27\0\0", "an smodel"),
        ("graph.pbtxt", b'node {\n  name: "x"\n}', "as text, which holds no weights: freeze the graph"),
        ("graph.pb", b"# a comment\nversions {\n producer: 1}", "as text, which holds no weights"),
        ("model.ckpt.meta", b"\n\x12\x08", "a part of a TensorFlow checkpoint.*freeze the graph"),
        ("model.ckpt-100.data-00000-of-00001", b"\0", "a part of a TensorFlow checkpoint"),
        ("model.ckpt.index", b"\0", "a part of a TensorFlow checkpoint"),
        ("saved_model.pb", b"\x08\x01\x12", "give the folder that it lies in"),
        ("net.tflite", b"\n<!DOCTYPE html><html>", "is a web page"),
        ("net.onnx", b"\x08\x07", "an ONNX network"),
        ("net.pt", b"PK\x03\x04", "a PyTorch file"),
        ("net.zip", b"PK\x03\x04", "a zip archive: unpack it"),
        ("net.tar.gz", b"\x1f\x8b\x08\0", "a gzip archive: unpack it"),
    ],
)
def test_files_without_readable_weights_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """People give such files to `inspect` and `build`. Both say what each is and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_file.describe, importers.load):
        with pytest.raises(FormatError, match=says):
            read(path)


@pytest.mark.slow
@pytest.mark.xdist_group("tensorflow")
def test_keras_models_that_take_no_picture_are_described(tmp_path: Path) -> None:
    """A model of numbers, of several inputs or of sequences is described by its layers.

    It is also told why it is no PoseNet.
    """
    numbers, other = tf.keras.Input((4,), name="numbers"), tf.keras.Input((None, 2), name="other")
    one = tf.keras.Model(numbers, tf.keras.layers.Dense(3, name="dense")(numbers))
    pooled = tf.keras.layers.GlobalAveragePooling1D()(other)
    two = tf.keras.Model([numbers, other], tf.keras.layers.Concatenate()([numbers, pooled]))
    grey = tf.keras.Sequential([tf.keras.layers.Conv2D(2, 3, input_shape=(8, 8, 1))])
    for model, inputs in ((one, ["?×4"]), (two, ["?×4", "?×?×2"]), (grey, ["?×8×8×1"])):
        for name in ("m.keras", "m.h5"):
            model.save(tmp_path / name)
            found = read_file.describe(tmp_path / name)
            tables = {table.title: table.rows for table in found.tables}
            assert [row[1] for row in tables["inputs"]] == inputs
            assert len(tables["layers"]) == len(model.layers)
            assert "a PoseNet has one, a picture" in found.notes[0]
            with pytest.raises(FormatError, match="a PoseNet has one, a picture"):
                importers.load(tmp_path / name)
    tf.saved_model.save(one, str(tmp_path / "saved"))
    found = read_file.describe(tmp_path / "saved")
    assert found.tables[0].rows == [("numbers", "?×4", "float32")]
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    with pytest.raises(FormatError, match="SavedModel without signatures"):
        read_file.describe(tmp_path / "empty")


@pytest.mark.weights
def test_the_decoder_operators_options_are_read(weights_dir: Path) -> None:
    """Coral compiled these options in as FlexBuffers."""
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
def test_the_edgetpu_operator_is_described(weights_dir: Path) -> None:
    """Size, chip and kind of the compiled part are shown, and where its weights can be had."""
    found = read_file.describe(weights_dir / f"{CORAL}quant_decoder_edgetpu.tflite")
    edgetpu, decoder = found.custom_ops
    assert edgetpu.options["chip"] == "beagle (Edge TPU)"
    assert edgetpu.options["executable"].startswith("1,544,192 bytes") and "DWN1" in edgetpu.options["executable"]
    assert decoder.name == "PosenetDecoderOp"
    assert "quant_decoder.tflite from the same place instead" in found.notes[0]


@pytest.mark.weights
def test_corals_tensors_are_described(weights_dir: Path) -> None:
    """Shape, type, scale and zero point must be as its reference documents them, and multiply-adds must add up."""
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
def test_public_kmodels_are_described(data_dir: Path, file: str, form: str, fact: str) -> None:
    """There are public kmodels of all three versions, and flash packages."""
    found = read_file.describe(data_dir / "kmodels" / file)
    assert found.form.startswith(form)
    assert any(fact in str(value) for value in found.facts.values())
    assert _Page(render.html(found)).open == []
    assert render.text(found).startswith(file)


def test_every_kind_of_flexbuffer_value_is_read() -> None:
    """Each kind of value comes from the official writer."""
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
    read = [unless_refused(flexbuffer.read, data[:cut]) for cut in range(len(data))]
    assert value not in read and read.count(None) > len(data) // 2
