"""PoseNet in a frozen TensorFlow graph (.pb), as posenet-python writes it; and such graphs from other sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError, errors_about
from common.skeleton import Skeleton
from model_build.importers import operators
from model_build.importers.graph import Affine, Convolution, Graph, Meaning, Op, Padding
from model_build.importers.graphdef_file import GraphNode, read
from model_build.importers.recognise import to_network
from model_build.network import Network

_PLACEHOLDERS = ("Placeholder", "PlaceholderWithDefault")


def from_bytes(
    data: bytes, source_id: str, skeleton: Skeleton | None = None, input_size: tuple[int, int] | None = None
) -> Network:
    """Network from a serialized GraphDef; FormatError if it is damaged or holds no PoseNet."""
    nodes = read(data, source_id)
    with errors_about(source_id):
        graph = to_graph(nodes, input_size)
        return to_network(graph, Path(source_id).stem, source_id, hashlib.sha256(data).hexdigest(), skeleton)


def to_graph(nodes: list[GraphNode], input_size: tuple[int, int] | None = None) -> Graph:
    """The graph of these nodes; constants are also found behind Identity."""
    constants = _constants(nodes)
    placeholders = [node for node in nodes if node.op in _PLACEHOLDERS]
    for node in placeholders:
        shape = node.attributes.get("shape")
        if isinstance(shape, list) and len(shape) == 4 and shape[1] and shape[2] and input_size is None:
            input_size = (shape[2], shape[1])
    ops = [
        _op(node, constants)
        for node in nodes
        if node.name not in constants and node.op not in (*_PLACEHOLDERS, "Const", "NoOp")
    ]
    consumed = {tensor for op in ops for tensor in op.inputs}
    inputs = [node.name for node in placeholders if node.name in consumed]
    outputs = [tensor for op in ops for tensor in op.outputs if tensor not in consumed]
    return Graph(ops, inputs, outputs, input_size)


def _constants(nodes: list[GraphNode]) -> dict[str, Numbers]:
    """Constants by the names of their nodes, and of one or two Identity or Cast nodes that follow them."""
    constants = {node.name: node.value for node in nodes if node.value is not None}
    for _ in range(2):
        for node in nodes:
            if node.op in ("Identity", "Cast") and node.inputs and _plain(node.inputs[0]) in constants:
                constants.setdefault(node.name, constants[_plain(node.inputs[0])])
    return constants


def _plain(tensor: str) -> str:
    """`name:0` and `name` are the same tensor."""
    return tensor.removesuffix(":0")


def _op(node: GraphNode, constants: dict[str, Numbers]) -> Op:
    # An input ^name is not a tensor; it only tells what has to run before.
    tensors = [_plain(tensor) for tensor in node.inputs if not tensor.startswith("^")]
    computed = [tensor for tensor in tensors if tensor not in constants]
    if "Conv2" in node.op and "Backprop" not in node.op:
        return Op(node.name, computed, [node.name], _convolution(node, tensors, constants))
    operands = [partial(_numbers, constants[tensor], node) if tensor in constants else None for tensor in tensors]
    return Op(node.name, computed, [node.name], _meaning(node, operands))


def _meaning(node: GraphNode, operands: Sequence[partial[Numbers] | None]) -> Meaning | None:
    if node.op.startswith("FusedBatchNorm") and len(operands) == 5 and operands.count(None) == 1:
        return _batch_norm(node, *(constant().astype(np.float64) for constant in operands if constant is not None))
    return operators.meaning_of(node.op, operands)


def _batch_norm(node: GraphNode, gamma: Numbers, beta: Numbers, mean: Numbers, variance: Numbers) -> Affine:
    """(x − mean) · gamma / √(variance + epsilon) + beta."""
    if len({value.size for value in (gamma, beta, mean, variance)}) != 1:
        raise FormatError(f"batch norm {node.name} has constants of different lengths")
    given = node.attributes.get("epsilon")
    epsilon = float(given) if isinstance(given, int | float) else 1e-4
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + epsilon)
        return Affine(factor, beta - mean * factor)


def _convolution(node: GraphNode, tensors: list[str], constants: dict[str, Numbers]) -> Convolution:
    """A convolution, including one that TensorFlow fused with a bias and an activation."""
    if (layout := _text(node.attributes.get("data_format", "NHWC"))) != "NHWC":
        raise FormatError(f"{node.name} is {layout}; only NHWC can be read")
    if len(tensors) < 2 or tensors[1] not in constants:
        raise FormatError(f"{node.name} has no constant weights; freeze the graph first")
    bias, activation, names = None, "linear", tensors[1:2]
    for step in map(_text, _list(node, "fused_ops")):
        if step == "BiasAdd" and len(tensors) > 2 and tensors[2] in constants:
            bias = _numbers(constants[tensors[2]], node)
            names.append(tensors[2])
        elif step in ("Relu", "Relu6"):
            activation = step.lower()
        else:
            raise FormatError(f"{node.name} is fused with {step}, which this program does not know")
    return Convolution(
        weights=_numbers(constants[tensors[1]], node),
        kind="depthwise" if "Depthwise" in node.op else "conv",
        bias=bias,
        padding=_padding(node),
        stride=_four(node, "strides")[1:3],
        dilation=_dilation(node),
        activation=activation,
        names=tuple(names),
    )


def _padding(node: GraphNode) -> Padding:
    padding = _text(node.attributes.get("padding", "SAME"))
    if padding != "EXPLICIT":
        return padding
    pads = _list(node, "explicit_paddings")
    if len(pads) != 8 or not all(type(pad) is int for pad in pads):
        raise FormatError(f"{node.name} has the explicit paddings {pads}")
    _, _, top, bottom, left, right, _, _ = pads
    return top, bottom, left, right


def _dilation(node: GraphNode) -> list[int]:
    """The dilation of height and width.

    tfjs's published PoseNets of stride 8, and 1.00 of stride 16, have them in the wrong places, [2, 2, 1, 1]:
    as a dilation of batch and channels, which makes no sense.
    """
    dilations = _four(node, "dilations") if node.attributes.get("dilations") else [1, 1, 1, 1]
    misplaced = dilations[2:] == [1, 1]
    spatial, others = (dilations[:2], [1, 1]) if misplaced else (dilations[1:3], [dilations[0], dilations[3]])
    if others != [1, 1]:
        raise FormatError(f"{node.name} is dilated by {dilations}; only height and width can be")
    return spatial


def _four(node: GraphNode, key: str) -> list[int]:
    values = _list(node, key)
    if len(values) != 4 or not all(type(value) is int and 0 < value < 64 for value in values):
        raise FormatError(f"{node.name} has the {key} {values!r:.60}; it must be four numbers from 1 to 63")
    return values


def _list(node: GraphNode, key: str) -> list[Any]:
    values = node.attributes.get(key)
    return values if isinstance(values, list) else []


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _numbers(value: Numbers, node: GraphNode) -> Numbers:
    if value.dtype.kind not in "fiu":
        raise FormatError(f"{node.name} has constants of type {value.dtype}")
    return value.astype(np.float32)
