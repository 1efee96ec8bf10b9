"""Lowering: our registers against nncase's, and every kind of layer against the integers that it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from model_build.channel_quantization import Choices, QuantizedLayer, QuantizedNetwork, quantize
from model_build.engines.kpu import KpuEngine
from model_build.float_forward import convolve
from model_build.kpu import kmodel_v3, kmodel_v5, layout, layout_search, overlap
from model_build.kpu.lower import check_dilation, lower, norm_and_table, place
from model_build.network import HEADS, Conv, Kind, Network, head_channels
from tests.support import kpu_networks

SHAPE = {"widths": (8, 40, 320, 120), "strides": (2, 1, 1)}
"""Wide enough that weights are loaded in several goes, and that lines hold one, two and four channels."""


def test_registers_are_nncases():
    """Each of the 45 fields of every layer equals nncase's at nncase's places: sizes, strides, loads, switches, and
    the arithmetic, since both have weights around 128, camera bytes around 128 and ReLU6's from 0.

    nncase's ranges of weights are each output channel's largest, as ours, so the bytes themselves show that weights
    stand in nncase's order: rounded to nearest, they are nncase's or next to them.
    """
    network = kpu_networks.random_network(0, **SHAPE)
    theirs = kmodel_v5.read(kpu_networks.nncase_v5(144, 112, **SHAPE))
    one_range = Choices(compensated_rounding=False, per_channel_activations=False)
    ours = lower(quantize(network, kpu_networks.pictures(2, 144, 112), one_range))
    assert ours.sources == theirs.sources
    assert [output.layer for output in ours.outputs] == [output.layer for output in theirs.outputs]
    for made, layer in zip(ours.layers, theirs.layers, strict=True):
        where = (layer.source_line, layer.target_line, layer.in_height, layer.in_width, made.pool_type)
        assert place(made, *where).registers == layer.registers, made.name
        assert np.abs(made.weights.astype(int) - layer.weights).max() <= 1, made.name
    assert max(layer.registers.load_time for layer in theirs.layers) > 0


def conv(rng: np.random.Generator, name: str, kind: Kind, kernel: int, inputs: int, outputs: int, stride: int) -> Conv:
    shape = (kernel, kernel, inputs, 1 if kind == "depthwise" else outputs)
    weights = rng.normal(0, 1.5 / np.sqrt(kernel**2 * (1 if kind == "depthwise" else inputs)), shape)
    bias = rng.normal(0, 0.3, outputs)
    return Conv(name, kind, weights.astype(np.float32), bias.astype(np.float32), stride)


def chain(*parts: tuple[Kind, int, int], seed: int = 0) -> Network:
    """A stem with stride 2, then layers of (kind, kernel, stride), then heads."""
    rng = np.random.default_rng(seed)
    trunk, channels, stride = [conv(rng, "stem", "conv", 3, 3, 6, 2)], 6, 2
    for index, (kind, kernel, layer_stride) in enumerate(parts):
        outputs = channels if kind == "depthwise" else channels + 3
        trunk.append(conv(rng, f"{index} {kind}", kind, kernel, channels, outputs, layer_stride))
        channels, stride = outputs, stride * layer_stride
    heads = {}
    for name, count in head_channels(3, 2).items():
        head = conv(rng, name, "conv", 1, channels, count, 1)
        heads[name] = Conv(name, "conv", head.weights, head.bias, 1, 1, "linear")
    return Network("chain", tuple(trunk), heads, stride, ("a", "b", "c"), ((0, 1), (1, 2)))


def integers(layer: QuantizedLayer, bytes_in: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) → (H', W', C'): the quantized layer with its own stride, by NumPy, without any register."""
    linear = Conv(
        layer.conv.name, layer.conv.kind, layer.weights.astype(np.float32), np.zeros(len(layer.offset), np.float32),
        layer.conv.stride, 1, "linear",
    )  # fmt: skip
    acc = convolve(linear, bytes_in.astype(np.float32) - layer.input_zero_point).astype(np.int64)
    norm, table = norm_and_table(layer.factor, layer.offset)
    v, bits = ((acc * norm.mul) >> norm.shift) + norm.add, int(table.shift[1])
    return np.clip((v + (1 << (bits - 1))) >> bits, 0, 255).astype(np.uint8)


def heads_of(network: QuantizedNetwork, picture: np.ndarray) -> dict[str, np.ndarray]:
    features = picture
    for layer in network.trunk:
        features = integers(layer, features)
    return {name: integers(network.heads[name], features) for name in HEADS}


@pytest.mark.parametrize(
    "parts",
    [
        [("conv", 3, 2), ("conv", 3, 1), ("conv", 3, 2)],  # full 3×3 with a stride anywhere
        [("conv", 1, 2), ("conv", 1, 1)],  # 1×1 with a stride
        [("depthwise", 3, 2), ("conv", 1, 1), ("depthwise", 3, 1), ("conv", 1, 1)],  # MobileNet v1
        [("depthwise", 3, 2), ("conv", 1, 2)],  # the 1×1 layer takes both strides
        [("depthwise", 3, 2), ("depthwise", 3, 1), ("conv", 1, 1)],  # no 1×1 layer behind: diagonal
        [("depthwise", 3, 2), ("conv", 3, 2), ("depthwise", 3, 2)],  # as before, and before the heads
    ],
    ids=lambda parts: ", ".join(f"{kind} {kernel}x{kernel} s{stride}" for kind, kernel, stride in parts),
)
def test_every_kind_of_layer(parts):
    """Whatever takes over a stride, the heads' bytes are those of the quantized layers computed one after another."""
    network = chain(*parts)
    width, height = 12 * network.output_stride, 5 * network.output_stride
    quantized = quantize(network, kpu_networks.pictures(2, width, height))
    for forms in (("plain",), layout_search.FORMS):
        model, plan = layout.lay_out(lower(quantized), width, height, forms)
        overlap.check(model, layout.piece_sources(lower(quantized), plan))
        engine = KpuEngine(kmodel_v3.write(model))
        for picture in kpu_networks.pictures(2, width, height, seed=5):
            expected = heads_of(quantized, picture)
            found = dict(zip(HEADS, engine.run(kpu_networks.planes(picture)), strict=True))
            for name in HEADS:
                np.testing.assert_array_equal(found[name].transpose(1, 2, 0), expected[name])
                assert len(np.unique(found[name])) > 5


def test_dilation_is_refused_by_name():
    """The KPU reads adjacent pixels only."""
    network = chain(("conv", 3, 1))
    last = network.trunk[-1]
    dilated = Conv(last.name, last.kind, last.weights, last.bias, 1, 2)
    with pytest.raises(UserError, match="0 conv of chain is dilated by 2"):
        check_dilation(Network("chain", (network.trunk[0], dilated), network.heads, 2, ("a", "b", "c"), ((0, 1),)))
