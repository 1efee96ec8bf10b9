"""Lowering: our registers compared with nncase's, and every kind of layer with the integers that it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from common.arrays import Numbers, Picture
from common.errors import UserError
from model_build.channel_quantization import Choices, QuantizedLayer, QuantizedNetwork, quantize
from model_build.engines.kpu import KpuEngine
from model_build.float_forward import convolve
from model_build.kpu import kmodel_v3, kmodel_v5, layout, layout_search, overlap
from model_build.kpu.layer import Activation, BatchNorm, KpuLayer
from model_build.kpu.lower import check_dilation, diagonal, diagonal_arg_add, lower, norm_and_table, place
from model_build.kpu.registers import LayerRegisters
from model_build.network import HEADS, Conv, Kind, Network, head_channels
from tests.support import kpu_networks
from tests.support.layouts import piece_sources

SHAPE = {"widths": (8, 40, 320, 120), "strides": (2, 1, 1)}
"""So wide that weights are loaded in several parts, and that lines hold one, two and four channels."""


def test_registers_are_nncases():
    """Each of the 45 fields of every layer must equal nncase's at nncase's places.

    These are sizes, strides, loads, switches, and the arithmetic, since both have weights and camera bytes around 128
    and ReLU6's bytes from 0. nncase takes the largest weight of each output channel as its range, as we do. The bytes
    therefore show that weights are in nncase's order: rounded to nearest, they are nncase's or next to them.
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


def integers(layer: QuantizedLayer, bytes_in: Numbers) -> Numbers:
    """uint8 (H, W, C) → (H', W', C'): the quantized layer with its own stride by NumPy, without any register."""
    linear = Conv(
        layer.conv.name, layer.conv.kind, layer.weights.astype(np.float32), np.zeros(len(layer.offset), np.float32),
        layer.conv.stride, 1, "linear", layer.conv.groups,
    )  # fmt: skip
    acc = convolve(linear, bytes_in.astype(np.float32) - layer.input_zero_point).astype(np.int64)
    norm, table = norm_and_table(layer.factor, layer.offset)
    v, bits = ((acc * norm.mul) >> norm.shift) + norm.add, int(table.shift[1])
    return np.clip((v + (1 << (bits - 1))) >> bits, 0, 255).astype(np.uint8)


def heads_of(network: QuantizedNetwork, picture: Picture) -> dict[str, Numbers]:
    """The heads' bytes of a quantized network, computed layer by layer."""
    features = picture
    for layer in network.trunk:
        features = integers(layer, features)
    return {name: integers(network.heads[name], features) for name in HEADS}


@pytest.mark.parametrize(
    "parts",
    [
        [("conv", 3, 2), ("conv", 3, 1), ("conv", 3, 2)],  # Full 3×3 layers with strides.
        [("conv", 1, 2), ("conv", 1, 1)],  # A 1×1 layer with a stride.
        [("depthwise", 3, 2), ("conv", 1, 1), ("depthwise", 3, 1), ("conv", 1, 1)],  # As in MobileNet v1.
        [("depthwise", 3, 2), ("conv", 1, 2)],  # The 1×1 layer takes both strides.
        [
            ("depthwise", 3, 2),
            ("depthwise", 3, 1),
            ("conv", 1, 1),
        ],  # Without a 1×1 layer behind it the form is diagonal.
        [("depthwise", 3, 2), ("conv", 3, 2), ("depthwise", 3, 2)],  # The same, and directly before the heads.
    ],
    ids=lambda parts: ", ".join(f"{kind} {kernel}x{kernel} s{stride}" for kind, kernel, stride in parts),
)
def test_every_kind_of_layer_gives_the_quantized_bytes(parts):
    """Whatever takes over a stride, the heads' bytes must be those of the quantized layers computed one by one."""
    network = chain(*parts)
    width, height = 12 * network.output_stride, 5 * network.output_stride
    quantized = quantize(network, kpu_networks.pictures(2, width, height))
    for forms in (("plain",), layout_search.FORMS):
        model, plan = layout.lay_out(lower(quantized), width, height, forms)
        overlap.check(model, piece_sources(lower(quantized), plan))
        engine = KpuEngine(kmodel_v3.write(model))
        for picture in kpu_networks.pictures(2, width, height, seed=5):
            expected = heads_of(quantized, picture)
            found = dict(zip(HEADS, engine.run(kpu_networks.planes(picture)), strict=True))
            for name in HEADS:
                np.testing.assert_array_equal(found[name].transpose(1, 2, 0), expected[name])
                assert len(np.unique(found[name])) > 5


def bare(out_channels: int, in_channels: int, kernel: int = 3, **registers: int) -> KpuLayer:
    """A layer of which only shape and registers matter."""
    some = np.arange(out_channels, dtype=np.int64)
    weights = np.arange(out_channels * in_channels * kernel**2) % 251
    table = Activation(*np.zeros((4, 16), np.int64))
    counts = {"i_ch_num": in_channels - 1, "o_ch_num": out_channels - 1}
    regs = LayerRegisters(kernel_type=kernel // 3, **counts, **registers)
    shaped = weights.astype(np.uint8).reshape(out_channels, in_channels, kernel, kernel)
    return KpuLayer(regs, shaped, BatchNorm(some, some, some), table)


@pytest.mark.parametrize(
    ("channels", "loads", "a_load"),
    [
        ((34, 100), 1, 34),  # 34 · 900 = 30,600 of 30,720 bytes
        ((35, 100), 2, 34),
        ((68, 100), 2, 34),
        ((69, 100), 3, 34),
        ((2, 3413), 2, 1),  # One output channel fills all but three bytes.
    ],
)
def test_weights_are_loaded_in_as_many_parts_as_they_need(channels, loads, a_load):
    """A part has at most 30 KiB of whole output channels. Registers hold the numbers less one, and a part's bytes."""
    placed = place(bare(*channels), 5, 7, 12, 20, 5).registers
    assert (placed.load_time, placed.o_ch_num_coef) == (loads - 1, a_load - 1)
    assert placed.para_size == a_load * channels[1] * 9
    assert (placed.i_ch_num, placed.o_ch_num) == (channels[1] - 1, channels[0] - 1)


def test_place_sets_sizes_lines_and_counts():
    """A map 40 wide has a row a line, one 20 wide two channels a line; 5 of 13 rows and 20 of 40 columns remain."""
    placed = place(bare(6, 3), 5, 7, 11, 40, 5).registers
    assert (placed.image_src_addr, placed.image_dst_addr, placed.pool_type) == (5, 7, 5)
    assert (placed.i_row_wid, placed.i_col_high, placed.o_row_wid, placed.o_col_high) == (39, 10, 19, 4)
    assert (placed.channel_switch_addr, placed.row_switch_addr, placed.coef_group) == (11, 1, 1)
    assert (placed.wb_channel_switch_addr, placed.wb_row_switch_addr, placed.wb_group) == (5, 1, 2)
    assert (placed.channel_byte_num, placed.dma_total_byte) == (99, 599)
    # A depthwise layer loads all kernels at once and has as many inputs as outputs. A row 130 wide takes 3 lines.
    placed = place(bare(4000, 1, depth_wise_layer=1), 0, 0, 2, 130, 0).registers
    assert (placed.load_time, placed.o_ch_num_coef, placed.para_size) == (0, 3999, 36000)
    assert (placed.i_ch_num, placed.o_ch_num) == (3999, 3999)
    assert (placed.channel_switch_addr, placed.row_switch_addr) == (6, 3)


def test_the_batch_norm_is_rounded_to_nearest():
    """Factor 1/2 keeps all 20 fraction bits: 2^19, shifted by 3 more to fill 23 bits. 0.75/2^20 becomes 1 and not 0."""
    tiny = 2.0**-20
    norm, table = norm_and_table(np.array([0.5, 0.5 + 0.1 * tiny]), np.array([0.75 * tiny, -1 - 1.75 * tiny]))
    assert norm.mul.tolist() == [1 << 22, (1 << 22) + 1] and norm.shift.tolist() == [3, 3]
    assert norm.add.tolist() == [1, -(1 << 20) - 2]
    assert (table.x_start[:3].tolist(), table.mul[:3].tolist()) == ([-(1 << 35), 0, 256 << 20], [0, 1, 0])
    assert (table.shift[1], table.bias[:3].tolist()) == (20, [0, 0, 255])


@pytest.mark.parametrize(
    ("factor", "offset", "bits"),
    [
        (7.9, 0.0, 20),  # 7.9 · 2^20 is within 2^23 − 1.
        (8.0, 0.0, 19),  # 8 · 2^20 is not.
        (0.5, 1023.0, 20),
        (0.5, 1024.0, 19),  # 1024 · 2^20 is 2^30.
        (0.5, -1024.0, 19),
        (2.0**30, 0.0, 4),  # There are never fewer than 4.
    ],
)
def test_fraction_bits_are_as_many_as_the_registers_hold(factor, offset, bits):
    """One bit too many would overflow a register, and one too few would lose precision."""
    _, table = norm_and_table(np.array([factor]), np.array([offset]))
    assert table.shift[1] == bits


def test_a_depthwise_layer_has_a_diagonal_form_only_where_the_sum_stays_the_same():
    """Off the diagonal every weight is the zero point 128, so acc = Σ x·w − 128·Σx does not change.

    arg_w · 9 · 128 for each further channel, and arg_add once for each of them, must add up to the same.
    """
    layer = bare(3, 1, depth_wise_layer=1, arg_x=-128, arg_w=-5, arg_add=128 * 5 * 9)
    assert diagonal_arg_add(layer) == 128 * 5 * 9 == diagonal_arg_add(layer, 2)
    full = diagonal(layer, 1, 3)
    assert full.weights.shape == (2, 2, 3, 3) and not full.depthwise and full.registers.arg_add == 128 * 5 * 9
    np.testing.assert_array_equal(full.weights[[0, 1], [0, 1]], layer.weights[1:, 0])
    assert (full.weights[[0, 1], [1, 0]] == 128).all() and full.batch_norm.mul.tolist() == [1, 2]
    for change in ({"arg_add": 1}, {"arg_x": 1}, {"arg_x": -256}, {"shr_x": 1}, {"shr_w": 1}, {"depth_wise_layer": 0}):
        assert diagonal_arg_add(layer.with_registers(**change)) is None, change
    assert diagonal_arg_add(layer.with_registers(shr_w=1, arg_w=0, arg_add=6)) == 2, "nothing is shifted"
    assert diagonal_arg_add(layer.with_registers(arg_x=-255, arg_w=0, arg_add=6)) == 2
    for most in (-(1 << 39), (1 << 39) - 1, 1 << 39, -(1 << 39) - 1):  # The register has 40 bits and a sign.
        fits = -(1 << 39) <= most < 1 << 39
        assert diagonal_arg_add(layer.with_registers(arg_w=0, arg_add=3 * most)) == (most if fits else None)
    with pytest.raises(UserError, match="a band of 2 channels has no exact diagonal form"):
        diagonal(layer.with_registers(arg_add=1), 0, 2)


def test_dilation_is_refused_by_name():
    """The KPU can read only adjacent pixels."""
    network = chain(("conv", 3, 1))
    last = network.trunk[-1]
    dilated = Conv(last.name, last.kind, last.weights, last.bias, 1, 2)
    with pytest.raises(UserError, match="0 conv of chain is dilated by 2"):
        check_dilation(Network("chain", (network.trunk[0], dilated), network.heads, 2, ("a", "b", "c"), ((0, 1),)))
