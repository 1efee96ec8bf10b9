"""Folds into each convolution what belongs to it: the padding before it; bias, scale and activation after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers.graph import Affine, Convolution, Dilate, Graph, Op, Pad, Padding, Pass, Rectify
from model_build.network import Activation, Conv

_ACTIVATIONS: dict[str, Activation] = {"linear": "linear", "relu": "relu", "relu6": "relu6"}


@dataclass
class Unit:
    """A convolution with its neighbouring operators folded in."""

    conv: Conv
    padding: Padding
    source: str
    """The tensor that it reads, before padding."""
    result: str
    names: list[str]
    """The names in the file of the convolution, of what was folded in, and of its constants, in this order."""


def fold_convolutions(graph: Graph) -> list[Unit]:
    """All convolutions of a graph in order; FormatError if there is none, or one that cannot be built."""
    units = [_unit(op, op.meaning, graph) for op in graph.ops if isinstance(op.meaning, Convolution)]
    if not units:
        raise FormatError("it holds no convolution, so it is not a PoseNet")
    return units


def _unit(op: Op, convolution: Convolution, graph: Graph) -> Unit:
    unit = _alone(op, convolution)
    _take_what_precedes(unit, graph)
    _fold_what_follows(unit, graph)
    unit.conv = replace(unit.conv, weights=np.ascontiguousarray(unit.conv.weights))
    unit.names += convolution.names
    return unit


def _alone(op: Op, made: Convolution) -> Unit:
    """A convolution before anything is folded in; FormatError if the KPU cannot compute it."""
    weights = np.asarray(made.weights, np.float32)
    if len(op.inputs) != 1 or len(op.outputs) != 1:
        raise FormatError(f"convolution {op.name} has {len(op.inputs)} computed inputs and {len(op.outputs)} results")
    if weights.ndim != 4:
        raise FormatError(f"weights of {op.name} have the shape {weights.shape}; they must have four dimensions")
    if made.kind == "depthwise" and weights.shape[3] != 1:
        raise FormatError(
            f"{op.name} has depthwise weights of shape {weights.shape}; only one result per channel can be built"
        )
    if list(made.stride) not in ([1, 1], [2, 2]):
        raise FormatError(f"{op.name} has the stride {list(made.stride)}; only 1 and 2 can be built")
    if made.dilation[0] != made.dilation[1]:
        raise FormatError(f"{op.name} is dilated by {list(made.dilation)}; height and width must agree")
    channels = weights.shape[2 if made.kind == "depthwise" else 3]
    conv = Conv(
        name=op.name,
        kind=made.kind,
        weights=weights,
        bias=np.zeros(channels, np.float32) if made.bias is None else _per_channel(made.bias, channels, op),
        stride=made.stride[0],
        dilation=made.dilation[0],
        activation=_activation(made.activation, op),
    )
    return Unit(conv, made.padding, op.inputs[0], op.outputs[0], [op.name, *op.outputs])


def _take_what_precedes(unit: Unit, graph: Graph) -> None:
    """Explicit padding and the entrance to SpaceToBatch form belong to the convolution."""
    for _ in graph.ops:  # The loop is bounded, because a damaged graph may be a cycle.
        before = graph.producers.get(unit.source)
        if before is None or not before.inputs:
            return
        match before.meaning:
            case Pad(zeros):
                unit.padding = zeros
            case Dilate(block):
                unit.conv, unit.padding = replace(unit.conv, dilation=block), "SAME"
            case Pass():
                pass
            case _:
                return
        unit.source = before.inputs[0]


def _fold_what_follows(unit: Unit, graph: Graph) -> None:
    """Fold in the operators that act on each channel, up to and including an activation."""
    for _ in graph.ops:
        readers = graph.consumers[unit.result]
        if unit.conv.activation != "linear" or len(readers) != 1 or unit.result in graph.outputs:
            return
        after = readers[0]
        match after.meaning:
            case Affine():
                unit.conv = _with_affine(unit.conv, after, after.meaning)
            case Rectify(activation):
                unit.conv = replace(unit.conv, activation=_activation(activation, after))
            case Dilate():
                pass
            case _:
                return
        unit.result = after.outputs[0]
        unit.names += [after.name, *after.outputs]


def _with_affine(conv: Conv, op: Op, affine: Affine) -> Conv:
    """(w · x + b) · f + a = (w · f) · x + (b · f + a), for each channel."""
    factor = _per_channel(affine.factor, conv.out_channels, op)
    return replace(
        conv,
        weights=conv.weights * (factor[:, None] if conv.kind == "depthwise" else factor),
        bias=conv.bias * factor + _per_channel(affine.addend, conv.out_channels, op),
        activation=_activation(affine.activation, op),
    )


def _activation(name: str, op: Op) -> Activation:
    if name not in _ACTIVATIONS:
        raise FormatError(f"{op.name} has the activation {name}; only relu6, relu or none can be built")
    return _ACTIVATIONS[name]


def _per_channel(values: Numbers, channels: int, op: Op) -> Numbers:
    """One float32 for each channel, from as many values or from one for all."""
    array = np.asarray(values, np.float32).reshape(-1)
    if array.size not in (1, channels):
        raise FormatError(f"{op.name} has {array.size} values for {channels} channels")
    return np.broadcast_to(array, channels)


def picture_tensor(graph: Graph) -> str:
    """The tensor that the first convolution reads: the input, or the result of scalar arithmetic on it.

    That arithmetic must map bytes to about [−1, 1]. If operators only pass the tensor on, its first name is returned;
    the sources of convolutions are named in the same way.
    """
    if len(graph.inputs) != 1:
        raise FormatError(f"it has {len(graph.inputs)} inputs; a PoseNet has one input, the picture")
    tensor = start = graph.inputs[0]
    scale, offset = 1.0, 0.0
    for _ in graph.ops:
        readers = graph.consumers[tensor]
        if len(readers) != 1:
            break
        match readers[0].meaning:
            case Pass():
                tensor = readers[0].outputs[0]
            case Affine(factor, addend, "linear") if factor.size == addend.size == 1:
                scale, offset = scale * factor.item(), offset * factor.item() + addend.item()
                tensor = start = readers[0].outputs[0]
            case _:
                break
    if start != graph.inputs[0] and not (abs(offset + 1) < 0.02 and abs(scale * 255 - 2) < 0.04):
        raise FormatError(f"it normalises pixels to {offset:.4g}…{offset + 255 * scale:.4g}; only −1…1 can be built")
    return start
