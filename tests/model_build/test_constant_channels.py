"""Channels that are left out: which ones may go, and that the float network's results stay the same to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Numbers, Picture
from model_build import network as network_form
from model_build.constant_channels import constant_channels, fold
from model_build.float_forward import forward
from model_build.importers import load
from model_build.network import HEADS, Conv, Network, head_channels

ARMS = (("a", "b", "c"), ((0, 1), (1, 2)))


def conv(name: str, weights: Numbers, bias: list[float], activation: str = "relu6", kind: str = "conv") -> Conv:
    return Conv(name, kind, weights.astype(np.float32), np.array(bias, np.float32), 1, 1, activation)  # type: ignore[arg-type]


def heads(rng: np.random.Generator, channels: int) -> dict[str, Conv]:
    return {
        name: conv(name, rng.integers(-4, 5, (1, 1, channels, count)) / 4, [0.5] * count, "linear")
        for name, count in head_channels(3, 2).items()
    }


def pictures(rng: np.random.Generator) -> list[Numbers]:
    """Noise, black and white."""
    noise = rng.integers(0, 256, (6, 8, 3))
    return [np.full((6, 8, 3), 0, np.uint8), np.full((6, 8, 3), 255, np.uint8), noise.astype(np.uint8)]


def assert_same(network: Network, folded: Network, shown: list[Picture]) -> None:
    network_form.check(folded)
    for picture in shown:
        expected, found = forward(network, picture), forward(folded, picture)
        for name in HEADS:
            np.testing.assert_array_equal(found[name], expected[name])


def test_constant_and_unread_channels_go():
    """The channels are of five kinds: changing, always below 0, always 2, always 6, and one that no layer reads."""
    rng = np.random.default_rng(1)
    stem = np.zeros((1, 1, 3, 5))
    stem[0, 0, :, 0], stem[0, 0, :, 1], stem[0, 0, :, 3], stem[0, 0, :, 4] = 0.5, 0.25, 0.5, 1
    bias = [0.0, -1.0, 2.0, 8.0, 0.0]
    reader = rng.integers(1, 5, (1, 1, 5, 2)) / 4
    reader[:, :, 4] = 0
    by_1x1 = Network("n", (conv("stem", stem, bias), conv("pw", reader, [0.0, -6.0])), heads(rng, 2), 1, *ARMS)
    np.testing.assert_array_equal(constant_channels(by_1x1)[0], [np.nan, 0, 2, 6, np.nan])
    folded = fold(by_1x1)
    assert folded.trunk[0].out_channels == 1 and folded.trunk[0].weights[0, 0, 0, 0] == 0.5
    assert_same(by_1x1, folded, pictures(rng))
    # A 3×3 layer sees zeros beyond the border, so a channel of 2 or 6 is not constant for it.
    wide = np.tile(reader, (3, 3, 1, 1)) / 8
    by_3x3 = replace(by_1x1, trunk=(by_1x1.trunk[0], conv("full", wide, [0.0, 0.0])))
    assert fold(by_3x3).trunk[0].bias.tolist() == [0.0, 2.0, 8.0]
    assert_same(by_3x3, fold(by_3x3), pictures(rng))


def test_a_depthwise_layer_goes_with_its_inputs():
    """Both kinds of constant depthwise channels must be left out.

    Behind a channel that is always 0, a depthwise channel is always its bias. Behind a channel that changes, its
    weights may be 0.
    """
    rng = np.random.default_rng(2)
    stem = np.full((1, 1, 3, 3), 0.5)
    depthwise = np.full((3, 3, 3, 1), 0.25)
    layers = (
        conv("stem", stem, [0.0, -2.0, 0.0]),
        conv("dw", depthwise, [0.0, 1.5, -60.0], kind="depthwise"),
        conv("pw", rng.integers(1, 5, (1, 1, 3, 2)) / 4, [0.25, -1.0]),
    )
    network = Network("n", layers, heads(rng, 2), 1, *ARMS)
    folded = fold(network)
    assert [layer.out_channels for layer in folded.trunk] == [1, 1, 2]
    assert_same(network, folded, pictures(rng))


def test_one_channel_stays():
    """A layer cannot be without channels, so even a trunk that says nothing keeps one."""
    rng = np.random.default_rng(3)
    network = Network("n", (conv("stem", np.zeros((1, 1, 3, 4)), [-1.0] * 4),), heads(rng, 4), 1, *ARMS)
    assert fold(network).trunk[0].out_channels == 1
    assert_same(network, fold(network), pictures(rng))


@given(st.integers(0, 2**32 - 1))
def test_folding_changes_no_result(seed):
    """Random networks have weights in quarters, whose float sums are exact, and biases that clamp."""
    rng = np.random.default_rng(seed)
    trunk, channels = [], 3
    for index in range(int(rng.integers(1, 5))):
        depthwise = index > 0 and rng.random() < 0.5
        kernel = 3 if depthwise or rng.random() < 0.5 else 1
        outputs = channels if depthwise else int(rng.integers(1, 6))
        weights = rng.integers(-2, 3, (kernel, kernel, channels, 1 if depthwise else outputs)) / 4
        weights *= rng.random((1, 1, channels, 1 if depthwise else outputs)) < 0.6
        bias = rng.choice([-20.0, -0.5, 0.0, 0.5, 2.0, 20.0], outputs)
        trunk.append(conv(f"layer {index}", weights, list(bias), kind="depthwise" if depthwise else "conv"))
        channels = outputs
    network = Network("random", tuple(trunk), heads(rng, channels), 1, *ARMS)
    folded = fold(network)
    assert_same(network, folded, pictures(rng))
    for layer, less in zip(network.trunk, folded.trunk, strict=True):
        assert less.out_channels <= layer.out_channels and less.stride == layer.stride


@pytest.mark.weights
def test_tfjs_posenet_loses_half_of_its_first_channels(weights_dir: Path) -> None:
    """They change nothing in tfjs's 0.75. Heads may differ only by the rounding of floats."""
    network = load(weights_dir / "tfjs_mobilenet_v1_075" / "manifest.json")
    folded = fold(network)
    assert [layer.out_channels for layer in folded.trunk[:2]] == [12, 12]
    assert folded.parameters() < network.parameters()
    picture = np.random.default_rng(4).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    expected, found = forward(network, picture), forward(folded, picture)
    for name in HEADS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-3)
