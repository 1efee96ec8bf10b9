"""Reads a TFLite file: tensors, operators, options. Schema: tensorflow/lite/schema/schema.fbs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers.flatbuffer import Table, root

IDENTIFIER = b"TFL3"

TENSOR_TYPES: dict[int, tuple[str, str]] = {
    0: ("float32", "<f4"), 1: ("float16", "<f2"), 2: ("int32", "<i4"), 3: ("uint8", "|u1"), 4: ("int64", "<i8"),
    5: ("string", "|u1"), 6: ("bool", "|u1"), 7: ("int16", "<i2"), 8: ("complex64", "<c8"), 9: ("int8", "|i1"),
    10: ("float64", "<f8"), 11: ("complex128", "<c16"), 12: ("uint64", "<u8"), 13: ("resource", "|u1"),
    14: ("variant", "|u1"), 15: ("uint32", "<u4"), 16: ("uint16", "<u2"), 17: ("int4", "|u1"),
}  # fmt: skip
"""Each TensorType has a name and a NumPy type for its buffer."""

BUILTINS: dict[int, str] = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 5: "DEPTH_TO_SPACE",
    6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6",
    22: "RESHAPE", 23: "RESIZE_BILINEAR", 25: "SOFTMAX", 26: "SPACE_TO_DEPTH", 28: "TANH", 32: "CUSTOM", 34: "PAD",
    36: "GATHER", 37: "BATCH_TO_SPACE_ND", 38: "SPACE_TO_BATCH_ND", 39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV",
    43: "SQUEEZE", 45: "STRIDED_SLICE", 47: "EXP", 49: "SPLIT", 53: "CAST", 54: "PRELU", 55: "MAXIMUM",
    56: "ARG_MAX", 57: "MINIMUM", 60: "PADV2", 65: "SLICE", 67: "TRANSPOSE_CONV", 77: "SHAPE", 83: "PACK",
    97: "RESIZE_NEAREST_NEIGHBOR", 98: "LEAKY_RELU", 99: "SQUARED_DIFFERENCE", 100: "MIRROR_PAD",
    114: "QUANTIZE", 117: "HARD_SWISH",
}  # fmt: skip
"""The names of the builtin operators that image networks use; others are shown by number."""

ACTIVATIONS = {0: "linear", 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: "tanh", 5: "sign_bit"}
PADDINGS = {0: "SAME", 1: "VALID"}


@dataclass(frozen=True)
class TensorQuantization:
    """real = (q − zero_points) · scales; one value, or one per slice along `dimension`."""

    scales: Numbers
    zero_points: Numbers
    dimension: int


@dataclass(frozen=True, eq=False)
class TfliteTensor:
    """A tensor by its number in the file; type: its name in TENSOR_TYPES."""

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    quantization: TensorQuantization | None
    data: Numbers | None
    """Contents of a constant in the file's own type and shape; None for a computed tensor."""

    def real(self) -> Numbers:
        """A constant's values as float32, dequantized; FormatError if the tensor is not a constant."""
        if self.data is None:
            raise FormatError(f"tensor {self.name} should be a constant but holds no data")
        if self.quantization is None:
            return self.data.astype(np.float32)
        quantization = self.quantization
        scales, zeros = quantization.scales, quantization.zero_points
        if scales.size > 1:
            if not 0 <= quantization.dimension < len(self.shape) or self.shape[quantization.dimension] != scales.size:
                raise FormatError(
                    f"tensor {self.name} has {scales.size} scales along dimension "
                    f"{quantization.dimension} of {self.shape}"
                )
            along = [1] * len(self.shape)
            along[quantization.dimension] = scales.size
            scales, zeros = scales.reshape(along), zeros.reshape(along)
        return ((self.data.astype(np.float64) - zeros) * scales).astype(np.float32)


@dataclass(frozen=True)
class TfliteOperator:
    """An operator; inputs and outputs are numbers of tensors, −1 for one that is absent."""

    index: int
    kind: str
    """The operator's builtin name, or its custom code."""
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    custom_options: bytes = b""


@dataclass(frozen=True)
class TfliteFile:
    """The first subgraph of a file; inputs and outputs are numbers of tensors."""

    version: int
    description: str
    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraph_count: int
    metadata: tuple[str, ...]


def read(data: bytes, what: str = "TFLite file") -> TfliteFile:
    """Parse the first subgraph of a TFLite file; FormatError on anything malformed."""
    model = root(data, IDENTIFIER, what)
    version = model.scalar(0, "I")
    if version != 3:
        raise FormatError(f"{what}: schema version {version}; only version 3 can be read")
    codes = [_operator_code(code) for code in model.tables(1, f"{what}: operator code")]
    buffers = list(model.tables(4, f"{what}: buffer"))
    subgraphs = list(model.tables(2, f"{what}: subgraph"))
    if not subgraphs:
        raise FormatError(f"{what} holds no subgraph")
    graph = subgraphs[0]
    tensors = tuple(_tensor(i, table, buffers) for i, table in enumerate(graph.tables(0, f"{what}: tensor")))
    operators = []
    for i, table in enumerate(graph.tables(3, f"{what}: operator")):
        if (code := table.scalar(0, "I")) >= len(codes):
            raise FormatError(f"{what}: operator {i} has code {code}, but the file has {len(codes)} codes")
        operators.append(_operator(i, table, *codes[code], len(tensors)))
    return TfliteFile(
        version=version,
        description=model.text(3),
        tensors=tensors,
        operators=tuple(operators),
        inputs=_indices(graph, 1, len(tensors)),
        outputs=_indices(graph, 2, len(tensors)),
        subgraph_count=len(subgraphs),
        metadata=tuple(table.text(0) for table in model.tables(6, f"{what}: metadata")),
    )


def _operator_code(table: Table) -> tuple[str, bool]:
    # Codes above 127 are in the newer field; the older one then holds 127.
    code = max(table.scalar(0, "b"), table.scalar(3, "i"))
    if code == 32:
        return table.text(1), True
    return BUILTINS.get(code, f"BUILTIN_{code}"), False


def _indices(table: Table, field_index: int, tensor_count: int) -> tuple[int, ...]:
    indices = tuple(int(i) for i in table.array(field_index, "<i4"))
    for index in indices:
        if not -1 <= index < tensor_count:
            raise FormatError(f"{table.what} names tensor {index} of {tensor_count}; the file is damaged")
    return indices


def _tensor(index: int, table: Table, buffers: list[Table]) -> TfliteTensor:
    name = table.text(3)
    shape = tuple(int(side) for side in table.array(0, "<i4"))
    type_code = table.scalar(1, "b")
    if type_code not in TENSOR_TYPES:
        raise FormatError(f"tensor {index} ({name}) has type {type_code}, which this program does not know")
    type_name, dtype = TENSOR_TYPES[type_code]
    buffer_index = table.scalar(2, "I")
    if buffer_index >= len(buffers):
        raise FormatError(f"tensor {index} ({name}) is in buffer {buffer_index}, but the file has {len(buffers)}")
    data = None
    # The shape is checked before NumPy uses it: a damaged one could allocate terabytes.
    content = buffers[buffer_index].array(0, "|u1")
    if content.size:
        if type_name in ("string", "int4"):
            data = content
        elif any(side < 0 for side in shape) or math.prod(shape) * np.dtype(dtype).itemsize != content.size:
            raise FormatError(f"tensor {index} ({name}): {shape} {type_name} does not fit {content.size} bytes")
        else:
            data = content.view(dtype).reshape(shape)
    return TfliteTensor(index, name, shape, type_name, _quantization(name, table), data)


def _quantization(name: str, table: Table) -> TensorQuantization | None:
    parameters = table.table(4, f"quantization of tensor {name}")
    if parameters is None:
        return None
    scales = parameters.array(2, "<f4").astype(np.float64)
    zero_points = parameters.array(3, "<i8")
    if scales.size == 0:
        return None
    if zero_points.size == 0:
        zero_points = np.zeros(scales.size, np.int64)
    if scales.size != zero_points.size or not np.isfinite(scales).all() or np.abs(zero_points).max() > 1 << 31:
        raise FormatError(f"tensor {name}: {scales.size} scales and {zero_points.size} zero points do not fit")
    return TensorQuantization(scales, zero_points, parameters.scalar(6, "i"))


def _operator(index: int, table: Table, kind: str, is_custom: bool, tensor_count: int) -> TfliteOperator:
    options = table.table(4, f"options of operator {index}")
    read_options = None if is_custom or options is None else _OPTIONS.get(kind)
    return TfliteOperator(
        index=index,
        kind=kind,
        is_custom=is_custom,
        inputs=_indices(table, 1, tensor_count),
        outputs=_indices(table, 2, tensor_count),
        options=read_options(options) if read_options is not None and options is not None else {},
        custom_options=table.bytes(5),
    )


def _convolution(options: Table, first: int = 3) -> dict[str, Any]:
    return {
        **_window(options),
        "activation": _activation(options, first),
        "dilation": [options.scalar(first + 2, "i", 1), options.scalar(first + 1, "i", 1)],
    }


def _depthwise(options: Table) -> dict[str, Any]:
    return {"depth_multiplier": options.scalar(3, "i"), **_convolution(options, 4)}


def _pool(options: Table) -> dict[str, Any]:
    return {**_window(options), "filter": [options.scalar(4, "i"), options.scalar(3, "i")]}


def _window(options: Table) -> dict[str, Any]:
    """The fields with which the options of convolutions and poolings begin; pairs are (height, width)."""
    padding = options.scalar(0, "b")
    return {
        "padding": PADDINGS.get(padding, f"unknown {padding}"),
        "stride": [options.scalar(2, "i"), options.scalar(1, "i")],
    }


def _activation(options: Table, index: int = 0) -> str:
    code = options.scalar(index, "b")
    return ACTIVATIONS.get(code, f"unknown {code}")


_OPTIONS: dict[str, Callable[[Table], dict[str, Any]]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "CONCATENATION": lambda options: {"axis": options.scalar(0, "i"), "activation": _activation(options, 1)},
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), lambda options: {"activation": _activation(options)}),
    "RESIZE_BILINEAR": lambda options: {
        "align_corners": options.scalar(2, "b"),
        "half_pixel_centers": options.scalar(3, "b"),
    },
}
"""A reader for the table of options of each of these operators; others are not read."""
