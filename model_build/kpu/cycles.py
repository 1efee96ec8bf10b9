"""Estimated time of KPU layers: a model, not a measurement.

Least-squares fit to per-layer timings published for kmodel V3 on a board with the KPU at 400 MHz (a YOLOv2 face
detector, 24 layers; nncase issue 77, and a table of 3x3 layers). Residuals: at most 12 µs for 1x1 layers, 1.4 µs for
depthwise ones; for a MobileNet outside of the fit the model gave 7 % too little. The KPU takes about one 64-byte line
of input per cycle for every output channel, for 1x1 and 3x3 kernels alike; pooling happens when the output is written,
so a layer costs as much with pooling as without.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from model_build.kpu import ram
from model_build.kpu.layer import KpuLayer

KPU_CLOCK_HZ = 400_000_000
MODEL = "line model fitted to published K210 layer timings, KPU at 400 MHz"
# Multipliers and adders: 64 pixels times 9 taps per cycle; a 1x1 kernel uses one tap of the nine.
PEAK_MACS_PER_CYCLE = 64 * 9


@dataclass(frozen=True)
class CycleModel:
    """Coefficients of the linear model at 400 MHz: nanoseconds per line, weight or channel, and µs per layer."""

    conv_line_ns: float = 2.63
    conv_weight_ns: float = 3.04
    conv_fixed_us: float = 30.5
    depthwise_line_ns: float = 5.76
    depthwise_channel_ns: float = 32.8
    depthwise_fixed_us: float = 6.3

    def slower(self, factor: float) -> CycleModel:
        """The model with all times multiplied by `factor`."""
        return CycleModel(*(value * factor for value in astuple(self)))


PUBLISHED = CycleModel()
"""This is the fit to the published timings."""


def convolution_us(
    in_lines: int, in_channels: int, out_channels: int, kernel_size: int, model: CycleModel = PUBLISHED
) -> float:
    """Estimated µs of a 1x1 or full 3x3 convolution over `in_lines` lines of KPU RAM."""
    weights = kernel_size * kernel_size * in_channels * out_channels
    return (model.conv_line_ns * in_lines * out_channels + model.conv_weight_ns * weights) / 1000 + model.conv_fixed_us


def depthwise_us(in_lines: int, channels: int, model: CycleModel = PUBLISHED) -> float:
    """Estimated µs of a depthwise 3x3 convolution."""
    return (model.depthwise_line_ns * in_lines + model.depthwise_channel_ns * channels) / 1000 + (
        model.depthwise_fixed_us
    )


def shape_us(
    depthwise: bool,
    kernel_size: int,
    in_channels: int,
    out_channels: int,
    height_px: int,
    width_px: int,
    model: CycleModel = PUBLISHED,
) -> float:
    """Estimated µs of a layer whose input is height × width."""
    in_lines = ram.lines(in_channels, height_px, width_px)
    if depthwise:
        return depthwise_us(in_lines, in_channels, model)
    return convolution_us(in_lines, in_channels, out_channels, kernel_size, model)


def layer_us(layer: KpuLayer, model: CycleModel = PUBLISHED) -> float:
    """Estimated µs of one layer."""
    return shape_us(
        layer.depthwise,
        layer.kernel_size,
        layer.in_channels,
        layer.out_channels,
        layer.in_height,
        layer.in_width,
        model,
    )


def executed_macs(layer: KpuLayer) -> int:
    """Multiply-adds that the KPU performs: every input pixel, before pooling."""
    return layer.in_height * layer.in_width * layer.weights.size
