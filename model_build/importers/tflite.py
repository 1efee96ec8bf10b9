"""PoseNet in TFLite files: Coral's quantized ones, the official float one, and a user's own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from common.errors import FormatError
from common.skeleton import Skeleton
from model_build.importers import operators
from model_build.importers.graph import Graph, Op
from model_build.importers.recognise import to_network
from model_build.importers.tflite_file import TfliteFile, TfliteOperator, TfliteTensor, read
from model_build.network import Network


def load(path: Path, skeleton: Skeleton | None = None) -> Network:
    """Network of a TFLite file; FormatError if it is damaged or holds no PoseNet."""
    return from_bytes(path.read_bytes(), path.name, skeleton)


def from_bytes(data: bytes, source_id: str, skeleton: Skeleton | None = None) -> Network:
    """Network from a TFLite file's bytes; `source_id` names it in messages and in posenet.json."""
    file = read(data, source_id)
    if any(op.kind == "edgetpu-custom-op" for op in file.operators):
        raise FormatError(
            f"{source_id} is compiled for the Edge TPU: its weights lie inside the edgetpu-custom-op in a form "
            f"that only that chip reads; use {_uncompiled(source_id)} instead, from the same place"
        )
    graph = to_graph(file, source_id)
    return to_network(graph, Path(source_id).stem, source_id, hashlib.sha256(data).hexdigest(), skeleton)


def _uncompiled(name: str) -> str:
    """The name of the file that an Edge TPU file was compiled from, as Coral names them."""
    return (
        name.replace("_edgetpu.tflite", ".tflite") if "_edgetpu.tflite" in name else "the .tflite it was compiled from"
    )


def to_graph(file: TfliteFile, source_id: str) -> Graph:
    """Operators of a TFLite file in the importer's kinds."""
    file = _with_constants_folded(file)
    graph_inputs = [file.tensors[i].name for i in file.inputs if i >= 0]
    names = [f"{tensor.index}:{tensor.name}" for tensor in file.tensors]
    ops = [_op(file, op, names, source_id) for op in file.operators]
    size = None
    if len(graph_inputs) == 1:
        shape = file.tensors[file.inputs[0]].shape
        if len(shape) == 4 and shape[1] > 1 and shape[2] > 1:
            size = (shape[2], shape[1])
    return Graph(
        ops=ops,
        inputs=[names[i] for i in file.inputs if i >= 0],
        outputs=[names[i] for i in file.outputs if i >= 0],
        input_size=size,
    )


def _with_constants_folded(file: TfliteFile) -> TfliteFile:
    """Weights stored in halves or bytes behind a DEQUANTIZE become plain constants."""
    tensors = list(file.tensors)
    kept = []
    for op in file.operators:
        source = tensors[op.inputs[0]] if op.kind == "DEQUANTIZE" and len(op.inputs) == 1 else None
        if source is not None and source.data is not None and len(op.outputs) == 1 and op.outputs[0] >= 0:
            out = op.outputs[0]
            tensors[out] = replace(tensors[out], data=source.real(), shape=source.shape, quantization=None)
        else:
            kept.append(op)
    return replace(file, tensors=tuple(tensors), operators=tuple(kept))


def _op(file: TfliteFile, op: TfliteOperator, names: list[str], source_id: str) -> Op:
    computed = [i for i in op.inputs if i >= 0 and file.tensors[i].data is None]
    constants = [file.tensors[i] for i in op.inputs if i >= 0 and file.tensors[i].data is not None]
    result = Op(
        kind="other",
        name=file.tensors[op.outputs[0]].name if op.outputs and op.outputs[0] >= 0 else f"{op.kind} {op.index}",
        inputs=[names[i] for i in computed],
        outputs=[names[i] for i in op.outputs if i >= 0],
    )
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        _convolution(op, result, constants, source_id)
        if result.attributes["activation"] == "linear" and op.outputs and op.outputs[0] >= 0:
            result.attributes["activation"] = _activation_of_range(file.tensors[op.outputs[0]])
        return result
    constant_first = bool(op.inputs) and op.inputs[0] >= 0 and file.tensors[op.inputs[0]].data is not None
    operators.translate(op.kind, result, [tensor.real for tensor in constants], constant_first)
    if (fused := op.options.get("activation", "linear")) != "linear" and result.kind in ("normalise", "bias", "scale"):
        result.attributes["activation"] = fused
    return result


def _activation_of_range(tensor: TfliteTensor) -> str:
    """Quantized graphs leave ReLU6 to saturation: a result that cannot be negative, and ends at 6, is one."""
    lowest = {"uint8": 0, "int8": -128}.get(tensor.type)
    if lowest is None or tensor.quantization is None or tensor.quantization.scales.size != 1:
        return "linear"
    if int(tensor.quantization.zero_points[0]) != lowest:
        return "linear"
    return "relu6" if abs(float(tensor.quantization.scales[0]) * 255 - 6) < 0.06 else "relu"


def _convolution(op: TfliteOperator, result: Op, constants: list[TfliteTensor], source_id: str) -> None:
    if not constants or constants[0].data is None or len(constants[0].shape) != 4:
        raise FormatError(f"{source_id}: {result.name} has no constant 4-D weights")
    if not op.options:
        raise FormatError(f"{source_id}: {result.name} lacks its options; the file is damaged")
    # OHWI → HWIO; 1HWC → HWC1: the same axes either way.
    weights = constants[0].real().transpose((1, 2, 3, 0))
    result.kind = operators.depthwise_or_conv(weights, op.kind != "CONV_2D", f"{source_id}: {result.name}")
    dilation = op.options["dilation"]
    if dilation[0] != dilation[1]:
        raise FormatError(f"{source_id}: {result.name} is dilated by {dilation}; both sides must agree")
    result.attributes = {
        "weights": weights,
        "bias": constants[1].real() if len(constants) > 1 else None,
        "padding": op.options["padding"],
        "stride": op.options["stride"],
        "dilation": dilation[0],
        "activation": op.options["activation"],
        "names": [constants[0].name],
    }
