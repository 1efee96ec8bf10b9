"""A network for a camera that is mounted on its side or upside down.

A camera that is turned clockwise by `mount` degrees sees the scene turned counter-clockwise by as much. PoseNet has
only ever seen people upright and finds nobody in such a frame. Turning every frame would cost time on the chip;
turning the network's kernels once, when it is built, costs nothing:

    conv(turn(picture), turn(kernel)) = turn(conv(picture, kernel))

So the turned network finds in the turned frame what the original finds in the upright picture, in the same cells,
turned. Its heads must then give vectors in the frame's coordinates. One quarter turn counter-clockwise takes the vector
(dx, dy) of the upright picture to (dy, -dx) in the frame:

        upright            frame
        +-----> x          +-----> x'       x' = y
        |  a b             |  b d           y' = width - 1 - x
        v  c d             v  a c
        y                  y'

All of this is exact in float: weights are moved and negated, never computed again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model_build.network import Conv, Network

MOUNTS = (0, 90, 180, 270)
"""A camera may be turned by these angles: degrees clockwise, seen from behind it."""

VECTOR_HEADS = ("short_offset", "displacement_fwd", "displacement_bwd")
"""The channels of these heads are vectors: all y components first, then all x components."""


def rotate(network: Network, mount: int) -> Network:
    """The network for frames of a camera that is turned clockwise by `mount` degrees.

    Frames are `np.rot90(upright, mount // 90)`. ValueError if `mount` is not one of MOUNTS.
    """
    if mount not in MOUNTS:
        raise ValueError(f"mount is {mount}; it can be {', '.join(map(str, MOUNTS))} degrees")
    for _ in range(mount // 90):
        network = _quarter_turn(network)
    return network


def _quarter_turn(network: Network) -> Network:
    heads = {name: _turn_kernels(head) for name, head in network.heads.items()}
    for name in VECTOR_HEADS:
        heads[name] = _turn_vectors(heads[name])
    return replace(network, trunk=tuple(_turn_kernels(layer) for layer in network.trunk), heads=heads)


def _turn_kernels(layer: Conv) -> Conv:
    """Kernels turned counter-clockwise by a quarter; a 1×1 kernel does not change."""
    if layer.kernel == 1:
        return layer
    return replace(layer, weights=np.ascontiguousarray(np.rot90(layer.weights, axes=(0, 1))))


def _turn_vectors(head: Conv) -> Conv:
    """The head's output vectors turned: the new y components are the old -x, the new x components the old y."""
    half = head.out_channels // 2
    weights, bias = head.weights, head.bias
    return replace(
        head,
        weights=np.concatenate([-weights[..., half:], weights[..., :half]], axis=-1),
        bias=np.concatenate([-bias[half:], bias[:half]]),
    )
