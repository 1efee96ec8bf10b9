"""Runs a Network in NumPy: the reference for quantization and reports, and for the tests of importers.

The results equal TFLite's up to float rounding (tests/model_build/test_importers_tensorflow.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from common.arrays import Bytes, Floats
from model_build.network import HEADS, Conv, Network

_STRIP_BYTES = 1 << 17
"""A depthwise layer is computed in blocks of rows of about this size, which fit into a processor's cache."""

_TO_GRID = np.float32(96)
"""Adding this number and subtracting it again rounds float32 values below 32 to multiples of 2^-17."""
_WEIGHT_BITS = 22


def normalise(picture: Bytes) -> Floats:
    """uint8 (H, W, 3) → float32 (H, W, 3), (x − 128) / 128."""
    return (picture.astype(np.float32) - 128) / 128


def forward(network: Network, picture: Bytes) -> dict[str, Floats]:
    """Heads of one picture, uint8 (H, W, 3) → float32 (H', W', C) by name."""
    features = normalise(picture)
    for layer in network.trunk:
        features = convolve(layer, features)
    return {name: convolve(network.heads[name], features) for name in HEADS}


def convolve(layer: Conv, x: Floats) -> Floats:
    """One layer, float32 (H, W, C) → (H', W', C'), zero padding of `dilation` on all sides for 3×3."""
    return _activate(layer, sums(layer, layer.weights, x) + layer.bias)


def sums(layer: Conv, weights: Floats, x: Floats) -> Floats:
    """The layer with other weights, before bias and activation: (H, W, C) → (H', W', C'), in the type of `weights`."""
    if layer.groups > 1:
        parts = zip(np.split(weights, layer.groups, axis=3), np.split(x, layer.groups, axis=2), strict=True)
        alone = replace(layer, groups=1)
        return np.concatenate([sums(alone, kernels, channels) for kernels, channels in parts], axis=2)
    stride, step = layer.stride, layer.dilation
    if layer.kernel == 1:
        taps, rows = x[::stride, ::stride], weights[0, 0]
        out: Floats = (taps.reshape(-1, taps.shape[2]) @ rows).reshape(*taps.shape[:2], -1)
        return out
    height, width, channels = x.shape
    padded = np.zeros((height + 2 * step, width + 2 * step, channels), weights.dtype)
    padded[step:-step, step:-step] = x
    windows = [
        padded[ky * step : ky * step + height : stride, kx * step : kx * step + width : stride]
        for ky in range(3)
        for kx in range(3)
    ]
    if layer.kind == "depthwise":
        return _depthwise(windows, weights.reshape(9, channels))
    taps = np.concatenate(windows, axis=2)
    return (taps.reshape(-1, 9 * channels) @ weights.reshape(9 * channels, -1)).reshape(*taps.shape[:2], -1)


def _depthwise(windows: list[Floats], kernels: Floats) -> Floats:
    out = np.empty(windows[0].shape, kernels.dtype)
    height, width, channels = out.shape
    strip = max(1, _STRIP_BYTES // (width * channels * out.itemsize))
    product = np.empty((strip, width, channels), out.dtype)
    for top in range(0, height, strip):
        rows = out[top : top + strip]
        part = product[: len(rows)]
        np.multiply(windows[0][top : top + strip], kernels[0], out=rows)
        for window, kernel in zip(windows[1:], kernels[1:], strict=True):
            np.multiply(window[top : top + strip], kernel, out=part)
            rows += part
    return out


def _activate(layer: Conv, out: Floats) -> Floats:
    if layer.activation != "linear":
        np.maximum(out, 0, out=out)
    if layer.activation == "relu6":
        np.minimum(out, 6, out=out)
    return out


def reproducible(layer: Conv) -> Callable[[Floats], Floats]:
    """`convolve` for one layer with the same bits on every processor and with every BLAS library, exact to about 2^-17.

    Libraries add up a matrix product in different orders, and float sums depend on the order. Exact sums do
    not: maps are rounded to multiples of 2^-17, which ReLU6 keeps below 2^3, and each output channel's weights to 22
    bits, so the sum of 2,048 products fits into float64's 53 bits. (After a ReLU without a bound this holds for
    all but extreme values.) Depthwise sums are added in a fixed order here.
    """
    weights = layer.weights
    if layer.kind != "depthwise":
        largest = np.abs(weights).max(axis=(0, 1, 2)).astype(np.float64)
        step = np.exp2(np.frexp(largest)[1].astype(np.float64) - _WEIGHT_BITS)
        weights = np.rint(weights / step) * step

    def run(x: Floats) -> Floats:
        out = sums(layer, weights, x if layer.kind == "depthwise" else x.astype(np.float64))
        out += layer.bias
        out = _activate(layer, out.astype(np.float32, copy=False))
        if layer.activation != "linear":
            out += _TO_GRID
            out -= _TO_GRID
        return out

    return run
