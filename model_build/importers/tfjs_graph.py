"""PoseNet's second form in TensorFlow.js: a graph model, model-stride16.json and binary shards.

Format: tfjs-converter, `GraphModel`: modelTopology is a GraphDef in protobuf's JSON form without the weights;
weightsManifest names shards and what is in them. Weights may be quantized to 2 or 1 bytes:
value = q · scale + min (tfjs-core io_utils).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError, UserError, errors_about
from common.skeleton import Skeleton
from model_build.importers import graphdef
from model_build.importers.graphdef_file import MAX_VALUES, GraphNode
from model_build.importers.json_parts import file_beside, parse
from model_build.importers.recognise import to_network
from model_build.network import Network

_DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|u1", "uint8": "|u1", "uint16": "<u2", "float16": "<f2"}

_SCALARS = ("s", "i", "f", "b", "type")
"""The fields of an AttrValue that hold one value."""


def is_graph_model(path: Path) -> bool:
    """Whether a JSON file is a tfjs graph model, damaged or not."""
    try:
        data = parse(path.read_bytes())
    except FormatError:
        return False
    return isinstance(data, dict) and ("modelTopology" in data or "weightsManifest" in data)


def load(path: Path, skeleton: Skeleton | None = None) -> Network:
    """Network of a graph model; FormatError if JSON or shards are damaged or hold no PoseNet."""
    text = path.read_bytes()
    with errors_about(path.name):
        names = shard_names(parse(text))
    shards: dict[str, bytes] = {}
    for name in names:
        try:
            shards[name] = (path.parent / name).read_bytes()
        except OSError:
            raise UserError(f"{path.parent / name}: no such file, but {path.name} names it; get all shards") from None
    return from_parts(text, shards, path.name, skeleton)


def from_parts(text: bytes, shards: dict[str, bytes], source_id: str, skeleton: Skeleton | None = None) -> Network:
    """Network from the JSON text and its shards by name."""
    digest = hashlib.sha256(text + b"".join(shards[name] for name in sorted(shards)))
    with errors_about(source_id):
        data = parse(text)
        graph = graphdef.to_graph(read_nodes(data, read_weights(data, shards)))
        return to_network(graph, Path(source_id).stem, source_id, digest.hexdigest(), skeleton)


# The functions below do not name the file in their errors (see common.errors.errors_about).


def shard_names(data: Any) -> list[str]:
    """Names of the binary files; FormatError for names that lead out of the folder."""
    return [file_beside(name) for group in _groups(data) for name in group["paths"]]


@dataclass(frozen=True)
class WeightEntry:
    """One entry of the weights manifest: name, shape, type in the shards, and (scale, min) if quantized."""

    name: str
    shape: tuple[int, ...]
    stored: str
    quantization: tuple[float, float] | None

    @property
    def kind(self) -> np.dtype[Any]:
        return np.dtype(_DTYPES[self.stored])

    @property
    def size_bytes(self) -> int:
        """The number of bytes that it takes in the shards."""
        return math.prod(self.shape) * self.kind.itemsize

    def values(self, content: bytes, offset: int) -> Numbers:
        """Its values from the shards' bytes: float32, dequantized; int32 and bool stay as they are."""
        values = np.frombuffer(content, self.kind, math.prod(self.shape), offset).reshape(self.shape)
        if self.quantization is not None:
            scale, low = self.quantization
            return (values.astype(np.float64) * scale + low).astype(np.float32)
        return values.astype(np.float32) if self.stored == "float16" else values


def weight_entries(data: Any) -> list[WeightEntry]:
    """All entries of the weights manifest in order; FormatError for an entry that cannot be read."""
    groups = _groups(data)
    return [_entry(entry) for group in groups for entry in _typed(group, "weights", list)]


def _entry(entry: Any) -> WeightEntry:
    if not isinstance(entry, dict):
        raise FormatError(f"a weight is {entry!r:.60}, not an object")
    name, shape = _typed(entry, "name", str), _typed(entry, "shape", list)
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) > MAX_VALUES:
        raise FormatError(f"{name:.60} has the shape {shape!r:.60}")
    quantization = entry.get("quantization")
    stored = quantization.get("dtype") if isinstance(quantization, dict) else entry.get("dtype")
    if not isinstance(stored, str) or stored not in _DTYPES:
        raise FormatError(f"{name:.60} is stored as {stored!r:.40}; known types: {', '.join(_DTYPES)}")
    step = None
    if isinstance(quantization, dict) and stored in ("uint8", "uint16"):
        scale, low = quantization.get("scale"), quantization.get("min")
        if not (_is_number(scale) and _is_number(low)):
            raise FormatError(f"{name:.60} is quantized with scale {scale!r:.40}, min {low!r:.40}")
        step = (scale, low)
    return WeightEntry(name, tuple(shape), stored, step)


def read_weights(data: Any, shards: dict[str, bytes]) -> dict[str, Numbers]:
    """Weights by name, float32 (int32 and bool as they are), dequantized."""
    weights: dict[str, Numbers] = {}
    for group in _groups(data):
        content = b"".join(shards.get(name, b"") for name in group["paths"] if isinstance(name, str))
        offset = 0
        for item in _typed(group, "weights", list):
            entry = _entry(item)
            if offset + entry.size_bytes > len(content):
                raise FormatError(
                    f"{entry.name:.60} ends at byte {offset + entry.size_bytes} of its shards, which have "
                    f"{len(content)}; a shard is missing or truncated"
                )
            weights[entry.name] = entry.values(content, offset)
            offset += entry.size_bytes
        if offset != len(content):
            raise FormatError(f"the shards hold {len(content)} bytes, but the weights fill {offset}")
    return weights


def read_nodes(data: Any, weights: dict[str, Numbers]) -> list[GraphNode]:
    """GraphDef nodes from modelTopology, constants filled from the weights."""
    topology = _typed(data, "modelTopology", dict)
    nodes = []
    for item in _typed(topology, "node", list):
        if not isinstance(item, dict):
            raise FormatError(f"a node is {item!r:.60}, not an object")
        inputs = item.get("input", [])
        attributes = item.get("attr", {})
        name, op = item.get("name"), item.get("op")
        if not (isinstance(name, str) and isinstance(op, str) and isinstance(inputs, list)
                and all(isinstance(tensor, str) for tensor in inputs) and isinstance(attributes, dict)):  # fmt: skip
            raise FormatError(f"node {name!r:.60} lacks name, op, input or attr")
        decoded = {key: _attribute(value) for key, value in attributes.items()}
        node = GraphNode(name, op, list(inputs), decoded)
        if op == "Const":
            node.value = weights.get(name)
        nodes.append(node)
    return nodes


def _attribute(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    if "list" in value:
        items = value["list"] if isinstance(value["list"], dict) else {}
        key = next((key for key in _SCALARS if isinstance(items.get(key), list)), None)
        return [_scalar(key, item) for item in items[key]] if key else []
    if "shape" in value:
        dims = value["shape"].get("dim") if isinstance(value["shape"], dict) else None
        sizes = [dim.get("size", 0) if isinstance(dim, dict) else 0 for dim in (dims if isinstance(dims, list) else [])]
        return [side if side > 0 else None for side in (_scalar("i", size) for size in sizes)]
    return next((_scalar(key, value[key]) for key in _SCALARS if key in value), None)


def _scalar(key: str, value: Any) -> Any:
    """A value of protobuf's JSON form: integers may be text, bytes are base64."""
    try:
        if key == "i":
            return int(value)
        if key == "f":
            return float(value)
        if key == "s" and isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, OverflowError, binascii.Error):
        raise FormatError(f"the attribute value {value!r:.60} is not a valid {key}") from None
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e30


def _groups(data: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = _typed(data, "weightsManifest", list)
    for group in groups:
        _typed(group, "paths", list)
    return groups


def _typed(data: Any, name: str, kind: type) -> Any:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise FormatError(f"{name} is missing or not a {kind.__name__}; this is not a tfjs graph model")
    return value
