"""A Network in float32 NumPy: the quick reference for reports, and what importers are checked with.

Same results as TFLite up to float rounding (tests/model_build/test_importers_tensorflow.py).
"""

from __future__ import annotations

import numpy as np

from model_build.network import HEADS, Conv, Network


def normalise(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) → float32 (H, W, 3), (x − 128) / 128."""
    return (picture.astype(np.float32) - 128) / 128


def forward(network: Network, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Heads of one picture, uint8 (H, W, 3) → float32 (H', W', C) by name."""
    features = normalise(picture)
    for layer in network.trunk:
        features = convolve(layer, features)
    return {name: convolve(network.heads[name], features) for name in HEADS}


def convolve(layer: Conv, x: np.ndarray) -> np.ndarray:
    """One layer, float32 (H, W, C) → (H', W', C'), zero padding of `dilation` on all sides for 3×3."""
    if layer.kernel == 1:
        x = x[:: layer.stride, :: layer.stride]
        out = x @ layer.weights[0, 0]
    else:
        height, width = x.shape[:2]
        d, s = layer.dilation, layer.stride
        padded = np.pad(x, ((d, d), (d, d), (0, 0)))
        taps = [padded[ky * d : ky * d + height : s, kx * d : kx * d + width : s] for ky in range(3) for kx in range(3)]
        if layer.kind == "depthwise":
            kernels = layer.weights.reshape(9, -1)
            out = taps[0] * kernels[0]
            for tap, kernel in zip(taps[1:], kernels[1:], strict=True):
                out += tap * kernel
        else:
            out = np.concatenate(taps, axis=2) @ layer.weights.reshape(9 * layer.in_channels, -1)
    out = out + layer.bias
    if layer.activation != "linear":
        np.clip(out, 0, 6 if layer.activation == "relu6" else None, out=out)
    return out
