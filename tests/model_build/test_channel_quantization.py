"""Quantization with a scale for every channel: its arithmetic by hand, and nncase as the judge."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.arrays import Numbers
from common.skeleton import EDGES, KEYPOINTS
from model_build import channel_quantization, nncase_witness, tflite_writer
from model_build.calibration import CalibrationSet
from model_build.channel_quantization import Choices, quantize
from model_build.engines.kpu import KpuEngine
from model_build.float_forward import convolve, forward, normalise
from model_build.kpu import kmodel_v3, kmodel_v5, layout
from model_build.kpu.lower import lower, norm_and_table
from model_build.kpu.program import KpuProgram
from model_build.network import HEADS, Conv, Network, head_channels

ROOT = Path(__file__).resolve().parents[2]
WIDTH = HEIGHT = 64


def uneven_network(seed: int = 3) -> Network:
    """A small network in PoseNet's form whose channels have very different ranges, as trained networks have."""
    rng = np.random.default_rng(seed)

    def conv(name: str, inputs: int, outputs: int, kernel: int, stride: int, activation: str = "relu6") -> Conv:
        weights = rng.normal(0, 1 / np.sqrt(inputs * kernel**2), (kernel, kernel, inputs, outputs))
        weights *= np.exp(rng.uniform(-2.5, 1.0, outputs))
        return Conv(name, "conv", weights.astype(np.float32), rng.normal(0, 0.1, outputs).astype(np.float32),
                    stride, 1, activation)  # type: ignore[arg-type]  # fmt: skip

    def depthwise(name: str, channels: int, stride: int) -> Conv:
        weights = rng.normal(0, 0.5, (3, 3, channels, 1)) * np.exp(rng.uniform(-1, 1, (1, 1, channels, 1)))
        return Conv(name, "depthwise", weights.astype(np.float32), np.full(channels, 0.1, np.float32), stride)

    trunk = [conv("stem", 3, 8, 3, 2)]
    for block, (inputs, outputs) in enumerate([(8, 16), (16, 16), (16, 24)]):
        trunk += [depthwise(f"dw{block}", inputs, 2), conv(f"pw{block}", inputs, outputs, 1, 1)]
    heads = {
        name: conv(name, 24, channels, 1, 1, "linear")
        for name, channels in head_channels(len(KEYPOINTS), len(EDGES)).items()
    }
    return Network("uneven", tuple(trunk), heads, 16, source_id="test", source_sha256="0" * 64)


def pictures(count: int, seed: int = 1) -> tuple[Numbers, ...]:
    """Smooth random pictures that use the whole range of bytes."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-60, 315, (count, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return tuple(np.clip(coarse + rng.normal(0, 10, coarse.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def network() -> Network:
    return uneven_network()


@pytest.fixture(scope="module")
def calibration() -> CalibrationSet:
    shown = pictures(6)
    return CalibrationSet(shown, tuple(f"picture {i}" for i in range(len(shown))), "random pictures")


@pytest.fixture(scope="module")
def program(network, calibration) -> KpuProgram:
    return lower(quantize(network, calibration.views(WIDTH, HEIGHT)))


@pytest.mark.parametrize("magnitude", [1e-6, 3e-4, 0.02, 0.9])
def test_registers_do_the_division(magnitude):
    """The KPU's integer steps must give clamp(round(acc·factor + offset)) for factors of every size."""
    rng = np.random.default_rng(5)
    factor = magnitude * np.exp(rng.uniform(-2, 0, 64))
    offset = rng.uniform(-300, 300, 64)
    norm, activation = norm_and_table(factor, offset)
    assert np.abs(norm.mul).max() < 1 << 23 and np.abs(norm.add).max() < 1 << 31
    assert norm.shift.min() >= 0 and norm.shift.max() <= 15
    acc = np.rint(rng.uniform(-300, 300, (4000, 64)) / factor).astype(np.int64)
    v = ((acc * norm.mul) >> norm.shift) + norm.add
    bits = int(activation.shift[1])
    got = np.where(v > 0, np.clip((v + (1 << (bits - 1))) >> bits, 0, 255), 0)
    exact = np.clip(acc * factor + offset, 0, 255)
    # Half a step of rounding, plus what a rounded mul and 20 fraction bits lose for values of this size.
    assert np.abs(got - exact).max() <= 0.5 + 300 / (2 * norm.mul.min()) + 2e-3


def test_weights_keep_their_own_step_per_output_channel():
    """Beside a channel with weights around 1, one with weights around 1/1000 must keep its 7 bits."""
    weights = np.zeros((1, 1, 2, 2))
    weights[0, 0, :, 0], weights[0, 0, :, 1] = (1.0, -0.5), (0.001, 0.0005)
    integers, step = channel_quantization.quantize_weights(weights, depthwise=False, per_channel=True)
    assert integers[0, 0].T.tolist() == [[127, -64], [127, 64]]
    assert step == pytest.approx([1 / 127, 0.001 / 127])
    together, _ = channel_quantization.quantize_weights(weights, depthwise=False, per_channel=False)
    assert together[0, 0, :, 1].tolist() == [0, 0]


def test_the_bias_is_corrected_twice():
    """Pixels that the first correction frees from the clamp count in the second. There is no third.

    With one weight of 1, inputs are bytes less 128. Three groups of equal number have the sums 100, 0 and −6 and should
    have 104, 10 and 31. At first only the first group is free and lacks 4. Then the second, now 4, lacks 6, which gives
    (0 + 6) / 2 = 3. The third, now 1, would lack 30.
    """
    conv = Conv("one", "conv", np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), 1, 1, "linear")
    given = channel_quantization.ChannelQuantization(np.ones(1), 128)
    output = channel_quantization.ChannelQuantization(np.ones(1), 0)
    shown, wanted = (
        [np.tile(np.array(row, np.float32), (8, 8))[..., None]] for row in ((228, 128, 122), (104, 10, 31))
    )
    layer, made = channel_quantization._quantize_layer(
        conv, given, shown, output, wanted, Choices(compensated_rounding=False)
    )
    assert layer.offset.tolist() == [7.0] and made[0][0, :3, 0].tolist() == [107, 7, 1]
    unchanged, _ = channel_quantization._quantize_layer(
        conv, given, shown, output, wanted, Choices(compensated_rounding=False, bias_correction=False)
    )
    assert unchanged.offset.tolist() == [0.0]


def test_nncase_simulator_agrees_byte_for_byte(network, program):
    """Our tables are put into nncase's own V5 file, and nncase's simulator is the judge."""
    nncase = pytest.importorskip("nncase")
    model = layout.lay_out(program, WIDTH, HEIGHT)[0]
    engine = KpuEngine(kmodel_v3.write(model))
    v5 = nncase_witness.witness_of(tflite_writer.write(network, WIDTH, HEIGHT), model)
    simulator = nncase.Simulator()
    simulator.load_model(v5)
    file_outputs = kmodel_v5.read(v5).outputs
    rng = np.random.default_rng(9)
    noise = [rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(3)]
    for picture in (*pictures(3, seed=8), *noise):
        simulator.set_input_tensor(0, nncase.RuntimeTensor.from_numpy(picture[None]))
        simulator.run()
        heads = engine.run(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        for index, (head, output) in enumerate(zip(heads, file_outputs, strict=True)):
            real = simulator.get_output_tensor(index).to_numpy()[0].astype(np.float64)
            assert isinstance(output.scale, float)
            np.testing.assert_array_equal(np.rint(real / output.scale + output.zero_point), head)


def head_errors(program, network, shown) -> dict[str, float]:
    """The root mean square error of each head against float, within the range that bytes can express."""
    engine = KpuEngine(kmodel_v3.write(layout.lay_out(program, WIDTH, HEIGHT)[0]))
    squares: dict[str, list[Numbers]] = {name: [] for name in HEADS}
    for picture in shown:
        wanted = forward(network, picture)
        for name, head, output in zip(
            HEADS, engine.run(np.ascontiguousarray(picture.transpose(2, 0, 1))), program.outputs, strict=True
        ):
            scale, zero = np.array(output.scale), output.zero_point
            real = (head.transpose(1, 2, 0).astype(float) - zero) * scale
            reachable = np.clip(wanted[name], -zero * scale, (255 - zero) * scale)
            squares[name].append((real - reachable).ravel() ** 2)
    return {name: float(np.sqrt(np.mean(np.concatenate(parts)))) for name, parts in squares.items()}


def test_per_channel_ranges_lose_less_than_nncase(network, calibration):
    """This is the reason for our own quantization. The pictures are new to both, and both heads have one range."""
    pytest.importorskip("nncase")
    ours = lower(quantize(network, calibration.views(WIDTH, HEIGHT), Choices(limit_heads=False)))
    tflite = tflite_writer.write(network, WIDTH, HEIGHT)
    theirs = kmodel_v5.read(nncase_witness.compile_tflite(tflite, calibration.at(WIDTH, HEIGHT)))
    fresh = pictures(5, seed=77)
    mine, nncase_own = head_errors(ours, network, fresh), head_errors(theirs, network, fresh)
    for name in HEADS:
        assert mine[name] < 0.9 * nncase_own[name], (name, mine[name], nncase_own[name])


def test_a_terminal_sees_how_far_quantizing_is_and_a_pipe_does_not(network, monkeypatch, capfd):
    """PoseNet takes half a minute here, and people press Ctrl-C if nothing moves."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        quantize(network, pictures(2))
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    layers = len(network.trunk) + len(HEADS)
    assert "quantizing" in shown and f"0/{layers}" in shown
    monkeypatch.undo()
    quantize(network, pictures(2))
    assert capfd.readouterr().err == ""


def test_same_pictures_same_bytes(network, calibration, program):
    """Builds must be repeatable."""
    again = lower(quantize(network, calibration.views(WIDTH, HEIGHT)))
    for one, other in zip(program.layers, again.layers, strict=True):
        assert one.weights.tobytes() == other.weights.tobytes()
        assert one.batch_norm.pack() + one.activation.pack() == other.batch_norm.pack() + other.activation.pack()


TABLES = """
import hashlib
from model_build.calibration import rendered
from model_build.channel_quantization import quantize
from model_build.importers import open_network
from model_build.kpu.lower import lower
digest = hashlib.sha256()
for layer in lower(quantize(open_network("demo"), rendered(3).views(96, 64))).layers:
    digest.update(layer.weights.tobytes() + layer.batch_norm.pack() + layer.activation.pack())
print(digest.hexdigest())
"""


def test_same_bytes_whatever_adds_the_products():
    """OpenBLAS and NumPy choose kernels, vector instructions and threads by the processor.

    These variables make them choose as on another processor, and the bytes must stay the same.
    """
    plain = {"OPENBLAS_NUM_THREADS": "1"}
    other = {"OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "2",
             "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX"}  # fmt: skip
    found = [
        subprocess.run(
            [sys.executable, "-c", TABLES], env={**os.environ, **variables}, cwd=ROOT,
            capture_output=True, text=True, check=True,
        ).stdout
        for variables in (plain, other)
    ]  # fmt: skip
    assert found[0] == found[1] and len(found[0].strip()) == 64


def test_first_layer_reaches_what_the_brightest_picture_gives(network):
    """A window of black and white pixels that suits the signs of a channel's weights must just reach the bound."""
    first = network.trunk[0]
    reach = channel_quantization.camera_reach(first)
    linear = replace(first, activation="linear", stride=1)
    for channel in range(first.out_channels):
        window = np.where(first.weights[..., channel] > 0, 255, 0).astype(np.uint8)
        assert convolve(linear, normalise(window))[1, 1, channel] == pytest.approx(reach[channel], rel=1e-5, abs=1e-5)


def test_ranges_stay_within_what_can_be(network):
    """A range larger than ReLU6's 6, or than what the first layer can reach, would waste steps."""
    made = quantize(network, pictures(4), Choices(range_floor=0.0))
    for layer in made.trunk:
        assert layer.output.scale.max() * 255 <= 6 + 1e-9
    first = made.trunk[0].output.scale * 255
    assert (first <= np.maximum(channel_quantization.camera_reach(network.trunk[0]), 1e-6) + 1e-9).all()
