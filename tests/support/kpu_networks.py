"""Small random networks, their KPU programs, and nncase's own compiler and simulator to compare with."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from common.arrays import Bytes
from model_build import nncase_witness, tflite_writer
from model_build.channel_quantization import quantize
from model_build.kpu.kmodel_v5 import read
from model_build.kpu.lower import lower
from model_build.kpu.program import KpuProgram
from model_build.network import Activation, Conv, Network


def _conv(
    rng: np.random.Generator,
    name: str,
    kernel: int,
    c_in: int,
    c_out: int,
    stride: int = 1,
    activation: Activation = "relu6",
) -> Conv:
    scale = 1.6 / np.sqrt(kernel * kernel * c_in)
    weights = rng.normal(0, scale, (kernel, kernel, c_in, c_out)).astype(np.float32)
    return Conv(name, "conv", weights, rng.normal(0, 0.3, c_out).astype(np.float32), stride, activation=activation)


def _depthwise(rng: np.random.Generator, name: str, channels: int, stride: int = 1) -> Conv:
    weights = rng.normal(0, 0.5, (3, 3, channels, 1)).astype(np.float32)
    return Conv(name, "depthwise", weights, rng.normal(0, 0.3, channels).astype(np.float32), stride)


def random_network(seed: int = 0, widths: tuple[int, ...] = (8, 12, 20), strides: tuple[int, ...] = (1, 2)) -> Network:
    """A 3×3 stem of stride 2, separable blocks, and four linear heads with 3, 6, 4 and 4 channels."""
    rng = np.random.default_rng(seed)
    trunk = [_conv(rng, "stem", 3, 3, widths[0], 2)]
    for index, stride in enumerate(strides):
        trunk.append(_depthwise(rng, f"dw{index}", widths[index], stride))
        trunk.append(_conv(rng, f"pw{index}", 1, widths[index], widths[index + 1]))
    heads = {
        name: _conv(rng, name, 1, widths[len(strides)], channels, activation="linear")
        for name, channels in zip(
            ("heatmap", "short_offset", "displacement_fwd", "displacement_bwd"), (3, 6, 4, 4), strict=True
        )
    }
    return Network(f"random{seed}", tuple(trunk), heads, 2 * int(np.prod(strides)), ("a", "b", "c"), ((0, 1), (1, 2)))


def pictures(count: int, width: int, height: int, seed: int = 0) -> list[Bytes]:
    """Random bytes over a gradient, uint8 (height, width, 3); each picture contains 0 and 255."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width)[None, None, :, None]
    noise = rng.integers(-60, 60, (count, height, width, 3))
    made = np.clip(ramp + noise, 0, 255).astype(np.uint8)
    made[:, 0, 0] = 0, 255, 128
    return list(made)


@cache
def lowered(seed: int = 0, **shape: tuple[int, ...]) -> KpuProgram:
    """The KPU program of a random network, as builds make it."""
    return lower(quantize(random_network(seed, **shape), pictures(2, 72, 56)))


@cache
def nncase_v5(width: int, height: int, seed: int = 0, **shape: tuple[int, ...]) -> bytes:
    """What nncase makes of a random network alone, with its own ranges: a kmodel V5. Skips the test without nncase."""
    pytest.importorskip("nncase")
    tflite = tflite_writer.write(random_network(seed, **shape), width, height)
    return nncase_witness.compile_tflite(tflite, np.stack(pictures(2, width, height)))


def nncase_bytes(v5: bytes, nhwc: Bytes) -> list[Bytes]:
    """The output bytes of nncase's Simulator for one picture.

    The Simulator gives floats; this turns them back into bytes and checks that nothing was lost.
    """
    import nncase

    simulator = nncase.Simulator()
    simulator.load_model(v5)
    simulator.set_input_tensor(0, nncase.RuntimeTensor.from_numpy(np.ascontiguousarray(nhwc[None])))
    simulator.run()
    found = []
    for index, output in enumerate(read(v5).outputs):
        assert output.scale is not None and output.zero_point is not None
        exact = simulator.get_output_tensor(index).to_numpy()[0] / output.scale + output.zero_point
        assert np.abs(exact - np.rint(exact)).max() < 0.05
        found.append(np.rint(exact).astype(np.uint8))
    return found


def planes(nhwc: Bytes) -> Bytes:
    """uint8 (H, W, 3) → (3, H, W), as the camera gives it to the KPU."""
    return np.ascontiguousarray(nhwc.transpose(2, 0, 1))
