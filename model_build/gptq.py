"""Rounds weights to integers so that a layer's sums change least on the inputs that it gets.

If weights are rounded to nearest, their errors add up over inputs that are correlated, as neighbouring pixels and many
channels are. Here weights are rounded one by one, and the error of each is compensated by those that are not yet
rounded, as far as their inputs are correlated with its own. This is GPTQ (arXiv 2210.17323, algorithm 1), beginning
with the inputs whose weights matter most. The mean of the inputs is left out, because the bias corrects its effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from model_build.network import Conv

SAMPLED_WINDOWS = 2_000
DEPTHWISE_WINDOWS = 500
"""Depthwise layers have only 9 weights per channel, so this many windows suffice."""
DAMPING = 0.01
"""This part of the inputs' mean square is added to each: it keeps the equations solvable and the compensation small."""
LARGEST = 127
BLOCK = 32
"""The errors of this many weights are compensated in one matrix product (same paper, §3.3 "lazy batch updates")."""


def sample_windows(conv: Conv, inputs: Sequence[Floats], most: int) -> Floats:
    """The inputs under the kernel at about `most` output pixels, spread over the pictures.

    inputs: float32 (H, W, C) each, zero where the layer pads. Returns float32 (windows, kernel pixels, C).
    """
    each = max(1, most // len(inputs))
    windows = []
    for index, features in enumerate(inputs):
        height, width = features.shape[:2]
        rows, columns = -(-height // conv.stride), -(-width // conv.stride)
        random = np.random.default_rng(index)
        chosen = random.choice(rows * columns, min(each, rows * columns), replace=False)
        y, x = chosen // columns * conv.stride, chosen % columns * conv.stride
        if conv.kernel == 1:
            windows.append(features[y, x][:, None])
            continue
        step = conv.dilation
        padded = np.pad(features, ((step, step), (step, step), (0, 0)))
        taps = [padded[y + ky * step, x + kx * step] for ky in range(3) for kx in range(3)]
        windows.append(np.stack(taps, axis=1))
    return np.concatenate(windows)


def covariances(windows: Floats, depthwise: bool) -> Floats:
    """Covariances of an output's inputs: float64 (C, taps, taps) for a depthwise layer, else (1, taps · C, taps · C).

    windows: integers −255…255. Sums of their products are exact in float64, so they are the same in any order.
    """
    count = len(windows)
    exact = windows.astype(np.float64)
    if depthwise:
        products, total = np.einsum("nic,njc->cij", exact, exact), exact.sum(axis=0).T
    else:
        flat = exact.reshape(count, -1)
        products, total = (flat.T @ flat)[None], flat.sum(axis=0)[None]
    result: Floats = (products - total[:, :, None] * total[:, None, :] / count) / count
    return result


def round_weights(weights: Floats, step: Floats, covariance: Floats) -> NDArray[np.int64]:
    """Integers −127…127 for weights (groups, inputs, outputs) ≈ integers · step (groups, outputs), int64.

    covariance: of each group's inputs, (groups, inputs, inputs).
    """
    inputs = weights.shape[1]
    power = np.einsum("gii->gi", covariance)
    damping = DAMPING * power.mean(axis=1) + np.finfo(np.float32).tiny
    order = np.argsort(-power, axis=1, kind="stable")
    left = np.take_along_axis(weights, order[:, :, None], 1).astype(np.float64)
    damped = covariance + damping[:, None, None] * np.eye(inputs)
    damped = np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None, :], 2)
    # Row i of the inverse's upper Cholesky factor tells how later weights compensate the error of weight i.
    share = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    share = share / np.einsum("gii->gi", share)[:, :, None]
    rounded = np.empty_like(left)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = np.empty((len(left), end - start, left.shape[2]))
        for i in range(start, end):
            nearest = np.rint(left[:, i] / step)
            rounded[:, i] = np.minimum(np.maximum(nearest, -LARGEST), LARGEST)
            error = errors[:, i - start] = left[:, i] - rounded[:, i] * step
            left[:, i + 1 : end] -= share[:, i, i + 1 : end, None] * error[:, None]
        left[:, end:] -= share[:, start:end, end:].transpose(0, 2, 1) @ errors
    integers = np.empty(weights.shape, np.int64)
    np.put_along_axis(integers, order[:, :, None], rounded.astype(np.int64), 1)
    return integers


def round_layer(conv: Conv, scaled: Floats, step: Floats, inputs: Sequence[Floats]) -> NDArray[np.int64]:
    """Integers for the weights of a layer, `scaled` (kh, kw, in, out or 1), from its inputs' bytes minus the zero
    point."""
    if conv.groups > 1:
        alone, each = replace(conv, groups=1), range(conv.groups)
        kernels, steps = np.split(scaled, conv.groups, axis=3), np.split(step, conv.groups)
        maps = [np.split(one, conv.groups, axis=2) for one in inputs]
        made = [round_layer(alone, kernels[group], steps[group], [one[group] for one in maps]) for group in each]
        return np.concatenate(made, axis=3)
    depthwise = conv.kind == "depthwise"
    windows = sample_windows(conv, inputs, DEPTHWISE_WINDOWS if depthwise else SAMPLED_WINDOWS)
    covariance = covariances(windows, depthwise)
    taps, channels = windows.shape[1:]
    if depthwise:
        columns = scaled.reshape(taps, channels).T[:, :, None]
        integers = round_weights(columns, step[:, None], covariance)[:, :, 0].T
    else:
        rows = scaled.reshape(1, taps * channels, -1)
        integers = round_weights(rows, step[None], covariance)[0]
    return integers.reshape(scaled.shape)
