"""Joins a network with its mirrored twin, which averages the answers for a picture and its mirror image in one pass.

A network that is trained equally on pictures and their mirror images still makes different errors on the two, and the
mean of its answers is better than either. The mirror image need not be computed: mirrored kernels compute for the
picture what the original kernels compute for its mirror image, in the same cells,

    conv(mirror(picture), mirror(kernel)) = mirror(conv(picture, kernel)),

and heads whose left and right keypoints are swapped and whose x components are negated give answers for the original
picture. Heads are linear, so their mean is one head that reads both trunks. The trunks lie side by side in layers of
two groups; the first layer reads the picture and holds the kernels of both:

    picture ──▶ [ a | b ] ──▶ [ a | b ] ──▶ … ──▶ heads        a: the network, b: its twin

Weights are moved, negated and halved, never computed again. The joined network takes twice the time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.arrays import Floats, Numbers
from common.errors import UserError
from common.skeleton import mirrored_name
from model_build.network import HEADS, Conv, Network, check
from model_build.rotation import VECTOR_HEADS

TWIN = "-twin"
"""This is added to the network's name."""
MOST_IN_A_LINE = 4
"""At most this many channels share a line of KPU RAM, and a group must begin at a line."""


def with_twin(network: Network) -> Network:
    """The network with its mirrored twin beside it; UserError if its keypoints, edges or channels do not allow it."""
    for layer in network.trunk:
        if layer.out_channels % MOST_IN_A_LINE:
            raise UserError(
                f"{network.name} can have no twin: its layer {layer.name} has {layer.out_channels} channels, which "
                f"is not a multiple of {MOST_IN_A_LINE}"
            )
    twin = mirrored(network)
    pairs = zip(network.trunk, twin.trunk, strict=True)
    trunk = tuple(_side_by_side(one, other, first=not number) for number, (one, other) in enumerate(pairs))
    heads = {name: _mean(network.heads[name], twin.heads[name]) for name in HEADS}
    together = replace(network, name=network.name + TWIN, trunk=trunk, heads=heads)
    check(together)
    return together


def mirrored(network: Network) -> Network:
    """The network that gives for a picture the mirrored answer of this one for the mirror image."""
    try:
        channels = mirrored_channels(network.keypoints, network.edges)
    except ValueError:
        raise UserError(
            f"{network.name} can have no twin: its keypoints or edges change when they are mirrored"
        ) from None
    heads = {name: _reordered(network.heads[name], *channels[name]) for name in HEADS}
    return replace(network, trunk=tuple(map(_mirrored_kernels, network.trunk)), heads=heads)


def mirrored_channels(keypoints: Sequence[str], edges: Sequence[tuple[int, int]]) -> dict[str, tuple[Numbers, Floats]]:
    """For each head, the channel from which each channel of the mirrored answer comes, and its sign.

    ValueError if a keypoint or an edge has no mirrored one.
    """
    points = [keypoints.index(mirrored_name(name)) for name in keypoints]
    lines = [edges.index((points[parent], points[child])) for parent, child in edges]
    channels = {"heatmap": (np.array(points), np.ones(len(points), np.float32))}
    for name in VECTOR_HEADS:
        order = np.array(points if name == "short_offset" else lines)
        signs = np.repeat(np.array([1, -1], np.float32), len(order))  # signs of all y, then of all x
        channels[name] = np.concatenate([order, order + len(order)]), signs
    return channels


def _mirrored_kernels(layer: Conv) -> Conv:
    return replace(layer, weights=np.ascontiguousarray(layer.weights[:, ::-1]))


def _reordered(head: Conv, order: Numbers, signs: Floats) -> Conv:
    return replace(head, weights=head.weights[..., order] * signs, bias=head.bias[order] * signs)


def _side_by_side(one: Conv, other: Conv, first: bool) -> Conv:
    """Two layers as one with two groups, or with one group if both read the picture or the layer is depthwise."""
    deep = one.kind == "depthwise"
    weights = np.concatenate([one.weights, other.weights], axis=2 if deep else 3)
    return replace(one, weights=weights, bias=np.concatenate([one.bias, other.bias]), groups=1 if first or deep else 2)


def _mean(one: Conv, other: Conv) -> Conv:
    weights = np.concatenate([one.weights, other.weights], axis=2) / 2
    return replace(one, weights=weights, bias=(one.bias + other.bias) / 2)
