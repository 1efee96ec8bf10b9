"""TensorFlow graphs (GraphDef nodes, from .pb or from tfjs JSON) in the importer's kinds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers import operators, protobuf
from model_build.importers.graph import Graph, Op

MAX_VALUES = 1 << 26
"""No tensor of a PoseNet has more values; a damaged shape must not ask for all memory."""

_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", 17: "<u2", 19: "<f2",
}  # fmt: skip
"""NumPy's name of each DataType; tensors of other types are kept without a value."""


@dataclass
class GraphNode:
    """A NodeDef. Attributes as Python values: numbers, bytes, lists; `shape` as a list with None for unknown."""

    name: str
    op: str
    inputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    value: Numbers | None = None
    """The value of a Const node, None for others."""


def read(data: bytes, what: str) -> list[GraphNode]:
    """Nodes of a serialized GraphDef; FormatError if it is damaged or none."""
    nodes: list[GraphNode] = []
    for number, wire, _, payload in protobuf.fields(memoryview(data), what):
        if number == 1 and wire == protobuf.BYTES:
            nodes.append(_node(payload, f"{what}: node {len(nodes)}"))
    if not nodes or not any(node.op for node in nodes):
        raise FormatError(f"{what} holds no graph; a frozen TensorFlow graph (.pb) is wanted")
    return nodes


def _node(data: memoryview, what: str) -> GraphNode:
    node = GraphNode("", "", [])
    for number, wire, _, payload in protobuf.fields(data, what):
        if wire != protobuf.BYTES:
            continue
        if number == 1:
            node.name = protobuf.text(payload)
        elif number == 2:
            node.op = protobuf.text(payload)
        elif number == 3:
            node.inputs.append(protobuf.text(payload))
        elif number == 5:
            key, value = "", memoryview(b"")
            for entry_number, entry_wire, _, entry in protobuf.fields(payload, what):
                if entry_number == 1 and entry_wire == protobuf.BYTES:
                    key = protobuf.text(entry)
                elif entry_number == 2 and entry_wire == protobuf.BYTES:
                    value = entry
            node.attributes[key] = _attribute(value, f"{what} ({node.name}): {key}")
    if node.op == "Const":
        value_of_node = node.attributes.get("value")
        node.value = value_of_node if isinstance(value_of_node, np.ndarray) else None
    return node


def _attribute(data: memoryview, what: str) -> Any:
    for number, wire, value, payload in protobuf.fields(data, what):
        if number == 1 and wire == protobuf.BYTES:
            return _list(payload, what)
        if number == 2 and wire == protobuf.BYTES:
            return bytes(payload)
        if number in (3, 6):
            return protobuf.signed(value)
        if number == 4:
            return protobuf.float32(value)
        if number == 5:
            return bool(value)
        if number == 7 and wire == protobuf.BYTES:
            return _shape(payload, what)
        if number == 8 and wire == protobuf.BYTES:
            return _tensor(payload, what)
    return None


def _list(data: memoryview, what: str) -> list[Any]:
    items: list[Any] = []
    for number, wire, value, payload in protobuf.fields(data, what):
        if number == 2 and wire == protobuf.BYTES:
            items.append(bytes(payload))
        elif number in (3, 6):
            items += protobuf.integers(wire, value, payload, what)
        elif number == 4:
            items += protobuf.floats(wire, payload, what).tolist()
    return items


def _shape(data: memoryview, what: str) -> list[int | None]:
    sides: list[int | None] = []
    for number, wire, _, payload in protobuf.fields(data, what):
        if number == 2 and wire == protobuf.BYTES:
            size = 0
            for dim_number, _, value, _ in protobuf.fields(payload, what):
                if dim_number == 1:
                    size = protobuf.signed(value)
            sides.append(size if size >= 0 else None)
    return sides


def _tensor(data: memoryview, what: str) -> Numbers | None:
    dtype, shape, content = 0, [], b""
    values: list[Numbers] = []
    for number, wire, value, payload in protobuf.fields(data, what):
        if number == 1:
            dtype = value
        elif number == 2 and wire == protobuf.BYTES:
            shape = [side or 0 for side in _shape(payload, what)]
        elif number == 4 and wire == protobuf.BYTES:
            content = bytes(payload)
        elif number == 5:
            values.append(protobuf.floats(wire, payload, what))
        elif number in (7, 10):
            values.append(np.asarray(protobuf.integers(wire, value, payload, what), np.int64))
    if dtype not in _DTYPES:
        return None
    kind = np.dtype(_DTYPES[dtype])
    count = math.prod(shape)
    if count > MAX_VALUES:
        raise FormatError(f"{what}: a tensor of shape {shape}; the file is damaged")
    if content:
        if len(content) != count * kind.itemsize:
            raise FormatError(f"{what}: {len(content)} bytes for a tensor {shape} of {kind}; the file is damaged")
        return np.frombuffer(content, kind).reshape(shape)
    listed = np.concatenate(values) if values else np.zeros(0)
    # A list that is too short stands for its last value repeated (tensor.proto).
    if listed.size > count:
        raise FormatError(f"{what}: {listed.size} values for a tensor {shape}; the file is damaged")
    if listed.size < count:
        filler = listed[-1] if listed.size else 0
        listed = np.concatenate([listed, np.full(count - listed.size, filler)])
    with np.errstate(all="ignore"):
        return listed.astype(kind).reshape(shape)


def to_graph(nodes: list[GraphNode], source_id: str, input_size: tuple[int, int] | None = None) -> Graph:
    """Graph of nodes; constants are found behind Identity too."""
    constants = {node.name: node.value for node in nodes if node.value is not None}
    for _ in range(2):
        for node in nodes:
            if node.op in ("Identity", "Cast") and node.inputs and _plain(node.inputs[0]) in constants:
                constants.setdefault(node.name, constants[_plain(node.inputs[0])])
    ops: list[Op] = []
    inputs = []
    for node in nodes:
        if node.op in ("Placeholder", "PlaceholderWithDefault"):
            inputs.append(node.name)
            shape = node.attributes.get("shape")
            if isinstance(shape, list) and len(shape) == 4 and shape[1] and shape[2] and input_size is None:
                input_size = (shape[2], shape[1])
        elif node.name not in constants and node.op not in ("Const", "NoOp"):
            ops += _ops(node, constants, source_id)
    consumed = {tensor for op in ops for tensor in op.inputs}
    inputs = [name for name in inputs if name in consumed]
    outputs = [tensor for op in ops for tensor in op.outputs if tensor not in consumed]
    return Graph(ops, inputs, outputs, input_size)


def _plain(tensor: str) -> str:
    """`name:0` and `name` are the same tensor."""
    return tensor[:-2] if tensor.endswith(":0") else tensor


def _ops(node: GraphNode, constants: dict[str, Numbers], source_id: str) -> list[Op]:
    tensors = [_plain(tensor) for tensor in node.inputs if not tensor.startswith("^")]
    computed = [tensor for tensor in tensors if tensor not in constants]
    values = [constants[tensor] for tensor in tensors if tensor in constants]
    op = Op("other", node.name, computed, [node.name])
    if "Conv2" in node.op and "Backprop" not in node.op:
        _convolution(node, op, tensors, constants, source_id)
    elif node.op.startswith("FusedBatchNorm") and len(computed) == 1 and len(values) == 4:
        return _batch_norm(node, computed, values, source_id)
    else:
        readers = [partial(_numbers, value, node, source_id) for value in values]
        operators.translate(node.op, op, readers, constant_first=bool(tensors) and tensors[0] in constants)
    return [op]


def _batch_norm(node: GraphNode, computed: list[str], values: list[Numbers], source_id: str) -> list[Op]:
    """(x − mean) · gamma / √(variance + epsilon) + beta, as a scale and a bias."""
    gamma, beta, mean, variance = (_numbers(value, node, source_id).astype(np.float64) for value in values)
    if len({value.size for value in (gamma, beta, mean, variance)}) != 1:
        raise FormatError(f"{source_id}: batch norm {node.name} has constants of different lengths")
    given = node.attributes.get("epsilon")
    epsilon = float(given) if isinstance(given, int | float) else 1e-4
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + epsilon)
        addend = beta - mean * factor
    between = node.name + "/scaled"
    return [
        Op("scale", node.name, computed, [between], {"value": factor}),
        Op("bias", node.name, [between], [node.name], {"value": addend}),
    ]


def _convolution(node: GraphNode, op: Op, tensors: list[str], constants: dict[str, Numbers], source_id: str) -> None:
    attributes = node.attributes
    if attributes.get("data_format", b"NHWC") not in (b"NHWC", "NHWC"):
        raise FormatError(f"{source_id}: {node.name} is {attributes['data_format']!r}; only NHWC can be read")
    if len(tensors) < 2 or tensors[1] not in constants or np.ndim(constants[tensors[1]]) != 4:
        raise FormatError(f"{source_id}: {node.name} has no constant 4-D weights; freeze the graph first")
    weights = _numbers(constants[tensors[1]], node, source_id)
    op.kind = operators.depthwise_or_conv(weights, "Depthwise" in node.op, f"{source_id}: {node.name}")
    padding = attributes.get("padding", b"SAME")
    op.inputs = tensors[:1]
    op.attributes = {
        "weights": weights,
        "bias": None,
        "padding": padding.decode("ascii", "replace") if isinstance(padding, bytes) else str(padding),
        "stride": _four(attributes.get("strides"), node, source_id)[1:3],
        "dilation": _dilation(node, source_id),
        "activation": "linear",
        "names": [tensors[1]],
    }
    if op.attributes["padding"] == "EXPLICIT":
        pads = attributes.get("explicit_paddings") or []
        if len(pads) != 8 or not all(type(pad) is int for pad in pads):
            raise FormatError(f"{source_id}: {node.name} has the explicit paddings {pads}")
        op.attributes["padding"] = tuple(pads[2:6])
    _fused(node, op, tensors[2:], constants, source_id)


def _fused(node: GraphNode, op: Op, extra: list[str], constants: dict[str, Numbers], source_id: str) -> None:
    for name in node.attributes.get("fused_ops") or []:
        step = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
        if step == "BiasAdd" and extra and extra[0] in constants:
            op.attributes["bias"] = _numbers(constants[extra[0]], node, source_id)
            op.attributes["names"].append(extra[0])
        elif step in ("Relu", "Relu6"):
            op.attributes["activation"] = step.lower()
        else:
            raise FormatError(f"{source_id}: {node.name} is fused with {step}, which this program does not know")


def _dilation(node: GraphNode, source_id: str) -> int:
    """Of height and width, which must agree.

    tfjs's published PoseNets of stride 8, and 1.00 of stride 16, have them in the wrong places, [2, 2, 1, 1]: a
    dilation of batch and channels, which nothing has.
    """
    dilations = _four(node.attributes.get("dilations") or [1, 1, 1, 1], node, source_id)
    misplaced = dilations[2:] == [1, 1]
    spatial = dilations[:2] if misplaced else dilations[1:3]
    others = dilations[2:] if misplaced else [dilations[0], dilations[3]]
    if spatial[0] != spatial[1] or others != [1, 1]:
        raise FormatError(f"{source_id}: {node.name} is dilated by {dilations}; both sides must agree")
    return spatial[0]


def _four(value: Any, node: GraphNode, source_id: str) -> list[int]:
    if not isinstance(value, list) or len(value) != 4 or not all(type(item) is int and 0 < item < 64 for item in value):
        raise FormatError(f"{source_id}: {node.name} has strides or dilations {value!r:.60}; four numbers are wanted")
    return value


def _numbers(value: Numbers, node: GraphNode, source_id: str) -> Numbers:
    if value.dtype.kind not in "fiu":
        raise FormatError(f"{source_id}: {node.name} has constants of type {value.dtype}")
    return value.astype(np.float32)
