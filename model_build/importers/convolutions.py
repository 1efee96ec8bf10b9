"""Convolutions of a graph with what belongs to them folded in: padding before, bias, scale and activation behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers.graph import Graph, Op
from model_build.network import Activation, Conv

_ACTIVATIONS: dict[str, Activation] = {"linear": "linear", "relu": "relu", "relu6": "relu6"}


@dataclass
class Unit:
    """A convolution with what follows it folded in."""

    conv: Conv
    padding: str | tuple[int, int, int, int]
    """The padding: SAME, VALID, or a number of zeros (top, bottom, left, right)."""
    source: str
    """The tensor that it reads, before padding."""
    result: str
    names: list[str]
    """The names in the file of the convolution and its tensors."""


@dataclass
class _Folding:
    """A convolution while operators around it are being folded in."""

    op: Op
    weights: Numbers
    bias: Numbers
    activation: str
    padding: str | tuple[int, int, int, int]
    dilation: int
    source: str
    result: str
    names: list[str]

    @property
    def channels(self) -> int:
        return int(self.bias.size)


def fold_convolutions(graph: Graph, source_id: str) -> list[Unit]:
    """All convolutions of a graph in order; FormatError if there is none, or one that cannot be built."""
    units = []
    for op in graph.ops:
        if op.kind in ("conv", "depthwise"):
            folding = _begin(op, source_id)
            _take_what_precedes(folding, graph)
            _fold_what_follows(folding, graph, source_id)
            units.append(_finish(folding, source_id))
    if not units:
        raise FormatError(f"{source_id} holds no convolution; it is no PoseNet")
    return units


def _begin(op: Op, source_id: str) -> _Folding:
    if len(op.inputs) != 1 or len(op.outputs) != 1 or "weights" not in op.attributes:
        raise FormatError(f"{source_id}: convolution {op.name} has no constant weights")
    weights = np.asarray(op.attributes["weights"], np.float32)
    if weights.ndim != 4:
        raise FormatError(f"{source_id}: weights of {op.name} have the shape {weights.shape}")
    channels = weights.shape[2] if op.kind == "depthwise" else weights.shape[3]
    given = op.attributes.get("bias")
    bias = np.zeros(channels, np.float32) if given is None else _per_channel(given, channels, op, source_id)
    return _Folding(
        op=op,
        weights=weights,
        bias=bias,
        activation=op.attributes.get("activation", "linear"),
        padding=op.attributes.get("padding", "SAME"),
        dilation=int(op.attributes.get("dilation", 1)),
        source=op.inputs[0],
        result=op.outputs[0],
        names=[op.name, *op.outputs],
    )


def _take_what_precedes(folding: _Folding, graph: Graph) -> None:
    """Explicit padding and the entrance to SpaceToBatch form belong to the convolution."""
    for _ in graph.ops:  # No more often than that, since a damaged graph may be a loop.
        before = graph.producers.get(folding.source)
        if before is None or before.kind not in ("pad", "dilate", "pass") or not before.inputs:
            break
        if before.kind == "pad":
            folding.padding = before.attributes["pads"]
        elif before.kind == "dilate":
            folding.dilation, folding.padding = before.attributes["block"], "SAME"
        folding.source = before.inputs[0]


def _fold_what_follows(folding: _Folding, graph: Graph, source_id: str) -> None:
    """Fold in the operators that act on each channel, up to and including an activation."""
    for _ in graph.ops:
        readers = graph.consumers[folding.result]
        if folding.activation != "linear" or len(readers) != 1 or folding.result in graph.outputs:
            break
        after = readers[0]
        if after.kind == "bias":
            folding.bias = folding.bias + _per_channel(after.attributes["value"], folding.channels, after, source_id)
        elif after.kind == "scale":
            factor = _per_channel(after.attributes["value"], folding.channels, after, source_id)
            folding.weights = folding.weights * (factor[:, None] if folding.op.kind == "depthwise" else factor)
            folding.bias = folding.bias * factor
        elif after.kind not in ("activation", "dilate"):
            break
        folding.activation = after.attributes.get("activation", folding.activation)
        folding.result = after.outputs[0]
        folding.names += [after.name, *after.outputs]


def _finish(folding: _Folding, source_id: str) -> Unit:
    op = folding.op
    activation = _ACTIVATIONS.get(folding.activation)
    if activation is None:
        raise FormatError(
            f"{source_id}: {op.name} has the activation {folding.activation}; relu6, relu or none can be built"
        )
    stride = list(op.attributes.get("stride", [1, 1]))
    if stride not in ([1, 1], [2, 2]):
        raise FormatError(f"{source_id}: {op.name} has the stride {stride}; 1 and 2 can be built")
    conv = Conv(
        name=op.name,
        kind="conv" if op.kind == "conv" else "depthwise",
        weights=np.ascontiguousarray(folding.weights),
        bias=np.asarray(folding.bias, np.float32),
        stride=int(stride[0]),
        dilation=folding.dilation,
        activation=activation,
    )
    names = folding.names + op.attributes.get("names", [])
    return Unit(conv, folding.padding, folding.source, folding.result, names)


def picture_tensor(graph: Graph, source_id: str) -> str:
    """The tensor that the first convolution reads: the input, or what scalar arithmetic makes of it.

    That arithmetic must map bytes to about [−1, 1]. The tensor is named before any operator that passes it on: so
    are the convolutions' sources.
    """
    if len(graph.inputs) != 1:
        raise FormatError(f"{source_id} has {len(graph.inputs)} inputs; a PoseNet has one, the picture")
    tensor = start = graph.inputs[0]
    scale, offset, seen = 1.0, 0.0, False
    for _ in graph.ops:
        readers = graph.consumers[tensor]
        if len(readers) != 1 or readers[0].kind not in ("normalise", "pass"):
            break
        op = readers[0]
        tensor = op.outputs[0]
        if op.kind == "normalise":
            factor, addend = op.attributes["factor"], op.attributes["addend"]
            scale, offset, seen = scale * factor, offset * factor + addend, True
            start = tensor
    if seen and not (abs(offset + 1) < 0.02 and abs(scale * 255 - 2) < 0.04):
        raise FormatError(
            f"{source_id} normalises pixels to {offset:.4g}…{offset + 255 * scale:.4g}; only −1…1 can be built"
        )
    return start


def _per_channel(value: Any, channels: int, op: Op, source_id: str) -> Numbers:
    array = np.asarray(value, np.float32).reshape(-1)
    if array.size == 1:
        return np.full(channels, array[0], np.float32)
    if array.size != channels:
        raise FormatError(f"{source_id}: {op.name} has {array.size} values for {channels} channels")
    return array
