"""PoseNet in TFLite files: Coral's quantized ones, the official float one, and a user's own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import FormatError, errors_about
from common.skeleton import Skeleton
from model_build.importers import operators
from model_build.importers.graph import Affine, Convolution, Graph, Meaning, Op
from model_build.importers.recognise import to_network
from model_build.importers.tflite_file import TfliteFile, TfliteOperator, TfliteTensor, read
from model_build.network import Network


def from_bytes(data: bytes, source_id: str, skeleton: Skeleton | None = None) -> Network:
    """Network from a TFLite file's bytes; `source_id` names it in messages and in posenet.json.

    FormatError if it is damaged or does not hold a PoseNet.
    """
    file = read(data, source_id)
    if any(op.kind == "edgetpu-custom-op" for op in file.operators):
        # Coral's own names tell which file it was compiled from.
        source = source_id.replace("_edgetpu.tflite", ".tflite")
        source = source if source != source_id else "the .tflite it was compiled from"
        raise FormatError(
            f"{source_id} is compiled for the Edge TPU: its weights lie inside the edgetpu-custom-op in a form "
            f"that only that chip can read; use {source} from the same place instead"
        )
    with errors_about(source_id):
        return to_network(to_graph(file), Path(source_id).stem, source_id, hashlib.sha256(data).hexdigest(), skeleton)


def to_graph(file: TfliteFile) -> Graph:
    """Operators of a TFLite file in the importer's form."""
    file = _with_constants_folded(file)
    names = [f"{tensor.index}:{tensor.name}" for tensor in file.tensors]
    inputs = _given(file.inputs)
    shape = file.tensors[inputs[0]].shape if len(inputs) == 1 else ()
    return Graph(
        ops=[_op(file, op, names) for op in file.operators],
        inputs=[names[i] for i in inputs],
        outputs=[names[i] for i in _given(file.outputs)],
        input_size=(shape[2], shape[1]) if len(shape) == 4 and shape[1] > 1 and shape[2] > 1 else None,
    )


def _given(indices: tuple[int, ...]) -> list[int]:
    """Tensor indices without −1, which stands for an optional tensor that is absent."""
    return [index for index in indices if index >= 0]


def _with_constants_folded(file: TfliteFile) -> TfliteFile:
    """Weights that are stored as float16 or bytes with a DEQUANTIZE become plain constants."""
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


def _op(file: TfliteFile, op: TfliteOperator, names: list[str]) -> Op:
    inputs, outputs = [file.tensors[i] for i in _given(op.inputs)], _given(op.outputs)
    name = file.tensors[outputs[0]].name if outputs else f"{op.kind} {op.index}"
    return Op(
        name=name,
        inputs=[names[tensor.index] for tensor in inputs if tensor.data is None],
        outputs=[names[i] for i in outputs],
        meaning=_meaning(op, name, inputs, file.tensors[outputs[0]]) if outputs else None,
    )


def _meaning(op: TfliteOperator, name: str, inputs: list[TfliteTensor], result: TfliteTensor) -> Meaning | None:
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return _convolution(op, name, [tensor for tensor in inputs if tensor.data is not None], result)
    meaning = operators.meaning_of(op.kind, [None if tensor.data is None else tensor.real for tensor in inputs])
    # In TFLite additions and products can end in an activation.
    return (
        replace(meaning, activation=op.options.get("activation", "linear")) if isinstance(meaning, Affine) else meaning
    )


def _convolution(op: TfliteOperator, name: str, constants: list[TfliteTensor], result: TfliteTensor) -> Convolution:
    if not constants:
        raise FormatError(f"{name} has no constant weights")
    if not op.options:
        raise FormatError(f"{name} lacks its options; the file is damaged")
    activation = op.options["activation"]
    return Convolution(
        # OHWI → HWIO; 1HWC → HWC1: either way the first axis goes last.
        weights=np.moveaxis(np.atleast_1d(constants[0].real()), 0, -1),
        kind="conv" if op.kind == "CONV_2D" else "depthwise",
        bias=constants[1].real() if len(constants) > 1 else None,
        padding=op.options["padding"],
        stride=op.options["stride"],
        dilation=op.options["dilation"],
        activation=_activation_of_range(result) if activation == "linear" else activation,
        names=(constants[0].name,),
    )


def _activation_of_range(tensor: TfliteTensor) -> str:
    """In quantized graphs ReLU6 is implied by saturation: a result with the range 0 to 6 has this activation."""
    lowest = {"uint8": 0, "int8": -128}.get(tensor.type)
    if lowest is None or tensor.quantization is None or tensor.quantization.scales.size != 1:
        return "linear"
    if int(tensor.quantization.zero_points[0]) != lowest:
        return "linear"
    return "relu6" if abs(float(tensor.quantization.scales[0]) * 255 - 6) < 0.06 else "relu"
