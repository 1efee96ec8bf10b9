"""The file of a trained network's weights: only rounding is lost, and damage is reported."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, UserError
from model_build.commands import train_demo
from model_build.network import HEADS, Conv, Network
from model_build.train import weights_file


@pytest.fixture(scope="module")
def small_network():
    """A network of two layers and four heads, which is enough for a file."""
    rng = np.random.default_rng(4)

    def conv(name, kind, shape, **rest):
        out = shape[2] if kind == "depthwise" else shape[3]
        arrays = rng.normal(size=shape).astype(np.float32), rng.normal(size=out).astype(np.float32)
        return Conv(name, kind, *arrays, **rest)

    trunk = conv("a", "conv", (3, 3, 3, 8), stride=2), conv("b", "depthwise", (3, 3, 8, 1), stride=2)
    channels = zip(HEADS, (17, 34, 32, 32), strict=True)
    heads = {name: conv(name, "conv", (1, 1, 8, count), activation="linear") for name, count in channels}
    return Network("small", trunk, heads, 4)


def test_weights_file_keeps_the_network(tmp_path, small_network):
    """Everything survives the file except for the rounding of weights to 127 steps a channel."""
    path = tmp_path / "w.npz"
    weights_file.save(path, small_network, {"seed": 3})
    loaded = weights_file.load(path)
    assert weights_file.load_notes(path) == {"seed": 3}
    assert (loaded.name, loaded.output_stride, loaded.source_id) == ("small", 4, "small")
    for before, after in zip(small_network.layers(), loaded.layers(), strict=True):
        assert (before.name, before.kind, before.stride, before.activation) == (
            after.name, after.kind, after.stride, after.activation)  # fmt: skip
        assert np.array_equal(before.bias, after.bias)
        axes = (0, 1, 3) if before.kind == "depthwise" else (0, 1, 2)
        half_step = np.abs(before.weights).max(axis=axes, keepdims=True) / 127 / 2
        assert np.all(np.abs(before.weights - after.weights) <= half_step * 1.001)
    weights_file.add_notes(path, {"accuracy": 1})
    assert weights_file.load_notes(path) == {"seed": 3, "accuracy": 1}
    again = tmp_path / "again.npz"
    weights_file.save(again, loaded, {"seed": 3})
    for before, after in zip(loaded.layers(), weights_file.load(again).layers(), strict=True):
        assert np.allclose(
            before.weights, after.weights, rtol=1e-5, atol=1e-8
        )  # Rounding a second time changes nothing.


def test_the_command_averages_weights_files(tmp_path, small_network):
    """Each weight is the mean of the files', rounded to 127 steps a channel. Other layers are refused."""
    turned = tuple(replace(layer, weights=-3 * layer.weights, bias=layer.bias + 2) for layer in small_network.trunk)
    for name, network in (("a", small_network), ("b", replace(small_network, trunk=turned))):
        weights_file.save(tmp_path / f"{name}.npz", network, {"seed": name})
    out = tmp_path / "mean.npz"
    parser = argparse.ArgumentParser()
    train_demo.add_arguments(parser)
    files = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert train_demo.run(parser.parse_args(["--average", *files, "--logit-shift", "-0.5", "--out", str(out)])) == 0
    mean, notes = weights_file.load(out), weights_file.load_notes(out)
    assert notes["average_of"] == [{"seed": "a"}, {"seed": "b"}]
    assert (notes["seed"], mean.name) == ("b", "mean")
    for before, after in zip(small_network.trunk, mean.trunk, strict=True):
        np.testing.assert_allclose(after.weights, -before.weights, atol=np.abs(before.weights).max() * 4 / 127)
        np.testing.assert_allclose(after.bias, before.bias + 1, atol=1e-6)
    wanted = small_network.heads["heatmap"].bias - 0.5
    np.testing.assert_allclose(mean.heads["heatmap"].bias, wanted, atol=1e-6)
    narrower = replace(small_network, heads={**small_network.heads, "heatmap": small_network.heads["short_offset"]})
    with pytest.raises(UserError, match="different layers"):
        weights_file.average([small_network, narrower])


@given(data=st.data())
def test_a_damaged_weights_file_is_refused_or_equal(tmp_path, small_network, data):
    """Cut, flipped or foreign bytes give a FormatError, or the same network if the bytes mean nothing."""
    path = tmp_path / "w.npz"
    weights_file.save(path, small_network, {})
    intact, whole = weights_file.load(path), bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        damaged = whole
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        loaded = weights_file.load(path)
    except FormatError as error:
        assert "\n" not in str(error) and "w.npz" in str(error)
    else:
        for before, after in zip(intact.layers(), loaded.layers(), strict=True):
            assert np.array_equal(before.weights, after.weights) and np.array_equal(before.bias, after.bias)
