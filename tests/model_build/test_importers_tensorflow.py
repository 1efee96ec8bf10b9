"""Models that TensorFlow itself builds: the structure of the official float TFLite, and users' own Keras models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.arrays import Numbers, Picture
from common.errors import FormatError
from model_build import float_forward, tflite_writer
from model_build.engines.tflite import TfliteEngine
from model_build.importers import load, tflite, tflite_file
from model_build.network import HEADS, Network
from tests.support import posenet_forms as forms
from tests.support.tensorflow_later import tf

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tensorflow")]


def official_tflite(network: Network, quantized_weights: bool = False) -> bytes:
    """multi_person_mobilenet_v1_075_float.tflite in small, with an input of 257×353.

    Its outputs are float_heatmaps, float_short_offsets, float_mid_offsets (forward and backward joined) and
    float_segments.
    """
    graph = tf.Graph()
    with graph.as_default():
        picture = tf.compat.v1.placeholder(tf.float32, (1, 353, 257, 3), "sub_2")
        x = picture
        for layer in network.trunk:
            op = tf.nn.conv2d if layer.kind == "conv" else tf.nn.depthwise_conv2d
            strides = layer.stride if layer.kind == "conv" else [1, layer.stride, layer.stride, 1]
            x = tf.nn.relu6(op(x, layer.weights, strides, "SAME") + layer.bias)

        def head(layer: Any, name: str) -> Any:
            return tf.nn.bias_add(tf.nn.conv2d(x, layer.weights, 1, "SAME"), layer.bias, name=name)

        outputs = [
            head(network.heads["heatmap"], "float_heatmaps"),
            head(network.heads["short_offset"], "float_short_offsets"),
            tf.concat([
                head(network.heads["displacement_fwd"], "MobilenetV1/displacement_fwd_2/BiasAdd"),
                head(network.heads["displacement_bwd"], "MobilenetV1/displacement_bwd_2/BiasAdd")],
                3, name="float_mid_offsets"),
            tf.nn.conv2d(x, np.ones((1, 1, x.shape[3], 1), np.float32), 1, "SAME", name="float_segments"),
        ]  # fmt: skip
        with tf.compat.v1.Session(graph=graph) as session:
            converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, [picture], outputs)
            if quantized_weights:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_types = [tf.float16]
            return bytes(converter.convert())


def keras_posenet(network: Network, size: tuple[int, int] | None, names: bool = True) -> Any:
    """The network as a user would write it, with separate batch norm."""
    width, height = size or (None, None)
    inputs = tf.keras.Input((height, width, 3))
    x = inputs
    for layer in network.trunk:
        if layer.kind == "conv":
            made = tf.keras.layers.Conv2D(layer.out_channels, layer.kernel, layer.stride, "same", use_bias=False)
            weights = layer.weights
        else:
            made = tf.keras.layers.DepthwiseConv2D(
                3, layer.stride, "same", use_bias=False, dilation_rate=layer.dilation
            )
            weights = layer.weights
        x = made(x)
        made.set_weights([weights])
        norm = tf.keras.layers.BatchNormalization(epsilon=0.0)
        x = norm(x)
        ones = np.ones(layer.out_channels, np.float32)
        norm.set_weights([ones * 2, layer.bias, ones * 0, ones * 4])
        x = tf.keras.layers.ReLU(6.0)(x)
    outputs = []
    for name in HEADS:
        head = network.heads[name]
        made = tf.keras.layers.Conv2D(head.out_channels, 1, name=name if names else None)
        outputs.append(made(x))
        made.set_weights([head.weights, head.bias])
    return tf.keras.Model(inputs, outputs)


def test_the_official_float_tflite_is_read() -> None:
    """Tensors are found by name and structure, joined mid offsets are cut, and segments are dropped.

    The same holds with float16 weights behind DEQUANTIZE.
    """
    network = forms.tiny_posenet(1)
    forms.assert_same_weights(network, tflite.from_bytes(official_tflite(network), "official.tflite"))
    half = tflite.from_bytes(official_tflite(network, True), "half.tflite")
    forms.assert_same_weights(network, half, 1e-3)


def test_keras_files_and_saved_models_are_read(tmp_path: Path) -> None:
    """A user's own model as .keras, .h5 and SavedModel, with batch norm and without a fixed size."""
    network = forms.tiny_posenet(2)
    model = keras_posenet(network, None)
    for name in ("own.keras", "own.h5"):
        model.save(tmp_path / name)
        forms.assert_same_weights(network, load(tmp_path / name), 1e-5)
    tf.saved_model.save(model, str(tmp_path / "own"))
    loaded = load(tmp_path / "own")
    forms.assert_same_weights(network, loaded, 1e-5)
    assert loaded.name == "own" and len(loaded.source_sha256) == 64
    (tmp_path / "broken.h5").write_bytes((tmp_path / "own.h5").read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"broken\.h5: TensorFlow cannot load it"):
        load(tmp_path / "broken.h5")


def run_by_tensorflow(network: Network, picture: Picture) -> list[Numbers]:
    """The heads that TensorFlow computes for the graph as published, with SAME padding and dilation."""
    x = (picture[None].astype(np.float32) - 128) / 128
    for layer in network.trunk:
        if layer.kind == "conv":
            x = tf.nn.conv2d(x, layer.weights, layer.stride, "SAME", dilations=layer.dilation)
        else:
            strides, dilations = [1, layer.stride, layer.stride, 1], [layer.dilation] * 2
            x = tf.nn.depthwise_conv2d(x, layer.weights, strides, "SAME", dilations=dilations)
        x = tf.nn.relu6(x + layer.bias)
    return [np.asarray(x[0] @ network.heads[head].weights[0, 0] + network.heads[head].bias) for head in HEADS]


@pytest.mark.parametrize(("blocks", "published"), [((2, 1, 2, 2, 1, 2, 1), 8), ((2, 1, 2, 2, 1, 2, 1, 2, 1), 8)])
def test_undone_dilation_gives_tensorflows_values(tmp_path: Path, blocks: tuple[int, ...], published: int) -> None:
    """TensorFlow runs the published dilated graph at an odd size, for which PoseNet was trained.

    The float reference runs our import of it. Both must give the same floats in every cell of the coarser grid.
    """
    strided = forms.tiny_posenet(1, blocks=blocks)
    dilated = forms.at_output_stride(strided, published)
    imported = load(forms.write_tfjs_graph(dilated, tmp_path))
    assert (imported.output_stride, max(layer.dilation for layer in imported.trunk)) == (strided.output_stride, 1)
    picture = np.random.default_rng(1).integers(0, 256, (97, 129, 3)).astype(np.uint8)
    theirs = run_by_tensorflow(dilated, picture)
    ours = float_forward.forward(imported, picture)
    step = strided.output_stride // published
    for head, fine in zip(HEADS, theirs, strict=True):
        np.testing.assert_allclose(ours[head], fine[::step, ::step], atol=1e-4)


def test_a_dilated_keras_model_is_read(tmp_path: Path) -> None:
    """TensorFlow freezes a user's dilated model in SpaceToBatch form or with `dilations`. Both become strides."""
    strided = forms.tiny_posenet(2, blocks=(2, 2, 2, 1))
    model = keras_posenet(forms.at_output_stride(strided, 4), (97, 65))
    model.save(tmp_path / "own.h5")
    forms.assert_same_weights(strided, load(tmp_path / "own.h5"), 1e-5)


def test_joined_names_from_the_real_converter_are_understood() -> None:
    """If heads have equal biases, TensorFlow 2's own converter joins their names with ";"."""
    network = forms.tiny_posenet(3)
    zero = {name: replace(head, bias=np.zeros_like(head.bias)) for name, head in network.heads.items()}
    network = replace(network, heads=zero)
    data = tf.lite.TFLiteConverter.from_keras_model(keras_posenet(network, (97, 65))).convert()
    assert any(";" in tensor.name for tensor in tflite_file.read(data).tensors)
    forms.assert_same_weights(network, tflite.from_bytes(data, "user.tflite"), 1e-5)


def test_a_users_tflite_of_an_even_size_gives_the_users_positions(tmp_path: Path) -> None:
    """Keras → TFLite at 64×96 without names: heads are found by structure."""
    network = forms.tiny_posenet(3)
    model = keras_posenet(network, (96, 64), names=False)
    data = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    imported = tflite.from_bytes(data, "user.tflite")
    assert np.allclose(imported.heads["short_offset"].bias - network.heads["short_offset"].bias, 15, atol=1e-4)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)
    theirs = model((picture[None, :64, :96].astype(np.float32) - 128) / 128)
    ours = float_forward.forward(imported, picture[15:79, 15:111])
    inner = (slice(1, -1), slice(1, -1))
    assert np.abs(np.asarray(theirs[0])[0][inner] - ours["heatmap"][inner]).max() < 1e-3
    assert np.abs(np.asarray(theirs[1])[0][inner] + 15 - ours["short_offset"][inner]).max() < 1e-3


def test_writer_and_reference_agree_with_tensorflow(tmp_path: Path) -> None:
    """posenet.tflite in TensorFlow, float_forward, and TensorFlow's SAME at the odd size must give one result.

    The odd size's map has one more row and column, and the rest is the same grid.
    """
    network = forms.tiny_posenet(4, width=8)
    path = tmp_path / "net.tflite"
    path.write_bytes(tflite_writer.write(network, 96, 64))
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    engine = TfliteEngine(path).run(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    ours = float_forward.forward(network, picture)
    model = keras_posenet(network, (97, 65))
    padded = np.full((65, 97, 3), 128, np.uint8)
    padded[:64, :96] = picture
    odd = model((padded[None].astype(np.float32) - 128) / 128)
    for index, name in enumerate(HEADS):
        assert np.abs(engine[name].transpose(1, 2, 0) - ours[name]).max() < 1e-4
        assert np.abs(np.asarray(odd[index])[0, :4, :6] - ours[name]).max() < 1e-4
