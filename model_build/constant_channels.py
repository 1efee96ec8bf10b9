"""Channels that are the same for every picture are left out of a network; what they add goes into the next bias.

Trained networks have channels that ReLU6 holds at 0 whatever the camera sees, or whose weights have vanished: of the
24 channels after the first depthwise layer of tfjs's PoseNet 0.75, 12 never change. Without this module the chip would
compute, store and read them in every frame.

They are found by interval arithmetic: pixels lie in [−1, 127/128], and the interval of each of a layer's channels gives
the smallest and the largest value that the next layer's channels can have, border included. A channel whose smallest
value is its largest is constant. It can be left out if it is 0, or if only 1×1 layers read it: otherwise a 3×3 layer
would notice the difference from the zeros around the map. A channel that no layer reads can be left out as well. The
float network computes the same without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.arrays import Flags, Floats
from model_build.network import Conv, Network

ROUNDING = 1e-5
"""A bound must be exceeded by this part of the sum's largest possible terms, so that float rounding cannot cross it."""


def fold(network: Network) -> Network:
    """The network without the channels that are constant for every picture, and without those that no layer reads.

    One with layers of groups stays as it is: the groups would have to lose equally many channels.
    """
    if any(layer.groups > 1 for layer in network.trunk):
        return network
    constants = constant_channels(network)
    trunk = list(network.trunk)
    heads = dict(network.heads)
    # This goes from the end, because a depthwise layer decides which channels the layer before it keeps.
    for index in reversed(range(len(trunk))):
        layer = trunk[index]
        readers = [trunk[index + 1]] if index + 1 < len(trunk) else list(heads.values())
        if readers[0].kind == "depthwise":
            continue  # A layer before a depthwise one was done together with it.
        keep = _worth_keeping(constants[index], readers)
        value = np.nan_to_num(constants[index])
        if index + 1 < len(trunk):
            trunk[index + 1] = _without_inputs(readers[0], keep, value)
        else:
            heads = {name: _without_inputs(head, keep, value) for name, head in heads.items()}
        while layer.kind == "depthwise" and index > 0:
            trunk[index] = _with_channels(layer, keep)
            index -= 1
            layer = trunk[index]
        trunk[index] = _with_channels(layer, keep)
    return replace(network, trunk=tuple(trunk), heads=heads)


def constant_channels(network: Network) -> list[Floats]:
    """For each trunk layer the value of each output channel, float64 (out,); NaN if a picture can change it."""
    low, high = np.full(3, -1.0), np.full(3, 127 / 128)
    found = []
    for layer in network.trunk:
        low, high = output_range(layer, low, high)
        found.append(np.where(low == high, low, np.nan))
    return found


def output_range(layer: Conv, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The smallest and largest possible value of each output channel, from those of the inputs; float64 (channels,)."""
    if layer.kernel == 3:  # zeros around the map
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    weights = layer.weights.astype(np.float64)
    ends = weights * low[:, None], weights * high[:, None]
    axes = (0, 1, 3) if layer.kind == "depthwise" else (0, 1, 2)
    least, most = (choose(*ends).sum(axis=axes) + layer.bias for choose in (np.minimum, np.maximum))
    changing = least != most
    slack = ROUNDING * (np.maximum(*np.abs(ends)).sum(axis=axes) + np.abs(layer.bias)) * changing
    least, most = least - slack, most + slack
    if layer.activation == "linear":
        return least, most
    top = 6 if layer.activation == "relu6" else np.inf
    return np.clip(least, 0, top), np.clip(most, 0, top)


def _worth_keeping(constant: Floats, readers: Sequence[Conv]) -> Flags:
    """Which channels must stay: those that a layer reads and that change, or matter at the border. At least one
    stays."""
    read = np.any([np.any(reader.weights != 0, axis=(0, 1, 3)) for reader in readers], axis=0)
    hidden = (constant == 0) | (~np.isnan(constant) & all(reader.kernel == 1 for reader in readers))
    keep: Flags = read & ~hidden
    keep[0] |= not keep.any()
    return keep


def _without_inputs(reader: Conv, keep: Flags, value: Floats) -> Conv:
    """A layer that reads only the kept channels; what the constant ones contributed is in its bias."""
    gone = np.einsum("hwio,i->o", reader.weights[:, :, ~keep].astype(np.float64), value[~keep])
    bias = (reader.bias + gone).astype(np.float32)
    return replace(reader, weights=np.ascontiguousarray(reader.weights[:, :, keep]), bias=bias)


def _with_channels(layer: Conv, keep: Flags) -> Conv:
    """A layer with some of its output channels, which are a depthwise layer's inputs too."""
    weights = layer.weights[:, :, keep] if layer.kind == "depthwise" else layer.weights[..., keep]
    return replace(layer, weights=np.ascontiguousarray(weights), bias=layer.bias[keep])
