"""Makes a larger network with the same outputs as a trained one, to continue training from (Net2Net, arXiv 1511.05641).

An inserted layer passes its input on: after ReLU6 no value is negative or above 6, so a kernel with a 1 in its middle
is exact. An added channel starts with random weights, and the weights of the layers that read it start at zero, so the
outputs do not change; those weights learn from the first step on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.arrays import Floats
from common.errors import UserError
from model_build.network import HEADS, Conv, Network
from model_build.train.model import LayerPlan, parse_trunk, trunk_of


def grow(network: Network, trunk: str, seed: int) -> Network:
    """`network` with the layers of `trunk` (as `parse_trunk` reads them): the same heads for every picture.

    The trunk's layers must hold the network's in order, each at least as wide as it was; other layers may
    stand between them if their stride is 1 and they are wide enough to pass their input on. UserError otherwise.
    """
    rng = np.random.default_rng([seed, 5])
    old = list(network.trunk)
    layers: list[Conv] = []
    kept = width = 3  # channels of the layer before: those that the old network has, and all
    for plan in parse_trunk(trunk):
        if old and _holds(plan, old[0]):
            layer = old.pop(0)
            weights, bias = layer.weights, layer.bias
        elif layers and plan.stride == 1 and plan.channels >= kept:
            weights, bias = _identity(plan, kept), np.zeros(kept, np.float32)
        else:
            wanted = f"{plan.name} stands where {old[0].name if old else 'the heads'} was"
            raise UserError(f"{network.name} cannot grow into {trunk!r}: {wanted}; it has {trunk_of(network)!r}")
        layers.append(_widened(plan, weights, bias, width, rng))
        kept, width = len(bias), plan.channels
    if old:
        raise UserError(f"{network.name} cannot grow into {trunk!r}, which does not contain its layer {old[0].name}; "
                        f"it has {trunk_of(network)!r}")  # fmt: skip
    heads = {}
    for name in HEADS:
        head = network.heads[name]
        weights = np.zeros((1, 1, width, head.out_channels), np.float32)
        weights[:, :, :kept] = head.weights
        heads[name] = replace(head, weights=weights)
    return replace(network, trunk=tuple(layers), heads=heads)


def _holds(plan: LayerPlan, layer: Conv) -> bool:
    same = (plan.kind, plan.kernel, plan.stride) == (layer.kind, layer.kernel, layer.stride)
    return same and plan.channels >= layer.out_channels


def _identity(plan: LayerPlan, channels: int) -> Floats:
    middle = plan.kernel // 2
    if plan.kind == "depthwise":
        weights = np.zeros((plan.kernel, plan.kernel, channels, 1), np.float32)
        weights[middle, middle] = 1
    else:
        weights = np.zeros((plan.kernel, plan.kernel, channels, channels), np.float32)
        weights[middle, middle] = np.eye(channels)
    return weights


def _widened(plan: LayerPlan, weights: Floats, bias: Floats, width: int, rng: np.random.Generator) -> Conv:
    """The layer with `width` input channels and the plan's output channels; old outputs read only old inputs."""
    deep = plan.kind == "depthwise"
    shape = (plan.kernel, plan.kernel, width, 1 if deep else plan.channels)
    fan_in = plan.kernel**2 * (1 if deep else width)
    wider = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    if not deep:
        wider[..., : weights.shape[3]] = 0
    wider[:, :, : weights.shape[2], : weights.shape[3]] = weights
    offsets = np.zeros(plan.channels, np.float32)
    offsets[: len(bias)] = bias
    return Conv(plan.name, plan.kind, wider, offsets, plan.stride)
