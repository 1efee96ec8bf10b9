"""Describes every form of model file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import FormatError, UserError, errors_about
from model_build.importers import (
    graphdef,
    graphdef_file,
    keras_model,
    load,
    strangers,
    tfjs_checkpoint,
    tfjs_graph,
    tflite,
    tflite_file,
)
from model_build.importers.graphdef_file import GraphNode
from model_build.importers.tflite_file import TfliteFile, TfliteOperator, TfliteTensor
from model_build.inspect import custom_ops, kmodels
from model_build.inspect.description import Description, TableOf, bytes_text, shape_text
from model_build.kpu import kmodel_v3
from model_build.network import HEADS, Network


def describe(path: Path) -> Description:
    """Describe a file or folder; FormatError if it is damaged or of an unknown form."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        return _folder(path)
    data = path.read_bytes()
    return describe_bytes(data, path.name, path)


def describe_bytes(data: bytes, name: str, path: Path | None = None) -> Description:
    """As `describe`, from bytes; forms that consist of several files need the path."""
    strangers.refuse(name, data[: strangers.HEAD_BYTES])
    if data[4:8] == tflite_file.IDENTIFIER:
        return _tflite(data, name)
    if kmodel_v3.is_kmodel(data):
        return kmodels.describe(data, name)
    if data[:2] == b"PK" and name.endswith(".kfpkg"):
        return kmodels.describe_kfpkg(data, name)
    if name.endswith(".json") and path is not None:
        return _tfjs(data, name, path)
    if name.endswith(".pb"):
        return _graphdef(data, name)
    if path is not None and name.endswith(".npz"):
        return _by_import(path, "weights trained by this project")
    if path is not None and name.endswith((".keras", ".h5", ".hdf5")):
        return _keras(path, "Keras model")
    raise FormatError(
        f"{name} begins with {data[:8]!r}; the known forms are TFLite, frozen graphs (.pb), tfjs (.json), "
        "Keras, kmodel V3, V4 and V5, kfpkg"
    )


def _quantization_text(tensor: TfliteTensor) -> tuple[str, str]:
    quantization = tensor.quantization
    if quantization is None:
        return "", ""
    if quantization.scales.size == 1:
        return f"{float(quantization.scales[0]):.6g}", str(int(quantization.zero_points[0]))
    low, high = float(quantization.scales.min()), float(quantization.scales.max())
    zeros = sorted({int(zero) for zero in quantization.zero_points})
    return (
        f"{quantization.scales.size} of {low:.3g} … {high:.3g}",
        str(zeros[0]) if len(zeros) == 1 else f"{zeros[0]} … {zeros[-1]}",
    )


def _tflite(data: bytes, name: str) -> Description:
    file = tflite_file.read(data, name)
    kinds = Counter(op.kind for op in file.operators)
    weights = [tensor for tensor in file.tensors if tensor.data is not None]
    facts: dict[str, Any] = {
        "size": bytes_text(len(data)),
        "made by": file.description or "not said",
        "operators": f"{len(file.operators)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        "tensors": f"{len(file.tensors)}, of which {len(weights)} constants",
        "weights": f"{sum(_size(tensor) for tensor in weights):,} values",
        "multiply-adds": _macs_text(_tflite_macs(file)),
    }
    if file.subgraph_count > 1:
        facts["subgraphs"] = f"{file.subgraph_count}, the first is shown"
    inputs, outputs = ([file.tensors[i] for i in given if i >= 0] for given in (file.inputs, file.outputs))
    columns = ("operator", "kind", "inputs", "outputs", "result", "options")
    return Description(
        file=name,
        form="TensorFlow Lite",
        facts=facts,
        tables=[
            _tensor_table("inputs", inputs),
            _tensor_table("outputs", outputs),
            TableOf("operators", columns, [_operator_row(op, file) for op in file.operators]),
            _tensor_table("tensors", file.tensors),
        ],
        custom_ops=[custom_ops.describe(op.kind, op.custom_options) for op in file.operators if op.is_custom],
        notes=_posenet_note(lambda: tflite.from_bytes(data, name)),
    )


def _tensor_table(title: str, tensors: Sequence[TfliteTensor]) -> TableOf:
    columns = ("tensor", "name", "shape", "type", "scale", "zero point")
    rows = [(one.index, one.name, shape_text(one.shape), one.type, *_quantization_text(one)) for one in tensors]
    return TableOf(title, columns, rows)


def _operator_row(op: TfliteOperator, file: TfliteFile) -> tuple[Any, ...]:
    result = file.tensors[op.outputs[0]] if op.outputs and op.outputs[0] >= 0 else None
    options = {key: value for key, value in op.options.items() if value not in ([1, 1], "linear", 1)}
    return (
        op.index,
        f"CUSTOM {op.kind}" if op.is_custom else op.kind,
        _indices(op.inputs),
        _indices(op.outputs),
        shape_text(result.shape) if result else "",
        ", ".join(f"{key} {_option(value)}" for key, value in options.items()),
    )


def _size(tensor: TfliteTensor) -> int:
    return int(tensor.data.size) if tensor.data is not None else 0


def _indices(indices: tuple[int, ...]) -> str:
    return ", ".join("–" if index < 0 else str(index) for index in indices)


def _option(value: Any) -> str:
    if isinstance(value, list):
        return "×".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tflite_macs(file: TfliteFile) -> int | None:
    total = 0
    for op in file.operators:
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        if len(op.inputs) < 2 or not op.outputs or op.inputs[1] < 0 or op.outputs[0] < 0:
            return None
        out, weights = file.tensors[op.outputs[0]].shape, file.tensors[op.inputs[1]].shape
        if len(out) != 4 or len(weights) != 4 or min(out) < 1:
            return None
        total += out[1] * out[2] * weights[1] * weights[2] * weights[3] * (weights[0] if op.kind == "CONV_2D" else 1)
    return total


def _macs_text(macs: int | None) -> str:
    if not macs:
        return "not known"
    return f"{macs / 1e6:,.1f} million"


def _posenet_note(load: Any) -> list[str]:
    """A note on what this program could build from the file."""
    try:
        network: Network = load()
    except UserError as error:
        return [str(error)]
    return [
        f"A PoseNet: {len(network.trunk)} trunk layers up to {network.trunk[-1].out_channels} channels, output stride "
        f"{network.output_stride}, {len(network.keypoints)} keypoints, {len(network.edges)} edges; "
        "`python -m model_build build` takes it."
    ]


def _network_tables(network: Network) -> list[TableOf]:
    rows = []
    for layer in network.layers():
        role = "head" if layer.name in HEADS or layer in network.heads.values() else "trunk"
        rows.append((
            layer.name, role, layer.kind, f"{layer.kernel}×{layer.kernel}", layer.in_channels, layer.out_channels,
            layer.stride, layer.dilation, layer.activation, layer.weights.size + layer.bias.size,
        ))  # fmt: skip
    columns = ("layer", "part", "kind", "kernel", "in", "out", "stride", "dilation", "activation", "values")
    return [TableOf("layers", columns, rows)]


def _folder(path: Path) -> Description:
    if (path / "saved_model.pb").is_file():
        return _keras(path, "SavedModel folder")
    return _by_import(path, "folder with a model")


def _bytes_on_disk(path: Path) -> int:
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts)


def _keras(path: Path, form: str) -> Description:
    """Describe any model that TensorFlow can load; a PoseNet is shown by the layers that a build makes of it."""
    model = keras_model.open_model(path)
    try:
        network = model.network()
    except FormatError as error:
        notes = [str(error)]
        layers = [(layer.name, layer.kind, shape_text(layer.shape), layer.parameters) for layer in model.layers]
        layer_tables = [TableOf("layers", ("layer", "kind", "result", "values"), layers)]
        weights = sum(layer.parameters for layer in model.layers)
    else:
        notes, layer_tables, weights = _posenet_note(lambda: network), _network_tables(network), network.parameters()
    facts = {"size": bytes_text(_bytes_on_disk(path))}
    if weights:
        facts["weights"] = f"{weights:,} values"
    columns = ("name", "shape", "type")
    return Description(
        file=path.name,
        form=form,
        facts=facts,
        tables=[
            TableOf("inputs", columns, [(item.name, shape_text(item.shape), item.dtype) for item in model.inputs]),
            TableOf("outputs", columns, [(item.name, shape_text(item.shape), item.dtype) for item in model.outputs]),
            *layer_tables,
        ],
        notes=notes,
    )


def _by_import(path: Path, form: str) -> Description:
    network = load(path)
    return Description(
        file=path.name,
        form=form,
        facts={"size": bytes_text(_bytes_on_disk(path)), "weights": f"{network.parameters():,} values"},
        tables=_network_tables(network),
        notes=_posenet_note(lambda: network),
    )


def _graphdef(data: bytes, name: str) -> Description:
    nodes = graphdef_file.read(data, name)
    return _nodes(nodes, data, name, "TensorFlow graph (GraphDef)", lambda: graphdef.from_bytes(data, name))


def _nodes(nodes: list[GraphNode], data: bytes, name: str, form: str, load: Any, **facts: Any) -> Description:
    kinds = Counter(node.op for node in nodes)
    constants = [(node.name, node.value) for node in nodes if node.value is not None]
    inputs = [node for node in nodes if node.op.startswith("Placeholder")]
    used = {tensor.split(":")[0].lstrip("^") for node in nodes for tensor in node.inputs}
    outputs = [node for node in nodes if node.name not in used and node.op not in ("Const", "NoOp")]
    return Description(
        file=name,
        form=form,
        facts={
            "size": bytes_text(len(data)),
            "nodes": f"{len(nodes)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(12)),
            "weights": f"{sum(value.size for _, value in constants):,} values",
            **facts,
        },
        tables=[
            TableOf("inputs", ("name", "shape"), [
                (node.name, shape_text(node.attributes.get("shape") or [])) for node in inputs]),
            TableOf("outputs", ("name", "operator"), [(node.name, node.op) for node in outputs]),
            TableOf("operators", ("name", "kind", "inputs", "options"), [
                (node.name, node.op, ", ".join(node.inputs), _node_options(node))
                for node in nodes if node.op not in ("Const", "Identity")]),
            TableOf("tensors", ("name", "shape", "type"), [
                (name, shape_text(value.shape), str(value.dtype)) for name, value in constants]),
        ],
        notes=_posenet_note(load),
    )  # fmt: skip


def _node_options(node: Any) -> str:
    shown = []
    for key in ("strides", "dilations", "padding", "fused_ops", "epsilon"):
        value = node.attributes.get(key)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        if isinstance(value, list):
            value = "×".join(
                item.decode("ascii", "replace") if isinstance(item, bytes) else str(item) for item in value
            )
        if value not in (None, "", "1×1×1×1"):
            shown.append(f"{key} {value}")
    return ", ".join(shown)


def _tfjs(data: bytes, name: str, path: Path) -> Description:
    if not tfjs_graph.is_graph_model(path):
        return _tfjs_checkpoint(data, name, path)
    content = json.loads(data)
    topology = content.get("modelTopology")
    if isinstance(topology, dict) and "node" not in topology and ("model_config" in topology or "config" in topology):
        return _tfjs_layers(data, name, topology)
    with errors_about(name):
        return _tfjs_graph(content, data, name, path)


def _tfjs_graph(content: dict[str, Any], data: bytes, name: str, path: Path) -> Description:
    shards, missing = {}, []
    for shard in tfjs_graph.shard_names(content):
        try:
            shards[shard] = (path.parent / shard).read_bytes()
        except OSError:
            missing.append(shard)
    # Without shards the topology still tells what the network is.
    weights = {} if missing else tfjs_graph.read_weights(content, shards)
    entries = tfjs_graph.weight_entries(content)
    stored = Counter(entry.stored for entry in entries)
    found = _nodes(
        tfjs_graph.read_nodes(content, weights),
        data,
        name,
        "TensorFlow.js graph model",
        (lambda: tfjs_graph.load(path)) if missing else lambda: tfjs_graph.from_parts(data, shards, name),
        weights=f"{sum(math.prod(entry.shape) for entry in entries):,} values",
        shards=f"{len(shards)}, {bytes_text(sum(len(shard) for shard in shards.values()))}",
        stored="; ".join(f"{count} weights as {kind}" for kind, count in stored.most_common()),
    )
    if not missing:
        return found
    tensors = TableOf(
        "tensors", ("name", "shape", "type"), [(entry.name, shape_text(entry.shape), entry.stored) for entry in entries]
    )
    return replace(
        found,
        facts=found.facts | {"shards": f"{len(missing)} of {len(missing) + len(shards)} are not beside it"},
        tables=[tensors if table.title == "tensors" else table for table in found.tables],
    )


def _tfjs_layers(data: bytes, name: str, topology: dict[str, Any]) -> Description:
    """A Keras model in TensorFlow.js's other form, which holds layers instead of operators."""
    config = topology.get("model_config", topology)
    config = config.get("config", config) if isinstance(config, dict) else {}
    layers = config.get("layers", []) if isinstance(config, dict) else config
    rows = [
        (str((layer.get("config") or {}).get("name", "")), str(layer.get("class_name", "")))
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict) and isinstance(layer.get("config") or {}, dict)
    ]
    return Description(
        file=name,
        form="TensorFlow.js layers model (Keras)",
        facts={"size": bytes_text(len(data)), "layers": len(rows)},
        tables=[TableOf("layers", ("layer", "kind"), rows)],
        notes=[
            "Layers models are not read here: convert it (`tensorflowjs_converter --input_format tfjs_layers_model "
            f"--output_format keras {name} model.h5`) and give model.h5."
        ],
    )


def _tfjs_checkpoint(data: bytes, name: str, path: Path) -> Description:
    variables = tfjs_checkpoint.variables(path)
    rows = [(variable, shape_text(shape), file) for variable, (file, shape) in variables.items()]
    facts: dict[str, Any] = {"size": bytes_text(len(data)), "variables": len(variables)}
    try:
        network = tfjs_checkpoint.load(path)
    except UserError as error:
        tables, notes = [], [str(error)]
    else:
        facts["weights"] = f"{network.parameters():,} values in use"
        tables, notes = _network_tables(network), _posenet_note(lambda: network)
    return Description(
        file=name,
        form="TensorFlow.js checkpoint (manifest and one file a variable)",
        facts=facts,
        tables=[*tables, TableOf("tensors", ("name", "shape", "file"), rows)],
        notes=notes,
    )
