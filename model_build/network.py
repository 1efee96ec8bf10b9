"""A PoseNet as a chain of convolutions with four heads. Every importer makes one, and the build begins with it.

Papers: PersonLab (arXiv 1803.08225), MobileNet v1 (arXiv 1704.04861). Input normalisation is always
(x − 128) / 128, where x is the camera's byte; tensors are NHWC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from common.arrays import Floats
from common.errors import FormatError
from common.skeleton import EDGES, KEYPOINTS

HEADS: tuple[str, ...] = ("heatmap", "short_offset", "displacement_fwd", "displacement_bwd")
"""The four outputs, in their fixed order."""

Activation = Literal["relu6", "relu", "linear"]
Kind = Literal["conv", "depthwise"]


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution with bias and activation.

    weights: float32, (kh, kw, in / groups, out) for "conv", (kh, kw, C, 1) for "depthwise"; bias: float32 (out,).
    A 3×3 convolution pads by one (zeros, after normalisation) on all sides, at any stride. With groups, the first
    output channels read the first input channels alone, and so on; a depthwise layer counts as one group.
    """

    name: str
    kind: Kind
    weights: Floats
    bias: Floats
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    groups: int = 1

    @property
    def kernel(self) -> int:
        """Side of the square kernel."""
        return int(self.weights.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weights.shape[2]) * self.groups

    @property
    def out_channels(self) -> int:
        return int(self.weights.shape[2] if self.kind == "depthwise" else self.weights.shape[3])


@dataclass(frozen=True, eq=False)
class Network:
    """Trunk (a chain) and four linear heads that all read the trunk's last output."""

    name: str
    trunk: tuple[Conv, ...]
    heads: dict[str, Conv]
    output_stride: int
    keypoints: tuple[str, ...] = KEYPOINTS
    edges: tuple[tuple[int, int], ...] = EDGES
    source_id: str = ""
    source_sha256: str = ""

    def layers(self) -> Iterator[Conv]:
        """Trunk layers, then heads in HEADS order."""
        yield from self.trunk
        for head in HEADS:
            yield self.heads[head]

    def renamed(self, name: str) -> Network:
        """The same network under another name."""
        return replace(self, name=name)

    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(layer.weights.size + layer.bias.size for layer in self.layers())


def head_channels(keypoint_count: int, edge_count: int) -> dict[str, int]:
    """Channels of each head: scores K, offsets y then x 2K, displacements y then x 2E in either direction."""
    return {
        "heatmap": keypoint_count,
        "short_offset": 2 * keypoint_count,
        "displacement_fwd": 2 * edge_count,
        "displacement_bwd": 2 * edge_count,
    }


def check(network: Network) -> None:
    """FormatError if the parts of a network do not fit each other."""
    channels, stride = 3, 1
    for layer in network.trunk:
        _check_layer(layer, channels)
        channels = layer.out_channels
        stride *= layer.stride
    if stride != network.output_stride:
        raise FormatError(f"strides multiply to {stride}, output stride is {network.output_stride}")
    wanted = head_channels(len(network.keypoints), len(network.edges))
    if set(network.heads) != set(HEADS):
        raise FormatError(f"the heads are {sorted(network.heads)} instead of {', '.join(HEADS)}")
    for name in HEADS:
        head = network.heads[name]
        _check_layer(head, channels)
        if head.out_channels != wanted[name]:
            raise FormatError(f"head {name} has {head.out_channels} channels instead of {wanted[name]}")
        if head.activation != "linear" or head.stride != 1:
            raise FormatError(
                f"head {name} must be linear with stride 1, but has the activation {head.activation} and stride "
                f"{head.stride}"
            )
    for parent, child in network.edges:
        if not (0 <= parent < len(network.keypoints) and 0 <= child < len(network.keypoints)):
            raise FormatError(
                f"edge {parent}–{child} names a keypoint that does not exist (the network has {len(network.keypoints)})"
            )


def _check_layer(layer: Conv, in_channels: int) -> None:
    shape = layer.weights.shape
    if len(shape) != 4 or shape[0] != shape[1] or shape[0] not in (1, 3):
        raise FormatError(f"layer {layer.name}: weights {shape}; kernels can be 1×1 or 3×3")
    if layer.kind == "depthwise" and (shape[3] != 1 or shape[0] != 3):
        raise FormatError(f"layer {layer.name}: depthwise weights {shape}; they must be (3, 3, C, 1)")
    if layer.groups < 1 or layer.out_channels % layer.groups or (layer.groups > 1 and layer.kind == "depthwise"):
        raise FormatError(f"layer {layer.name}: {layer.out_channels} channels in {layer.groups} groups")
    if layer.in_channels != in_channels:
        raise FormatError(f"layer {layer.name} takes {layer.in_channels} channels and gets {in_channels}")
    if layer.bias.shape != (layer.out_channels,):
        raise FormatError(f"layer {layer.name}: {layer.bias.shape} biases for {layer.out_channels} channels")
    if layer.stride not in (1, 2) or layer.dilation < 1:
        raise FormatError(f"layer {layer.name}: stride {layer.stride}, dilation {layer.dilation}")
    if not (np.isfinite(layer.weights).all() and np.isfinite(layer.bias).all()):
        raise FormatError(f"layer {layer.name} holds weights that are not finite")
