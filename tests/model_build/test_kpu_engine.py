"""The integer KPU engine compared with nncase's own simulator and with the formula written out."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.straight_kmodel import from_program
from common.arrays import Numbers
from common.errors import UserError
from model_build.engines.kpu import KpuEngine
from model_build.engines.kpu_float import FloatLayer, fit_float32
from model_build.engines.kpu_layer import PreparedLayer, execute_layer
from model_build.engines.kpu_plan import Channels, _as_depthwise, _joined, plan, trace_inputs
from model_build.engines.staircase import _line_between, _lowest_v, _steps_in_g, _steps_in_v, activate
from model_build.kpu import kmodel_v3, kmodel_v5, layout, ram, registers
from model_build.kpu.layer import Activation, BatchNorm, KpuLayer
from model_build.kpu.lower import diagonal
from tests.support import kpu_networks


@pytest.mark.parametrize(("width", "height"), [(64, 48), (24, 40), (132, 36)])
def test_every_byte_equals_nncase(width, height):
    """Our V3 file in our engine must equal nncase's V5 in its simulator, byte for byte.

    The sizes have all row layouts of KPU RAM: four, two or one channel a line, and one or three lines a row.
    """
    v5 = kpu_networks.nncase_v5(width, height)
    engine = KpuEngine(kmodel_v3.write(from_program(kmodel_v5.read(v5))))
    for picture in kpu_networks.pictures(3, width, height, seed=9):
        expected = kpu_networks.nncase_bytes(v5, picture)
        found = engine.run(kpu_networks.planes(picture))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert len(np.unique(ours)) > 5


def _carry_shift(value: int, shift: int) -> int:
    """nncase 1.9's rounding, in Python's integers."""
    if shift == 0:
        return value
    whole, fraction, half = value >> shift, value & ((1 << shift) - 1), 1 << (shift - 1)
    sign = -1 if value < 0 else 1
    if fraction > half or (fraction == half and whole & 1):
        return whole + sign
    return whole


def _reference(layer: KpuLayer, x: Numbers) -> Numbers:
    """The layer by the formula, pixel by pixel in Python's integers, before pooling."""
    regs, kernel = layer.registers, layer.kernel_size
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=regs.pad_value)
    out = np.zeros((layer.out_channels, *x.shape[1:]), np.uint8)
    for o, row, column in itertools.product(*map(range, out.shape)):
        window = padded[:, row : row + kernel, column : column + kernel].astype(object)
        if layer.depthwise:
            window = window[o : o + 1]
        weights = layer.weights[o].astype(object)
        acc = (window * weights).sum()
        acc += (regs.arg_x * window.sum()) >> regs.shr_x
        acc += (regs.arg_w * weights.sum()) >> regs.shr_w
        acc += regs.arg_add * len(window)
        norm, table = layer.batch_norm, layer.activation
        v = ((acc * int(norm.mul[o])) >> int(norm.shift[o])) + int(norm.add[o])
        segment = max([i for i in range(16) if v > int(table.x_start[i])], default=0)
        y = _carry_shift((v - int(table.x_start[segment])) * int(table.mul[segment]), int(table.shift[segment]))
        out[o, row, column] = min(max(y + int(table.bias[segment]), 0), 255)
    return out


def _random_layer(rng: np.random.Generator, *, depthwise, kernel, pool=0, shr_x=0, rising=True, diagonal=False):
    c_in = int(rng.integers(1, 6))
    c_out = c_in if depthwise or diagonal else int(rng.integers(1, 6))
    height, width = (int(v) * 4 for v in rng.integers(1, 4, 2))
    divisor = {0: 1, 5: 2, 6: 2, 1: 2, 2: 2, 3: 4, 4: 4, 7: 4, 8: 1, 9: 1}[pool]
    zero = int(rng.integers(1, 255))
    weights = rng.integers(0, 256, (c_out, 1 if depthwise else c_in, kernel, kernel)).astype(np.uint8)
    if diagonal:
        off = ~np.eye(c_in, dtype=bool)
        weights[off] = zero
    fan_in = kernel * kernel * (1 if depthwise else c_in)
    mul = rng.integers(1 << 20, 1 << 23, c_out) * (1 if rising else rng.choice([-1, 1], c_out))
    shift = rng.integers(4, 12, c_out)
    spread = int(fan_in * 40 * 255 * (1 << 21) >> 8)
    starts = np.sort(rng.integers(-spread, spread, 15))
    act_mul = rng.integers(0, 20000, 16) if rising else rng.integers(-20000, 20000, 16)
    table = Activation(
        np.concatenate([[-(1 << 35)], starts]),
        act_mul,
        rng.integers(25, 38, 16),
        np.sort(rng.integers(0, 256, 16)) if rising else rng.integers(0, 256, 16),
    )
    regs = registers.LayerRegisters(
        depth_wise_layer=int(depthwise),
        image_dst_addr=2000,
        i_ch_num=c_in - 1,
        o_ch_num=c_out - 1,
        i_row_wid=width - 1,
        i_col_high=height - 1,
        o_row_wid=width // divisor - 1,
        o_col_high=height // divisor - 1,
        kernel_type=kernel // 3,
        pool_type=pool,
        pad_value=int(rng.integers(0, 256)),
        arg_x=-zero,
        shr_x=shr_x,
        arg_w=-int(rng.integers(0, 255)),
        shr_w=int(rng.integers(0, 3)),
        arg_add=int(rng.integers(-(1 << 16), 1 << 16)),
        send_data_out=1,
    )
    norm = BatchNorm(mul, shift, rng.integers(-(1 << 28), 1 << 28, c_out))
    return KpuLayer(regs, weights, norm, table)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans(), st.booleans(), st.sampled_from([0, 2]))
def test_any_layer_equals_the_formula(seed, kernel, depthwise, rising, shr_x):
    """Random registers, weights and tables reach all fast paths, which must give what the formula gives."""
    rng = np.random.default_rng(seed)
    layer = _random_layer(rng, depthwise=depthwise, kernel=kernel, rising=rising, shr_x=shr_x)
    x = rng.integers(0, 256, (layer.in_channels, layer.in_height, layer.in_width)).astype(np.uint8)
    np.testing.assert_array_equal(PreparedLayer(layer).run(x), _reference(layer, x))


def _one_tap_layer(table: Activation) -> KpuLayer:
    """A 1x1 layer of one channel, 16x16, whose table gets v = x − 128."""
    regs = registers.LayerRegisters(i_row_wid=15, i_col_high=15, o_row_wid=15, o_col_high=15, arg_add=-128)
    one = np.array([1], np.int64)
    return KpuLayer(regs, np.ones((1, 1, 1, 1), np.uint8), BatchNorm(one, 0 * one, 0 * one), table)


def _all_bytes() -> Numbers:
    """A map that contains every byte once."""
    return np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


@pytest.mark.parametrize("first_start", [-100, 0, 50, 1000])
@pytest.mark.parametrize("first_bias", [0, 1, 100])
def test_values_below_the_first_segment_are_right(first_start, first_bias):
    """A table need not begin at −2^35. Below its first start the products are negative.

    There nncase's rounding goes down and up again. Treating such a table as a rising one was off by one.
    """
    starts = np.array([first_start, *range(first_start + 1, first_start + 16)], np.int64)
    table = Activation(starts, np.full(16, 7), np.full(16, 4), np.full(16, first_bias))
    layer = _one_tap_layer(table)
    np.testing.assert_array_equal(PreparedLayer(layer).run(_all_bytes()), _reference(layer, _all_bytes()))


@given(st.lists(st.integers(-140, 140), min_size=16, max_size=16), st.integers(0, 2**32 - 1))
def test_the_last_segment_below_a_value_counts(starts, seed):
    """The KPU takes the last segment whose start lies below the value, even if the starts do not rise."""
    rng = np.random.default_rng(seed)
    table = Activation(
        np.array(starts, np.int64), rng.integers(-50, 50, 16), rng.integers(0, 9, 16), rng.integers(0, 256, 16)
    )
    layer = _one_tap_layer(table)
    np.testing.assert_array_equal(PreparedLayer(layer).run(_all_bytes()), _reference(layer, _all_bytes()))


def _pooled(full: Numbers, pool: int) -> Numbers:
    """Pooling pixel by pixel, as nncase's kernel does it."""
    size, stride = {1: (2, 2), 2: (2, 2), 3: (4, 4), 4: (4, 4), 8: (2, 1), 9: (2, 1)}.get(pool, (1, 1))
    pick = {5: (2, 0, 0), 6: (2, 0, 1), 7: (4, 0, 0)}
    channels, height, width = full.shape
    if pool in pick:
        stride, dy, dx = pick[pool]
        return full[:, dy::stride, dx::stride]
    out = np.zeros((channels, height // stride, width // stride), np.uint8)
    for c, row, column in itertools.product(*map(range, out.shape)):
        taps = []
        for dy, dx in itertools.product(range(size), repeat=2):
            y, x = row * stride + dy, column * stride + dx
            if pool in (1, 3, 9):
                if y < height and x < width:
                    taps.append(int(full[c, y, x]))
            else:
                taps.append(int(full[c, min(y, height - 1), min(x, width - 1)]))
        out[c, row, column] = max(taps) if pool in (1, 3, 9) else sum(taps) // (size * size)
    return out


@pytest.mark.parametrize("pool", range(10))
@pytest.mark.parametrize("kind", ["pointwise", "full", "depthwise", "diagonal"])
def test_pooling_equals_nncases(pool, kind):
    """Pools that pick a pixel are computed only there, the others afterwards, and both as if all were computed.

    A full convolution with diagonal weights takes the depthwise path without changing a byte.
    """
    rng = np.random.default_rng(pool)
    layer = _random_layer(
        rng,
        depthwise=kind == "depthwise",
        kernel=1 if kind == "pointwise" else 3,
        pool=pool,
        diagonal=kind == "diagonal",
    )
    prepared = PreparedLayer(layer)
    assert prepared.per_channel == (kind in ("depthwise", "diagonal") or layer.in_channels == layer.out_channels == 1)
    x = rng.integers(0, 256, (layer.in_channels, layer.in_height, layer.in_width)).astype(np.uint8)
    np.testing.assert_array_equal(prepared.run(x), _pooled(_reference(layer, x), pool))


def test_the_fast_line_is_used_and_proven():
    """With the tables of builds nearly every channel must take the fast path, or speed would be an accident."""
    total = exact = 0
    for layer in kpu_networks.lowered().layers:
        line = PreparedLayer(layer).line
        assert line is not None
        total += layer.out_channels
        exact += len(line.exact)
    assert exact <= total // 4


def test_ties_and_shifts_of_the_activation_are_nncases():
    """As in nncase 1.9, exact halves go to even, shift 0 changes nothing, and large shifts do not overflow."""
    for shift in (0, 1, 5, 33, 43):
        table = Activation(
            np.array([-(1 << 35)] * 16), np.full(16, 3), np.full(16, shift), np.arange(16, dtype=np.int64)
        )
        v = np.array([-(1 << 35), -(1 << 35) + 1, -5, 0, 7, (1 << 35) - 1], np.int64)
        expected = [
            min(max(_carry_shift((int(x) + (1 << 35)) * 3, shift) + (15 if x > -(1 << 35) else 0), 0), 255) for x in v
        ]
        assert activate(v, table).tolist() == expected


def test_ties_go_to_the_even_number():
    """Halves and quarters by hand, none of them saturated: 1/2 → 0, 3/2 → 2, 5/2 → 2.

    Negative values go one down where nncase's carry_shift rounds up. −1/2 is −1 and a half, which is odd, so it becomes
    −2. −3/2 is −2 and a half, which is even, so it becomes −2.
    """
    start = np.array([-100] * 16)
    for shift, products, wanted in (
        (1, range(1, 10), [0, 1, 2, 2, 2, 3, 4, 4, 4]),
        (2, range(1, 13), [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]),
    ):
        table = Activation(start, np.full(16, 1), np.full(16, shift), np.full(16, 50))
        assert activate(np.array(products) - 100, table).tolist() == [50 + one for one in wanted]
    table = Activation(start, np.full(16, 1), np.full(16, 1), np.full(16, 50))
    assert activate(np.array([-101, -102, -103, -104, -105]), table).tolist() == [48, 49, 48, 48, 46]
    table = Activation(start, np.full(16, 1), np.full(16, 2), np.full(16, 50))
    assert activate(np.array([-101, -102, -103]), table).tolist() == [48, 48, 49]


def test_execute_layer_touches_only_its_output():
    """The emulator shares KPU RAM with the engine, so bytes outside the output's pixels must stay as they were."""
    rng = np.random.default_rng(3)
    layer = _random_layer(rng, depthwise=False, kernel=3)
    memory = rng.integers(0, 256, ram.RAM_BYTES).astype(np.uint8)
    before = memory.copy()
    out = execute_layer(layer, memory)
    assert out is not None
    place = (layer.target_line, *out.shape)
    np.testing.assert_array_equal(ram.read(memory, *place), out)
    ram.write(before, layer.target_line, out)
    np.testing.assert_array_equal(memory, before)


def test_a_picture_of_another_size_is_refused():
    """This is the most common mistake."""
    engine = KpuEngine(layout.lay_out(kpu_networks.lowered(), 64, 48)[0])
    with pytest.raises(UserError, match=r"\(3, 48, 64\), got uint8 \(3, 64, 48\)"):
        engine.run(np.zeros((3, 64, 48), np.uint8))


def test_unsimulated_modes_are_refused():
    """Registers that no converter sets are refused and not run as something else."""
    rng = np.random.default_rng(0)
    layer = _random_layer(rng, depthwise=False, kernel=1)
    odd = dataclasses.replace(layer, registers=dataclasses.replace(layer.registers, bypass_conv=1))
    with pytest.raises(UserError, match="bypass_conv"):
        PreparedLayer(odd)


@pytest.mark.parametrize("width", [4, 16, 17, 32, 33, 64, 65, 100])
def test_maps_lie_in_ram_by_the_kpus_rule(width):
    """Channel c, row y of a map must lie where the KPU's rule puts it, for every layout."""
    channels, height = 7, 5
    x = np.random.default_rng(width).integers(0, 256, (channels, height, width)).astype(np.uint8)
    memory = np.zeros(64 * 4096, np.uint8)
    ram.write(memory, 3, x)
    groups, pitch = (4, 16) if width <= 16 else (2, 32) if width <= 32 else (1, 64)
    row_lines = -(-width // 64)
    for c, y in itertools.product(range(channels), range(height)):
        start = 64 * (3 + (c // groups) * row_lines * height + y * row_lines) + (c % groups) * pitch
        np.testing.assert_array_equal(memory[start : start + width], x[c, y])
    assert ram.lines(channels, height, width) == -(-channels // groups) * row_lines * height
    np.testing.assert_array_equal(ram.read(memory, 3, channels, height, width), x)


@pytest.mark.weights
@pytest.mark.slow
def test_posenet_equals_nncase(weights_dir, photos_dir):
    """PoseNet 0.75 itself with ten photos and random bytes: our V3 must equal nncase's V5 in every output byte.

    This holds for nncase's layout of the memory as well as for our own.
    """
    from model_build import calibration, importers, nncase_witness, tflite_writer

    network = importers.load(weights_dir / "coral" / "posenet_mobilenet_v1_075_353_481_quant.tflite")
    pictures = calibration.from_folder(photos_dir)
    width, height = 128, 96
    pytest.importorskip("nncase")
    tflite = tflite_writer.write(network, width, height)
    v5 = nncase_witness.compile_tflite(tflite, pictures.at(width, height))
    program = kmodel_v5.read(v5)
    straight = KpuEngine(kmodel_v3.write(from_program(program)))
    laid_out = KpuEngine(kmodel_v3.write(layout.lay_out(program, width, height)[0]))
    rng = np.random.default_rng(1)
    samples = [*pictures.at(width, height)[:10], rng.integers(0, 256, (height, width, 3)).astype(np.uint8)]
    assert len(samples) == 11
    for sample in samples:
        expected = kpu_networks.nncase_bytes(v5, sample)
        assert [len(head) for head in expected] == [17, 34, 32, 32]
        for engine in (straight, laid_out):
            for ours, theirs in zip(engine.run(kpu_networks.planes(sample)), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def _all_ways(model, picture):
    """The engine's outputs by float layers, by NumPy, and through KPU RAM."""
    floats, arrays, memory = KpuEngine(model), KpuEngine(model), KpuEngine(model)
    assert floats._steps is not None and floats._float_layers is not None
    arrays._float_layers = None
    memory._steps, memory._kpu_ram = None, np.zeros(ram.RAM_BYTES, np.uint8)
    return floats.run(picture), arrays.run(picture), memory.run(picture)


@pytest.mark.parametrize("forms", [("plain",), ("sliding", "plain"), ("plain", "diagonal")])
def test_all_ways_agree(forms):
    """Float layers, arrays, joined groups and computing only the quarter that is read must change no byte.

    They are compared with the way through KPU RAM, for several layouts.
    """
    from model_build.kpu import layout

    program = kpu_networks.lowered(widths=(8, 12, 20, 20), strides=(2, 1))
    model = layout.lay_out(program, 72, 56, forms)[0]
    picture = kpu_networks.planes(kpu_networks.pictures(1, 72, 56, seed=3)[0])
    for floats, arrays, memory in zip(*_all_ways(model, picture), strict=True):
        np.testing.assert_array_equal(floats, memory)
        np.testing.assert_array_equal(arrays, memory)
    steps = KpuEngine(model)._steps
    assert steps is not None
    assert [step.layer for step in steps if step.layer.depthwise and step.layer.pool_type]
    # So small a network has no diagonal layers, because their fixed cost is too high.
    assert len(steps) == len(program.layers)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3]),
    st.sampled_from(["full", "depthwise", "diagonal"]),
    st.sampled_from([0, 5, 7]),
)
def test_any_float_layer_equals_the_formula(seed, kernel, kind, pool):
    """Whatever has a float form must give the formula's bytes in it.

    Registers, weights and rising tables are random, and some tables are bent or have factors of 0 and below.
    """
    rng = np.random.default_rng(seed)
    layer = _random_layer(
        rng, depthwise=kind == "depthwise", kernel=kernel, pool=pool, diagonal=kind == "diagonal" and kernel == 3
    )
    norm = layer.batch_norm
    mul = norm.mul * rng.choice([0, -1, 1, 1, 1], layer.out_channels)
    layer = dataclasses.replace(layer, batch_norm=BatchNorm(mul, norm.shift, norm.add))
    fast = FloatLayer.of(PreparedLayer(layer), 1)
    if fast is None:
        assert PreparedLayer(layer).stairs is None
        return
    x = rng.integers(0, 256, (layer.in_channels, layer.in_height, layer.in_width)).astype(np.uint8)
    expected = _pooled(_reference(layer, x), pool)
    np.testing.assert_array_equal(fast.run(x.transpose(1, 2, 0).astype(np.float32)).transpose(2, 0, 1), expected)


def test_a_float_fit_holds_everywhere():
    """Agreement on both sides of each step means agreement everywhere. This checks every g that a channel can reach."""
    program = kpu_networks.lowered()
    proven = 0
    for layer in program.layers:
        stairs = PreparedLayer(layer).stairs
        assert stairs is not None
        fit = fit_float32(stairs)
        for channel in np.flatnonzero(fit.exact):
            g = np.arange(-stairs.reach[channel], stairs.reach[channel] + 1)
            value = (g - fit.origin[channel]).astype(np.float32) * fit.scale[channel] + fit.offset[channel]
            output = np.clip(np.rint(value) + 128, 0, 255)
            np.testing.assert_array_equal(output, np.searchsorted(stairs.steps[channel], g, side="right"))
            proven += 1
    assert proven > 40


def test_float_layers_carry_most_of_the_work():
    """With the tables of builds most channels must be exact in float32, or speed would be an accident."""
    program = kpu_networks.lowered()
    layers = [FloatLayer.of(PreparedLayer(layer), 1) for layer in program.layers]
    by_hand = sum(len(layer.by_hand) for layer in layers if layer is not None)
    assert all(layer is not None for layer in layers)
    assert by_hand <= sum(layer.out_channels for layer in program.layers) // 3


def _constant_layer(weights: Numbers, **named: int) -> KpuLayer:
    """A layer of these weights (out, in, kernel, kernel), 8x8, whose output is acc / 2^16 from 0 to 255."""
    channels = len(weights)
    regs = registers.LayerRegisters(
        i_ch_num=weights.shape[1] - 1, o_ch_num=channels - 1, kernel_type=weights.shape[2] // 3,
        i_row_wid=7, i_col_high=7, o_row_wid=7, o_col_high=7, arg_x=-128, **named,
    )  # fmt: skip
    table = Activation(np.full(16, -(1 << 35)), np.full(16, 1), np.full(16, 16), np.full(16, -(1 << 19)))
    one = np.ones(channels, np.int64)
    return KpuLayer(regs, weights.astype(np.uint8), BatchNorm(one, 0 * one, 0 * one), table)


def test_sums_are_bounded_by_what_the_weights_reach():
    """float32 holds every whole number up to 2^24. 255 · 65,793 is 2^24 − 1, so bytes are used as they are.

    With one more they are counted from 128, which halves the sums.
    """
    weights = np.zeros((1, 515, 1, 1))  # −128 each
    weights[0, 514] = 129
    layer = PreparedLayer(_constant_layer(weights))
    assert layer.stairs is not None and layer.dtype == np.float32
    assert (layer.origin, layer.stairs.reach.tolist()) == (0, [(1 << 24) - 1])
    weights[0, 514] = 130
    layer = PreparedLayer(_constant_layer(weights))
    assert layer.stairs is not None and layer.dtype == np.float32
    assert (layer.origin, layer.stairs.reach.tolist()) == (128, [128 * 65794])


def test_a_float_layers_bound_is_exact():
    """x − pad lies in −100 … 155, nine weights are 2 each, and the sum begins at the bias."""
    prepared = PreparedLayer(_constant_layer(np.full((1, 1, 3, 3), 130), depth_wise_layer=1, pad_value=100))
    assert prepared.stairs is not None
    layer = FloatLayer(prepared, prepared.stairs)
    assert layer.bias.tolist() == [100 * 18 - int(layer.fit.origin[0])]
    assert layer.largest == 155 * 18 + abs(int(layer.bias[0]))
    opened = FloatLayer.of(prepared, 1)
    assert opened is not None and opened._interpreter.get_input_details()[0]["shape"].tolist() == [1, 8, 8, 1]


def test_a_diagonal_layer_is_run_as_the_depthwise_one_that_it_was():
    """arg_add counts once instead of for each of 3 inputs, and Σw lacks 2 · 9 weights of 128 each."""
    weights = np.arange(27).reshape(3, 1, 3, 3)
    depthwise = _constant_layer(weights, depth_wise_layer=1, arg_w=-5, arg_add=128 * 5 * 9)
    depthwise = depthwise.with_registers(i_ch_num=2)
    full = diagonal(depthwise)
    again = _as_depthwise(full)
    assert not full.depthwise and again.depthwise and again.registers == depthwise.registers
    np.testing.assert_array_equal(again.weights, weights)
    other = dataclasses.replace(full, weights=full.weights.copy())
    other.weights[0, 1, 2, 2] += 1
    assert _as_depthwise(other) is other
    assert _as_depthwise(depthwise) is depthwise


def test_only_whole_channels_that_a_layer_wrote_are_traced():
    """16 maps of 8x8 lie four to a line. Some layers cannot be traced and go through KPU RAM.

    They read lines that nothing wrote, begin inside a channel, or take a map for one of another shape.
    """
    first = _constant_layer(np.zeros((16, 16, 1, 1))).with_registers(image_dst_addr=100)
    second = _constant_layer(np.zeros((4, 16, 1, 1))).with_registers(image_src_addr=100, image_dst_addr=200)
    assert trace_inputs([first, second]) == [[Channels(-1, 0, 16)], [Channels(0, 0, 16)]]
    flat = first.with_registers(i_col_high=0, o_col_high=0)  # 16 channels of one row take four lines.
    assert trace_inputs([flat, flat.with_registers(image_src_addr=100)]) == [
        [Channels(-1, 0, 16)],
        [Channels(0, 0, 16)],
    ]
    assert trace_inputs([flat, flat.with_registers(image_src_addr=104)]) is None, "nothing was written there"
    half = _constant_layer(np.zeros((4, 8, 1, 1)))
    assert trace_inputs([first, half.with_registers(image_src_addr=116)]) == [
        [Channels(-1, 0, 16)],
        [Channels(0, 8, 16)],
    ]
    assert trace_inputs([first, half.with_registers(image_src_addr=112)]) is None, "begins within a channel"
    assert trace_inputs([first, half.with_registers(image_src_addr=124)]) is None, "ends where nothing was written"
    assert trace_inputs([first, half.with_registers(image_src_addr=300)]) is None
    flat = half.with_registers(image_src_addr=100, i_col_high=3)
    assert trace_inputs([first, flat]) is None, "rows of another map"


def test_neighbouring_ranges_are_joined():
    """They must be of the same map and in order. What does not follow directly stays separate."""
    parts = [Channels(1, 0, 4), Channels(1, 4, 6), Channels(1, 8, 9), Channels(2, 9, 12), Channels(2, 12, 13)]
    assert _joined(parts) == [Channels(1, 0, 6), Channels(1, 8, 9), Channels(2, 9, 13)]
    assert _joined([]) == []


@pytest.mark.parametrize(("kernel", "inputs"), [(1, 300), (3, 40)])
@pytest.mark.parametrize(("arg_x", "shr_x"), [(0, 0), (-129, 2)])
@pytest.mark.parametrize("pool", [0, 5])
def test_large_sums_are_taken_around_128(kernel, inputs, arg_x, shr_x, pool):
    """With all bytes 255 the sum exceeds 2^24, so x is counted from 128, also if arg_x · Σx is computed separately."""
    rng = np.random.default_rng(inputs)
    weights = rng.integers(253, 256, (2, inputs, kernel, kernel))
    layer = _constant_layer(weights, pad_value=7, arg_add=-2000).with_registers(
        arg_x=arg_x, shr_x=shr_x, pool_type=pool, i_col_high=3, o_col_high=3 if pool == 0 else 1
    )
    prepared = PreparedLayer(layer)
    assert prepared.origin == 128
    x = rng.integers(0, 256, (inputs, 4, 8)).astype(np.uint8)
    expected = _pooled(_reference(layer, x), pool)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(prepared.run(x), expected)


def test_groups_of_channels_are_joined():
    """A depthwise layer that the layout cut to slide through KPU RAM becomes one step again.

    A group with another table stays separate.
    """
    from model_build.kpu import layout

    program = kpu_networks.lowered(widths=(8, 12, 20, 20), strides=(2, 1))
    model = layout.lay_out(program, 72, 56, ("sliding",))[0]
    layers = model.kpu_layers
    groups = [i for i, layer in enumerate(layers) if layer.depthwise and layers[i - 1].depthwise]
    assert groups
    inputs = trace_inputs(layers)
    assert inputs is not None
    steps = plan(layers, inputs)
    assert sorted(number for step in steps for number in step.numbers) == list(range(len(layers)))
    assert len(steps) == len(layers) - len(groups)
    table = layers[groups[0]].activation
    layers[groups[0]] = dataclasses.replace(
        layers[groups[0]], activation=Activation(table.x_start, table.mul, table.shift, 255 - table.bias)
    )
    again = trace_inputs(layers)
    assert again is not None
    apart = plan(layers, again)
    assert len(apart) > len(steps)


def test_damaged_layout_shows_in_the_engine():
    """The engine is what proves layouts. A layer that overwrites a map that is still needed must spoil the outputs."""
    program = kpu_networks.lowered(widths=(8, 12, 20, 20), strides=(2, 1))
    model = layout.lay_out(program, 72, 56)[0]
    picture = kpu_networks.planes(kpu_networks.pictures(1, 72, 56, seed=3)[0])
    right = KpuEngine(model).run(picture)
    heads = [i for i, layer in enumerate(model.kpu_layers) if layer.main_mem_address is not None]
    layers = list(model.layers)
    trunk_line = model.kpu_layers[heads[0]].source_line
    head = model.kpu_layers[heads[0]]
    assert layers[heads[0]] is head
    layers[heads[0]] = head.with_registers(image_dst_addr=trunk_line)
    spoiled = KpuEngine(dataclasses.replace(model, layers=tuple(layers))).run(picture)
    np.testing.assert_array_equal(spoiled[0], right[0])
    assert any(not np.array_equal(a, b) for a, b in zip(spoiled[1:], right[1:], strict=True))


def test_a_channel_without_a_factor_has_reached_the_steps_up_to_its_constant():
    """Its value is always `add`, so it has reached the step that lies exactly there, and no higher one."""
    one = np.ones(1, np.int64)
    steps = _steps_in_g(np.array([3, 4, 5]), BatchNorm(mul=0 * one, shift=0 * one, add=4 * one), 0 * one, 9 * one)
    assert steps.tolist() == [[-9, -9, 10]]


def test_segments_that_begin_at_the_end_of_the_range_are_never_reached():
    """A table of fewer segments is filled up there, with anything. The step of an output that never comes is 2^35."""
    for first, steps in ((1, list(range(1, 256))), (0, [1 << 35] * 255)):
        start = np.full(16, (1 << 35) - 1)
        start[0] = 0
        rest = np.zeros(16, np.int64)
        mul = rest.copy()
        mul[0] = first
        found = _steps_in_v(Activation(x_start=start, mul=mul, shift=rest, bias=rest), 0)
        assert found is not None and found.tolist() == steps


def test_the_lowest_result_may_come_from_the_highest_sum():
    """Where a channel's factor is negative."""
    norm = BatchNorm(mul=np.array([1, -2]), shift=np.array([0, 0]), add=np.array([0, 1]))
    assert _lowest_v(norm, np.array([0, 0]), np.array([9, 9])) == -17


def test_steps_that_are_never_reached_need_no_line():
    """Step k lies at k - 5, and no sum is above 9: the line is proven by the fourteen steps below that."""
    steps, one = np.minimum(np.arange(-4, 251), 10)[None, :], np.ones((1, 1), np.int64)
    line = _line_between(steps, 9 * one, np.ones((1, 1)), np.array([True]), 0, 255)
    assert line.exact.tolist() == [] and line.offset.tolist() == [[5.5]]
