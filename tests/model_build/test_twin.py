"""A network with its mirrored twin gives the mean of what it says about a picture and its mirror image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.arrays import Floats, Numbers
from common.errors import FormatError, UserError
from model_build import constant_channels, nncase_witness, tflite_writer
from model_build.channel_quantization import Choices, quantize
from model_build.engines.kpu import KpuEngine
from model_build.engines.tflite import TfliteEngine
from model_build.float_forward import forward
from model_build.gptq import round_layer
from model_build.kpu import kmodel_v3, layout, overlap
from model_build.kpu.lower import lower
from model_build.network import HEADS, Conv, Network, check
from model_build.rotation import rotate
from model_build.twin import with_twin
from tests.model_build.test_lower import heads_of
from tests.support import kpu_networks
from tests.support.layouts import piece_sources


def face(**shape: tuple[int, ...]) -> Network:
    """A random network whose three keypoints have a left and a right."""
    random = kpu_networks.random_network(4, **shape)
    return replace(random, keypoints=("nose", "leftEye", "rightEye"), edges=((0, 1), (0, 2)))


def mirrored_back(heads: dict[str, Numbers]) -> dict[str, Numbers]:
    """Heads (H, W, C) of a mirror image as those of the picture, worked out by hand for `face`."""
    orders = {
        "heatmap": ([0, 2, 1], [1, 1, 1]),
        "short_offset": ([0, 2, 1, 3, 5, 4], [1, 1, 1, -1, -1, -1]),  # y of each keypoint, then x.
        "displacement_fwd": ([1, 0, 3, 2], [1, 1, -1, -1]),
        "displacement_bwd": ([1, 0, 3, 2], [1, 1, -1, -1]),
    }
    return {name: head[:, ::-1, orders[name][0]] * orders[name][1] for name, head in heads.items()}


def test_heads_are_the_mean_of_a_picture_and_its_mirror_image():
    """The twin must compute exactly what its two halves do.

    Widths are a multiple of the stride plus one, because then cells lie alike from both ends.
    """
    network = face()
    picture = kpu_networks.pictures(1, 49, 33, seed=5)[0]
    here = forward(network, picture)
    there = mirrored_back(forward(network, np.ascontiguousarray(picture[:, ::-1])))
    found = forward(with_twin(network), picture)
    for name in HEADS:
        assert np.abs(here[name] - there[name]).max() > 0.1  # The two do differ.
        np.testing.assert_allclose(found[name], (here[name] + there[name]) / 2, atol=1e-4, err_msg=name)


def test_the_float_network_of_the_build_says_the_same(tmp_path):
    """posenet.tflite in the official runtime must know the groups of a twin."""
    network = with_twin(face())
    picture = kpu_networks.pictures(1, 48, 32, seed=6)[0]
    path = tmp_path / "twin.tflite"
    path.write_bytes(tflite_writer.write(network, 48, 32))
    found, wanted = TfliteEngine(path).run(kpu_networks.planes(picture)), forward(network, picture)
    for name in HEADS:
        np.testing.assert_allclose(found[name].transpose(1, 2, 0), wanted[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("width", [64, 112, 208])  # Of the last maps four, two or one share a line.
def test_kpu_layers_say_what_the_quantized_network_says(width, monkeypatch):
    """Every byte must be equal, by arrays and through KPU RAM, with each group in its place between the others."""
    twin = with_twin(face(widths=(8, 12, 20), strides=(1, 2)))
    quantized = quantize(twin, kpu_networks.pictures(2, width, 32))
    program = lower(quantized)
    model, plan = layout.lay_out(program, width, 32)
    overlap.check(model, piece_sources(program, plan))
    assert [len([p for p in plan.pieces if p.layer == n]) for n in (0, 2, 4, 5)] == [1, 2, 2, 1]
    engines = [KpuEngine(kmodel_v3.write(model))]
    monkeypatch.setattr("model_build.engines.kpu.trace_inputs", lambda layers: None)
    engines.append(KpuEngine(kmodel_v3.write(model)))
    picture = kpu_networks.pictures(1, width, 32, seed=7)[0]
    wanted = heads_of(quantized, picture)
    for engine in engines:
        found = dict(zip(HEADS, engine.run(kpu_networks.planes(picture)), strict=True))
        for name in HEADS:
            np.testing.assert_array_equal(found[name].transpose(1, 2, 0), wanted[name], err_msg=name)
            assert len(np.unique(found[name])) > 5


def without_groups(network: Network) -> Network:
    """The same network with each layer of two groups as one layer, whose weights between the groups are zero."""

    def dense(layer: Conv) -> Conv:
        if layer.groups == 1:
            return layer
        first, second = np.split(layer.weights, 2, axis=3)
        nothing = np.zeros_like(first)
        rows = [np.concatenate(row, axis=3) for row in ((first, nothing), (nothing, second))]
        return replace(layer, weights=np.concatenate(rows, axis=2), groups=1)

    return replace(network, trunk=tuple(map(dense, network.trunk)))


def test_every_byte_of_a_twin_equals_nncase():
    """nncase's compiler for this chip knows no groups, so its simulator computes the twin without groups.

    Ours computes it with groups. Zero weights add nothing, so every byte must be equal.
    """
    pytest.importorskip("nncase")
    width, height = 72, 56
    twin = with_twin(face(widths=(8, 12, 20), strides=(1, 2)))
    nearest = Choices(compensated_rounding=False)  # The other rounding would move errors into the zero weights.
    samples = kpu_networks.pictures(2, width, height)
    grouped, dense = (
        layout.lay_out(lower(quantize(network, samples, nearest)), width, height)[0]
        for network in (twin, without_groups(twin))
    )
    assert len(grouped.kpu_layers) > len(dense.kpu_layers)
    v5 = nncase_witness.witness_of(tflite_writer.write(without_groups(twin), width, height), dense)
    engine = KpuEngine(kmodel_v3.write(grouped))
    for picture in kpu_networks.pictures(2, width, height, seed=8):
        expected = kpu_networks.nncase_bytes(v5, picture)
        for ours, theirs in zip(engine.run(kpu_networks.planes(picture)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert len(np.unique(ours)) > 5


def test_each_group_is_rounded_for_its_own_inputs():
    """A group's rounding must not depend on inputs that it does not read."""
    network = with_twin(face())
    layer = network.trunk[2]
    inputs: list[Floats] = [
        np.random.default_rng(n).integers(0, 255, (6, 8, layer.in_channels)).astype(np.float32) for n in range(2)
    ]
    step = np.abs(layer.weights).max(axis=(0, 1, 2)) / 127
    found = round_layer(layer, layer.weights, step, inputs)
    half = layer.in_channels // 2
    second = replace(layer, weights=layer.weights[..., layer.out_channels // 2 :], groups=1)
    alone = round_layer(second, second.weights, step[layer.out_channels // 2 :], [one[..., half:] for one in inputs])
    np.testing.assert_array_equal(found[..., layer.out_channels // 2 :], alone)


def test_a_camera_on_its_side_has_twins_too():
    """Turning a network and giving it a twin must work together."""
    network = with_twin(face())
    picture = kpu_networks.pictures(1, 49, 33, seed=5)[0]
    upright = forward(network, picture)["heatmap"]
    turned = forward(rotate(network, 90), np.ascontiguousarray(np.rot90(picture)))["heatmap"]
    np.testing.assert_allclose(turned, np.rot90(upright), atol=1e-4)
    assert constant_channels.fold(network) is network


def test_what_has_no_twin_is_refused():
    """The message names the layer, or says that the skeleton changes in the mirror."""
    with pytest.raises(UserError, match="stem has 6 channels"):
        with_twin(face(widths=(6, 12, 20)))
    with pytest.raises(UserError, match="change when they are mirrored"):
        with_twin(replace(face(), keypoints=("nose", "leftEye", "chin")))
    with pytest.raises(UserError, match="change when they are mirrored"):
        with_twin(replace(face(), edges=((0, 1), (1, 2))))
    twin = with_twin(face())
    odd = replace(twin.trunk[2], groups=5)
    with pytest.raises(FormatError, match="in 5 groups"):
        check(replace(twin, trunk=(*twin.trunk[:2], odd, *twin.trunk[3:])))
