"""Every form of PoseNet's weights ends as the same Network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.arrays import Numbers, Picture
from common.errors import FormatError, UserError
from common.pictures import letterbox, load_picture
from common.skeleton import EDGES, Skeleton
from model_build import float_forward, tflite_writer
from model_build.importers import (
    graphdef,
    load,
    open_network,
    tfjs_checkpoint,
    tfjs_graph,
    tflite,
    tflite_file,
)
from model_build.importers.convolutions import fold_convolutions
from model_build.importers.graphdef_file import GraphNode
from model_build.importers.recognise import to_network
from model_build.kpu.lower import check_dilation
from model_build.network import HEADS, Conv, Network
from tests.support import posenet_forms as forms


@pytest.mark.parametrize(
    ("stored", "tolerance"), [("float32", 0), ("float16", 2e-3), ("uint16", 1e-4), ("uint8", 2e-2)]
)
def test_tfjs_graph_models_of_all_storage_forms_are_read(tmp_path: Path, stored: str, tolerance: float) -> None:
    """The weights come back, those of tfjs's quantBytes 4, 2 and 1 within their step."""
    network = forms.tiny_posenet(1)
    for fused in (True, False):
        path = forms.write_tfjs_graph(network, tmp_path / str(fused), stored, fused)
        forms.assert_same_weights(network, load(path), tolerance)


def test_frozen_graphs_are_read() -> None:
    """A .pb may have separate BiasAdd and Relu6 nodes or fused ones."""
    network = forms.tiny_posenet(2)
    for fused in (True, False):
        forms.assert_same_weights(network, graphdef.from_bytes(forms.frozen_graph(network, fused=fused), "x.pb"))


def test_tfjs_checkpoints_are_read(tmp_path: Path) -> None:
    """The oldest form has fourteen blocks by name, with strides from the multiplier's table."""
    network = forms.tiny_posenet(3, blocks=tfjs_checkpoint.BLOCK_STRIDES_16)
    loaded = load(forms.write_tfjs_checkpoint(network, tmp_path))
    forms.assert_same_weights(network, loaded)
    assert loaded.output_stride == 16


def test_multiplier_100_is_dilated_at_stride_16(tmp_path: Path) -> None:
    """1.00 has a fifth block of stride 2. At 16 the last depthwise layer is dilated, so only 32 can be built."""
    assert tfjs_checkpoint.stride_and_dilation(tfjs_checkpoint.BLOCK_STRIDES_32, 16)[12:] == [(1, 1), (1, 2)]
    assert tfjs_checkpoint.stride_and_dilation(tfjs_checkpoint.BLOCK_STRIDES_32, 32)[12:] == [(2, 1), (1, 1)]
    assert all(d == 1 for _, d in tfjs_checkpoint.stride_and_dilation(tfjs_checkpoint.BLOCK_STRIDES_16, 16))
    network = forms.tiny_posenet(4, width=32, blocks=tfjs_checkpoint.BLOCK_STRIDES_32)
    manifest = forms.write_tfjs_checkpoint(network, tmp_path)
    assert load(manifest).output_stride == 32
    dilated = tfjs_checkpoint.load(manifest, 16)
    with pytest.raises(UserError, match="dilated by 2"):
        check_dilation(dilated)


def test_tflite_round_trip() -> None:
    """What the writer writes, with explicit PAD and VALID, is read back to the bit, short offsets included."""
    network = forms.tiny_posenet(5)
    data = tflite_writer.write(network, 64, 48)
    assert data == tflite_writer.write(network, 64, 48)
    forms.assert_same_weights(network, tflite.from_bytes(data, "x.tflite"))


def same_forward(network: Network, picture: Picture) -> dict[str, Numbers]:
    """A forward pass with TensorFlow's SAME at even sizes, where stride-2 layers pad only below and right."""

    def step(layer: Conv, x: Numbers) -> Numbers:
        if layer.stride == 1:
            return float_forward.convolve(layer, x)
        # Symmetric padding at stride 1, then every second pixel from 1 on, gives the centres 1, 3, 5, …
        return float_forward.convolve(replace(layer, stride=1), x)[1::2, 1::2]

    x = float_forward.normalise(picture)
    for layer in network.trunk:
        x = step(layer, x)
    return {name: step(network.heads[name], x) for name in HEADS}


def test_grid_of_even_same_padding_is_corrected() -> None:
    """A network of a fixed even size has its cells' centres 15 px off cell · 16.

    Built on our grid it must give the same positions, so its short offsets carry the difference.
    """
    network = forms.tiny_posenet(6)
    imported = graphdef.from_bytes(forms.frozen_graph(network, size=(128, 128)), "even.pb")
    added = imported.heads["short_offset"].bias - network.heads["short_offset"].bias
    assert np.allclose(added, 15)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (160, 160, 3)).astype(np.uint8)
    theirs = same_forward(network, picture[:128, :128])
    ours = float_forward.forward(imported, picture[15:143, 15:143])
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(theirs["heatmap"] - ours["heatmap"])[inner].max() < 1e-3
    assert np.abs(theirs["short_offset"] + 15 - ours["short_offset"])[inner].max() < 1e-3
    # At odd sizes, which PoseNet uses, the grids agree.
    odd = graphdef.from_bytes(forms.frozen_graph(network, size=(129, 161)), "odd.pb")
    forms.assert_same_weights(network, odd)


def test_batch_norm_and_normalisation_are_folded() -> None:
    """Users' graphs have a separate batch norm and begin with x / 127.5 − 1. Both go without changing results."""
    network = forms.tiny_posenet(7)
    nodes, constants = forms.nodes_of(network)
    first = network.trunk[0]
    rng = np.random.default_rng(0)
    gamma, mean = rng.uniform(0.5, 2, (2, first.out_channels)).astype(np.float32)
    variance = rng.uniform(0.5, 2, first.out_channels).astype(np.float32)
    constants |= {"gamma": gamma, "mean": mean, "variance": variance, "scale": np.array(1 / 127.5, np.float32),
                  "one": np.array(1, np.float32)}  # fmt: skip
    built = []
    for node in nodes:
        item = GraphNode(node["name"], node["op"], list(node["input"]), dict(node["attr"]))
        item.value = constants.get(node["name"])
        if item.op == "BiasAdd" and "Conv2d_0" in item.name:
            item.op, item.attributes = "FusedBatchNormV3", {"epsilon": 1e-3}
            item.inputs = [item.inputs[0], "gamma", item.inputs[1], "mean", "variance"]
        if item.name == "MobilenetV1/Conv2d_0/Conv2D":
            item.inputs[0] = "sub"
        built.append(item)
    built += [GraphNode(name, "Const", [], {}, np.asarray(constants[name])) for name in
              ("gamma", "mean", "variance", "scale", "one")]  # fmt: skip
    built += [GraphNode("mul", "Mul", ["sub_2", "scale"]), GraphNode("sub", "Sub", ["mul", "one"])]
    loaded = to_network(graphdef.to_graph(built), "x", "x", "")
    factor = gamma / np.sqrt(variance + 1e-3)
    assert np.allclose(loaded.trunk[0].weights, first.weights * factor, atol=1e-6)
    assert np.allclose(loaded.trunk[0].bias, first.bias - mean * factor, atol=1e-6)
    built[-1] = GraphNode("sub", "Add", ["mul", "one"])
    with pytest.raises(FormatError, match="normalises pixels to 1…3"):
        to_network(graphdef.to_graph(built), "x", "x", "")


def test_other_keypoint_counts_need_a_skeleton() -> None:
    """Weights do not tell which keypoints are joined, so the file with names and edges is asked for."""
    network = forms.tiny_posenet(8, keypoints=5)
    data = forms.frozen_graph(network)
    with pytest.raises(FormatError, match="5 keypoints and 4 edges.*--skeleton"):
        graphdef.from_bytes(data, "x.pb")
    loaded = graphdef.from_bytes(data, "x.pb", Skeleton(network.keypoints, network.edges))
    forms.assert_same_weights(network, loaded)
    assert loaded.edges == network.edges


STRIDES_16, STRIDES_32 = (2, 1, 2, 2, 1, 2, 1), (2, 1, 2, 2, 1, 2, 1, 2, 1)


@pytest.mark.parametrize(("blocks", "published"), [(STRIDES_16, 8), (STRIDES_32, 16), (STRIDES_32, 8), (STRIDES_16, 4)])
@pytest.mark.parametrize("form", ["tfjs", "pb"])
def test_dilation_is_undone(tmp_path: Path, blocks: tuple[int, ...], published: int, form: str) -> None:
    """tfjs publishes finer strides of the same weights as dilated graphs, which the KPU cannot run.

    They become the network with strides. Its cells must be exactly what the published graph gives there, which the
    float reference runs as it is.
    """
    strided = forms.tiny_posenet(1, blocks=blocks)
    dilated = forms.at_output_stride(strided, published)
    assert max(layer.dilation for layer in dilated.trunk) == strided.output_stride // published
    if form == "tfjs":
        imported = load(forms.write_tfjs_graph(dilated, tmp_path))
    else:
        imported = graphdef.from_bytes(forms.frozen_graph(dilated), "x.pb")
    assert imported.output_stride == strided.output_stride
    forms.assert_same_weights(strided, imported)
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    fine, coarse = float_forward.forward(dilated, picture), float_forward.forward(imported, picture)
    step = strided.output_stride // published
    for head in HEADS:
        np.testing.assert_allclose(coarse[head], fine[head][::step, ::step], atol=1e-5)


def test_dilation_that_no_stride_explains_is_refused() -> None:
    """A dilated layer among others reads pixels that a coarser grid lacks. The message names the layer."""
    network = forms.tiny_posenet(1)
    layers = list(network.trunk)
    layers[3] = replace(layers[3], stride=1, dilation=2)
    odd = replace(network, trunk=tuple(layers), output_stride=8)
    with pytest.raises(
        FormatError,
        match=r"Conv2d_3_depthwise.* has the dilation 1, which is not that of a network with a coarser stride",
    ):
        graphdef.from_bytes(forms.frozen_graph(odd), "x.pb")
    layers[1:] = [replace(layer, stride=1, dilation=2) for layer in layers[1:]]
    nothing_before = replace(network, trunk=tuple(layers), output_stride=2)
    with pytest.raises(FormatError, match=r"has the dilation 2, which is not that of a network with a coarser stride"):
        graphdef.from_bytes(forms.frozen_graph(nothing_before), "x.pb")


@pytest.mark.parametrize("dilations", [[1, 2, 1, 1], [2, 1, 1, 2], [2, 2, 2, 1], [1, 2, 3, 1]])
def test_unequal_dilations_are_refused(dilations: list[int]) -> None:
    """Only equal dilations of height and width make sense, and batch and channels have none."""
    node = GraphNode("conv", "Conv2D", ["x", "w"], {"strides": [1, 1, 1, 1], "dilations": dilations})
    weights = GraphNode("w", "Const", [], {}, np.zeros((3, 3, 3, 4), np.float32))
    with pytest.raises(FormatError, match="height and width must agree|only height and width"):
        fold_convolutions(graphdef.to_graph([GraphNode("x", "Placeholder", []), weights, node]))


@pytest.mark.parametrize(("scope", "says"), [
    ("resnet_v1_50/conv1", "is a PoseNet on ResNet50.*7×7"),
    ("center_net_mobile_net_v2fpn_feature_extractor/model_1/Conv1", "is a MoveNet.*feature pyramid"),
])  # fmt: skip
def test_other_pose_networks_are_named(scope: str, says: str) -> None:
    """People try PoseNet's ResNet50 graph and MoveNet.

    The answer is which network that is and why it cannot run, and not the first detail that does not fit.
    """
    weights = GraphNode("w", "Const", [], {}, np.zeros((3, 3, 3, 8), np.float32))
    convolution = GraphNode(scope + "/Conv2D", "Conv2D", ["x", "w"], {"strides": [1, 2, 2, 1]})
    nodes = [GraphNode("x", "Placeholder", []), weights, convolution]
    with pytest.raises(FormatError, match=says):
        to_network(graphdef.to_graph(nodes), "x", "x", "")
    weights.value, convolution.name = np.zeros((7, 7, 3, 64), np.float32), "unnamed"
    with pytest.raises(FormatError, match="is a PoseNet on ResNet50"):
        to_network(graphdef.to_graph(nodes), "x", "x", "")


def joined(own: str, others: tuple[str, ...]) -> str:
    """A tensor name as TensorFlow 2's converter makes it: its own, then those of everything fused into it."""
    return ";".join([own, *others])


def test_joined_names_of_tensorflow_2_are_understood() -> None:
    """The converter joins names with ";". The first is the tensor's own.

    The others belong to constants that happened to be equal, often of other heads, as in Coral's bodypix PoseNets.
    """
    network = forms.tiny_posenet(1)
    names = {
        "heatmap": "float_heatmaps",
        "short_offset": "float_short_offsets",
        "displacement_fwd": "MobilenetV1/displacement_fwd_2/BiasAdd",
        "displacement_bwd": "MobilenetV1/displacement_bwd_2/BiasAdd",
    }
    others = (*names.values(), "MobilenetV1/segment_2/Conv2D")
    renamed = {head: joined(own, tuple(name for name in others if name != own)) for head, own in names.items()}
    file = tflite_file.read(tflite_writer.write(network, 64, 48))
    tensors = tuple(replace(tensor, name=renamed.get(tensor.name, tensor.name)) for tensor in file.tensors)
    graph = tflite.to_graph(replace(file, tensors=tensors))
    forms.assert_same_weights(network, to_network(graph, "x", "x", ""))


def test_missing_head_is_named() -> None:
    """The owner of a classifier or of a cut graph learns what it lacks."""
    network = forms.tiny_posenet(9)
    data = forms.frozen_graph(network).replace(b"displacement_bwd_2", b"segments_bwd_2____")
    with pytest.raises(FormatError, match="lacks the head displacement_bwd"):
        graphdef.from_bytes(data, "x.pb")


def test_every_form_names_the_file_once(tmp_path: Path) -> None:
    """The step that recognises a network knows no file, so each form's reader adds the name, and only once."""
    network = forms.tiny_posenet(9)
    odd = replace(network, trunk=(replace(network.trunk[0], activation="linear"), *network.trunk[1:]))
    (tmp_path / "x.tflite").write_bytes(tflite_writer.write(odd, 64, 48))
    (tmp_path / "x.pb").write_bytes(forms.frozen_graph(odd))
    for path in (tmp_path / "x.tflite", tmp_path / "x.pb", forms.write_tfjs_graph(odd, tmp_path)):
        with pytest.raises(FormatError) as error:
            load(path)
        assert re.fullmatch(rf"{path.name}: no convolution reads the input (?!.*{path.name}).*", str(error.value))


def test_an_operator_without_results_is_ignored() -> None:
    """A damaged file may have one behind a convolution. It means nothing, and nothing can follow it."""
    network = forms.tiny_posenet(1)
    file = tflite_file.read(tflite_writer.write(network, 64, 48))
    for kind in ("RELU6", "LOGISTIC", "CONV_2D"):
        dead_end = tflite_file.TfliteOperator(len(file.operators), kind, False, (file.outputs[0],), ())
        graph = tflite.to_graph(replace(file, operators=(*file.operators, dead_end), outputs=()))
        forms.assert_same_weights(network, to_network(graph, "x", "x", ""))


def test_unknown_files_are_told_what_is_known(tmp_path: Path) -> None:
    """Pictures, kmodels and unknown names each get one clear line."""
    junk = tmp_path / "x.bin"
    junk.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(FormatError, match="known forms are TFLite"):
        load(junk)
    junk.write_bytes(b"LDMK\x05\0\0\0" + bytes(100))
    with pytest.raises(FormatError, match="is a kmodel"):
        load(junk)
    with pytest.raises(UserError, match="neither a file nor a known network"):
        open_network("posenet-9000")


def test_missing_parts_are_named(tmp_path: Path) -> None:
    """A checkpoint or graph model that lacks one of its files says which."""
    network = forms.tiny_posenet(10)
    path = forms.write_tfjs_graph(network, tmp_path / "graph")
    (path.parent / "group1-shard2of2.bin").unlink()
    with pytest.raises(UserError, match="group1-shard2of2.bin"):
        load(path)
    manifest = forms.write_tfjs_checkpoint(
        forms.tiny_posenet(11, blocks=tfjs_checkpoint.BLOCK_STRIDES_16), tmp_path / "old"
    )
    (manifest.parent / "MobilenetV1_heatmap_2_biases").unlink()
    with pytest.raises(UserError, match="MobilenetV1_heatmap_2_biases"):
        load(manifest)


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    """A manifest from elsewhere must not make us read other files."""
    (tmp_path / "manifest.json").write_text(json.dumps({"a": {"filename": "../../etc/passwd", "shape": [1]}}))
    with pytest.raises(FormatError, match="not a plain name of a file beside it"):
        load(tmp_path / "manifest.json")
    with pytest.raises(FormatError, match="not a plain name"):
        tfjs_graph.shard_names({"weightsManifest": [{"paths": ["/etc/passwd"], "weights": []}]})


CORAL = "coral/posenet_mobilenet_v1_075_353_481_"


@pytest.mark.weights
def test_coral_forms_hold_the_same_weights(weights_dir: Path) -> None:
    """quant and quant_decoder are the same training, and the decoder at the end changes nothing."""
    plain = load(weights_dir / f"{CORAL}quant.tflite")
    forms.assert_same_weights(plain, load(weights_dir / f"{CORAL}quant_decoder.tflite"))
    assert [layer.activation for layer in plain.trunk] == ["relu6"] * 27
    assert plain.output_stride == 16


@pytest.mark.weights
def test_edgetpu_names_the_file_to_use(weights_dir: Path) -> None:
    """Its weights are compiled. The message says so and names the file that has them."""
    with pytest.raises(
        FormatError, match="weights lie inside the edgetpu-custom-op.*quant_decoder.tflite from the same place instead"
    ):
        load(weights_dir / f"{CORAL}quant_decoder_edgetpu.tflite")


@pytest.mark.weights
def test_coral_and_tfjs_agree_head_by_head(weights_dir: Path, photos_dir: Path) -> None:
    """Coral's 0.75 was trained separately, so weights differ, but what each head means must not.

    On photos of one person the peaks of the heatmaps lie within a cell, and positions within a few pixels.
    Displacements lead along the edges: forward in the first half of Coral's joined mid offsets, backward in the second.
    """
    networks = [load(weights_dir / "tfjs_mobilenet_v1_075"), load(weights_dir / f"{CORAL}quant.tflite")]
    distances, right, swapped = [], [], []
    for name in ("tfjs_pose_warrior.jpg", "tf_image1.png", "mediapipe_sitting.jpg"):
        picture = letterbox(load_picture(photos_dir / name), 256, 256)[0]
        both = [float_forward.forward(network, picture) for network in networks]
        for head in HEADS:
            assert np.corrcoef(both[0][head].ravel(), both[1][head].ravel())[0, 1] > 0.7, head
        positions, cells, scores = zip(*[_keypoints(heads) for heads in both], strict=True)
        sure = (scores[0] > 0) & (scores[1] > 0)
        distances += list(np.hypot(*(positions[0] - positions[1])[sure].T))
        for edge, (parent, child) in enumerate(EDGES):
            if sure[parent] and sure[child]:
                wanted = positions[1][child] - positions[1][parent]
                at = cells[1][parent]
                right.append(np.hypot(*(both[1]["displacement_fwd"][at][[edge, 16 + edge]] - wanted)))
                swapped.append(np.hypot(*(both[1]["displacement_bwd"][at][[edge, 16 + edge]] - wanted)))
    assert np.median(distances) < 6
    assert np.median(right) < 16
    assert np.median(swapped) > 2 * np.median(right)


def _keypoints(heads: dict[str, Numbers]) -> tuple[Numbers, list[tuple[int, int]], Numbers]:
    """The place in pixels, the cell and the score of each keypoint's best cell."""
    positions, cells, scores = [], [], []
    for k in range(17):
        y, x = np.unravel_index(heads["heatmap"][..., k].argmax(), heads["heatmap"].shape[:2])
        offset = heads["short_offset"][y, x]
        positions.append((16 * y + offset[k], 16 * x + offset[17 + k]))
        cells.append((int(y), int(x)))
        scores.append(heads["heatmap"][y, x, k])
    return np.array(positions), cells, np.array(scores)


@pytest.mark.weights
def test_posenet_pythons_050_is_read(weights_dir: Path) -> None:
    """The real frozen graph has 0.50's widths and four heads by name, and its sigmoid is left out."""
    network = load(weights_dir / "posenet_python" / "model-mobilenet_v1_050.pb")
    assert [layer.out_channels for layer in network.trunk[::2]] == [16, 32, 64, 64, 128, 128] + [256] * 8
    assert [network.heads[head].out_channels for head in HEADS] == [17, 34, 32, 32]
