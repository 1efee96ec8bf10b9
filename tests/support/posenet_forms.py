"""Small PoseNets, and writers of the forms that the importers read. They share no code with the importers."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Floats, Numbers
from common.skeleton import EDGES, KEYPOINTS
from model_build.network import HEADS, Activation, Conv, Kind, Network

Node = dict[str, Any]
"""A node of a TensorFlow graph: name, op, input, attr."""
TFJS_HEADS = ("heatmap_2", "offset_2", "displacement_fwd_2", "displacement_bwd_2")


def tiny_posenet(seed: int = 0, width: int = 4, blocks: tuple[int, ...] = (2, 2, 2, 2), keypoints: int = 17) -> Network:
    """A random PoseNet: one convolution, then depthwise and 1×1 blocks of the given strides after the first."""
    rng = np.random.default_rng(seed)

    def conv(
        name: str, kind: Kind, kernel: int, inputs: int, outputs: int, stride: int, activation: Activation
    ) -> Conv:
        shape = (kernel, kernel, inputs, 1 if kind == "depthwise" else outputs)
        fan_in = kernel * kernel * (1 if kind == "depthwise" else inputs)
        weights = rng.normal(0, 1.6 / np.sqrt(fan_in), shape).astype(np.float32)
        bias = rng.normal(0.3, 0.3, inputs if kind == "depthwise" else outputs).astype(np.float32)
        return Conv(name, kind, weights, bias, stride, 1, activation)

    trunk = [conv("Conv2d_0", "conv", 3, 3, width, blocks[0], "relu6")]
    channels = width
    for block, stride in enumerate(blocks[1:], 1):
        trunk.append(conv(f"Conv2d_{block}_depthwise", "depthwise", 3, channels, channels, stride, "relu6"))
        trunk.append(conv(f"Conv2d_{block}_pointwise", "conv", 1, channels, 2 * width, 1, "relu6"))
        channels = 2 * width
    edges = EDGES if keypoints == 17 else tuple((i, i + 1) for i in range(keypoints - 1))
    counts = (keypoints, 2 * keypoints, 2 * len(edges), 2 * len(edges))
    heads = {
        head: conv(head, "conv", 1, channels, count, 1, "linear") for head, count in zip(HEADS, counts, strict=True)
    }
    names = KEYPOINTS if keypoints == 17 else tuple(f"point{i}" for i in range(keypoints))
    return Network("tiny", tuple(trunk), heads, int(np.prod(blocks)), names, edges, "tiny", "0" * 64)


def at_output_stride(network: Network, output_stride: int) -> Network:
    """The network as tfjs publishes it for a finer output stride, where later strides become dilations.

    This is the rule of toOutputStridedLayers in mobilenet.ts: a layer behind the wanted stride runs at stride 1, and
    its dilation is the product of the strides that were left out before it.
    """
    reached, rate, trunk = 1, 1, []
    for layer in network.trunk:
        if layer.kernel == 1:
            trunk.append(layer)
        elif reached == output_stride:
            trunk.append(replace(layer, stride=1, dilation=rate))
            rate *= layer.stride
        else:
            trunk.append(layer)
            reached *= layer.stride
    return replace(network, trunk=tuple(trunk), output_stride=output_stride)


def assert_same_weights(a: Network, b: Network, tolerance: float = 0.0) -> None:
    """Compare kinds, strides, activations, weights and biases layer by layer."""
    layers_a, layers_b = list(a.layers()), list(b.layers())
    assert len(layers_a) == len(layers_b)
    for one, other in zip(layers_a, layers_b, strict=True):
        assert (one.kind, one.stride, one.dilation, one.activation) == (
            other.kind, other.stride, other.dilation, other.activation)  # fmt: skip
        limit = tolerance * max(np.abs(one.weights).max(), np.abs(one.bias).max())
        assert one.weights.shape == other.weights.shape
        assert np.abs(one.weights - other.weights).max() <= limit, one.name
        assert np.abs(one.bias - other.bias).max() <= limit, one.name


def write_tfjs_checkpoint(network: Network, folder: Path) -> Path:
    """Write manifest.json and one raw file for each variable."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {}

    def put(name: str, values: Floats) -> None:
        file = name.replace("/", "_")
        (folder / file).write_bytes(values.astype("<f4").tobytes())
        manifest[name] = {"filename": file, "shape": list(values.shape)}

    for layer in network.trunk:
        scope = f"MobilenetV1/{layer.name}"
        put(scope + ("/depthwise_weights" if layer.kind == "depthwise" else "/weights"), layer.weights)
        put(scope + "/biases", layer.bias)
    for head, name in zip(HEADS, TFJS_HEADS, strict=True):
        put(f"MobilenetV1/{name}/weights", network.heads[head].weights)
        put(f"MobilenetV1/{name}/biases", network.heads[head].bias)
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def nodes_of(
    network: Network, fused: bool = False, size: tuple[int, int] | None = None
) -> tuple[list[Node], dict[str, Numbers]]:
    """The network as GraphDef nodes (name, op, input, attributes in Python values) and constants by name."""
    constants: dict[str, Numbers] = {}
    shape = [1, size[1] if size else -1, size[0] if size else -1, 3]
    nodes: list[Node] = [{"name": "sub_2", "op": "Placeholder", "input": [], "attr": {"shape": shape}}]

    def add(name: str, op: str, inputs: list[str], **attributes: object) -> str:
        nodes.append({"name": name, "op": op, "input": inputs, "attr": attributes})
        return name

    def constant(name: str, values: Floats) -> str:
        constants[name] = values
        return add(name, "Const", [])

    def layer_nodes(layer: Conv, source: str, scope: str) -> str:
        weights = constant(scope + "/weights", layer.weights)
        bias = constant(scope + "/biases", layer.bias)
        op = "Conv2D" if layer.kind == "conv" else "DepthwiseConv2dNative"
        common: dict[str, object] = {"strides": [1, layer.stride, layer.stride, 1], "padding": b"SAME"}
        if layer.dilation > 1:
            # tfjs's published graphs have the dilations in these wrong places.
            common["dilations"] = [layer.dilation, layer.dilation, 1, 1]
        if fused:
            steps = [b"BiasAdd"] + ([b"Relu6"] if layer.activation == "relu6" else [])
            name = "_FusedConv2D" if layer.kind == "conv" else "FusedDepthwiseConv2dNative"
            return add(scope + "/out", name, [source, weights, bias], **common, fused_ops=steps)
        out = add(scope + "/" + op, op, [source, weights], **common)
        out = add(scope + "/BiasAdd", "BiasAdd", [out, bias])
        return add(scope + "/Relu6", "Relu6", [out]) if layer.activation == "relu6" else out

    current = "sub_2"
    for layer in network.trunk:
        current = layer_nodes(layer, current, f"MobilenetV1/{layer.name}")
    for head, name in zip(HEADS, TFJS_HEADS, strict=True):
        out = layer_nodes(network.heads[head], current, f"MobilenetV1/{name}")
        if head == "heatmap":
            add("heatmap", "Sigmoid", [out])
    return nodes, constants


def write_tfjs_graph(network: Network, folder: Path, stored: str = "float32", fused: bool = True) -> Path:
    """Write model-stride16.json and two shards; `stored` is float32, float16, uint16 or uint8."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes, constants = nodes_of(network, fused)
    content, weights = b"", []
    for name, values in constants.items():
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        if stored in ("uint8", "uint16"):
            low, high = float(values.min()), float(values.max())
            scale = (high - low) / (255 if stored == "uint8" else 65535) or 1.0
            content += np.round((values - low) / scale).astype(stored).tobytes()
            entry["quantization"] = {"dtype": stored, "scale": scale, "min": low, "original_dtype": "float32"}
        elif stored == "float16":
            content += values.astype("<f2").tobytes()
            entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        else:
            content += values.astype("<f4").tobytes()
        weights.append(entry)

    def json_attribute(value: object) -> dict[str, Any]:
        if isinstance(value, bytes):
            return {"s": base64.b64encode(value).decode()}
        assert isinstance(value, list)
        if value and isinstance(value[0], bytes):
            return {"list": {"s": [base64.b64encode(item).decode() for item in value]}}
        return {"list": {"i": [str(item) for item in value]}}

    topology = []
    for node in nodes:
        attributes = {
            key: {"shape": {"dim": [{"size": str(side)} for side in value]}}
            if key == "shape"
            else json_attribute(value)
            for key, value in node["attr"].items()
        }
        topology.append({"name": node["name"], "op": node["op"], "input": node["input"], "attr": attributes})
    half = len(content) // 2
    (folder / "group1-shard1of2.bin").write_bytes(content[:half])
    (folder / "group1-shard2of2.bin").write_bytes(content[half:])
    path = folder / "model-stride16.json"
    path.write_text(json.dumps({
        "format": "graph-model",
        "modelTopology": {"node": topology, "versions": {"producer": 1}},
        "weightsManifest": [{"paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"], "weights": weights}],
    }))  # fmt: skip
    return path


def frozen_graph(network: Network, size: tuple[int, int] | None = None, fused: bool = False) -> bytes:
    """The network as a serialized GraphDef."""
    nodes, constants = nodes_of(network, fused, size)
    return b"".join(_field(1, _node(node, constants.get(node["name"]))) for node in nodes)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _shape(sides: list[int] | tuple[int, ...]) -> bytes:
    return b"".join(_field(2, _integer(1, side)) for side in sides)


def _node(node: Node, value: Numbers | None) -> bytes:
    data = _field(1, node["name"].encode()) + _field(2, node["op"].encode())
    data += b"".join(_field(3, source.encode()) for source in node["input"])
    attributes = {key: _attribute(key, item) for key, item in node["attr"].items()}
    if value is not None:
        tensor = _integer(1, 1) + _field(2, _shape(value.shape)) + _field(4, value.astype("<f4").tobytes())
        attributes["value"] = _field(8, tensor)
    for key, payload in attributes.items():
        data += _field(5, _field(1, key.encode()) + _field(2, payload))
    return data


def _attribute(key: str, value: object) -> bytes:
    if key == "shape":
        assert isinstance(value, list)
        return _field(7, _shape(value))
    if isinstance(value, bytes):
        return _field(2, value)
    assert isinstance(value, list)
    if value and isinstance(value[0], bytes):
        return _field(1, b"".join(_field(2, item) for item in value))
    return _field(1, _field(3, b"".join(_varint(item) for item in value)))


def float_list_tensor(values: list[float], shape: tuple[int, ...]) -> bytes:
    """A TensorProto with float_val instead of tensor_content."""
    packed = struct.pack(f"<{len(values)}f", *values)
    return _integer(1, 1) + _field(2, _shape(shape)) + _field(5, packed)
