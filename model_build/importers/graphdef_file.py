"""Reads a serialized TensorFlow graph: its nodes and their attributes.

Format: graph.proto, node_def.proto, attr_value.proto, tensor.proto of tensorflow/core/framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers.protobuf import Message

MAX_VALUES = 1 << 26
"""No tensor of a PoseNet has more values; the limit keeps a damaged shape from using up all memory."""

_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", 17: "<u2", 19: "<f2",
}  # fmt: skip
"""NumPy's name of each DataType; tensors of other types are kept without a value."""


@dataclass
class GraphNode:
    """A NodeDef. Attributes are Python values: numbers, bytes, lists; `shape` is a list with None for unknown sizes."""

    name: str
    op: str
    inputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    value: Numbers | None = None
    """The value of a Const node, None for others."""


def read(data: bytes, what: str) -> list[GraphNode]:
    """Nodes of a serialized GraphDef; FormatError if it is damaged or not a GraphDef."""
    nodes = [_node(message) for message in Message(memoryview(data), what).messages(1, "node")]
    if not any(node.op for node in nodes):
        raise FormatError(f"{what} holds no graph; give a frozen TensorFlow graph (.pb)")
    return nodes


def _node(message: Message) -> GraphNode:
    node = GraphNode(message.text(1), message.text(2), message.texts(3))
    for entry in message.messages(5, f"{node.name}, attribute"):
        node.attributes[entry.text(1)] = _attribute(entry.message(2, entry.text(1)))
    value = node.attributes.get("value")
    if node.op == "Const" and isinstance(value, np.ndarray):
        node.value = value
    return node


def _attribute(message: Message) -> Any:
    """The value of whichever field the message has; None if that field is not needed here."""
    return next((_VALUES[number](message) for number in message.numbers() if number in _VALUES), None)


def _list(message: Message) -> list[Any]:
    """A list uses only the field of its type."""
    items = message.message(1, "list")
    return [*map(bytes, items.all_bytes(2)), *items.integers(3), *items.floats(4).tolist(), *items.integers(6)]


def _shape(shape: Message) -> list[int | None]:
    sizes = [side.integer(1) for side in shape.messages(2, "side")]
    return [size if size >= 0 else None for size in sizes]


def _tensor(tensor: Message) -> Numbers | None:
    dtype, content = tensor.integer(1), tensor.bytes(4)
    shape = [side or 0 for side in _shape(tensor.message(2, "shape"))]
    if dtype not in _DTYPES:
        return None
    kind = np.dtype(_DTYPES[dtype])
    count = math.prod(shape)
    if count > MAX_VALUES:
        raise FormatError(f"{tensor.what}: a tensor of shape {shape}; the file is damaged")
    if content:
        if len(content) != count * kind.itemsize:
            raise FormatError(
                f"{tensor.what}: {len(content)} bytes for a tensor {shape} of {kind}; the file is damaged"
            )
        return np.frombuffer(content, kind).reshape(shape)
    floats = tensor.floats(5)
    listed = floats if floats.size else np.array(tensor.integers(7) + tensor.integers(10), np.int64)
    if listed.size > count:
        raise FormatError(f"{tensor.what}: {listed.size} values for a tensor {shape}; the file is damaged")
    # A list that is too short stands for its last value repeated (tensor.proto).
    filler = listed[-1] if listed.size else 0
    with np.errstate(all="ignore"):
        return np.concatenate([listed, np.full(count - listed.size, filler)]).astype(kind).reshape(shape)


_VALUES: dict[int, Callable[[Message], Any]] = {
    1: _list,
    2: lambda message: bytes(message.bytes(2)),
    3: lambda message: message.integer(3),
    4: lambda message: message.float(4),
    5: lambda message: bool(message.integer(5)),
    6: lambda message: message.integer(6),
    7: lambda message: _shape(message.message(7, "shape")),
    8: lambda message: _tensor(message.message(8, "tensor")),
}
"""A reader for each field of an AttrValue; a value has one of these fields."""
