"""Writes TFLite files as FlatBuffers from tensors and operators; the bytes are the same every time.

Schema: tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

from dataclasses import dataclass

import flatbuffers
import numpy as np

from common.arrays import Numbers

ADD, CONV_2D, DEPTHWISE_CONV_2D, DEQUANTIZE, MUL, PAD, QUANTIZE = 0, 3, 4, 6, 18, 34, 114
"""These are the schema's BuiltinOperator codes."""
SAME, VALID = 0, 1
LINEAR, RELU, RELU6 = 0, 1, 3
_OPTIONS_TYPE = {ADD: 11, CONV_2D: 1, DEPTHWISE_CONV_2D: 2, DEQUANTIZE: 26, MUL: 21, PAD: 22, QUANTIZE: 99}
"""These are the schema's BuiltinOptions: which table of options each operator has."""
_TENSOR_TYPES = {"float32": 0, "int32": 2, "uint8": 3}


@dataclass(frozen=True)
class Convolution:
    """Options of CONV_2D and DEPTHWISE_CONV_2D."""

    padding: int
    stride: int
    dilation: int = 1
    activation: int = LINEAR


@dataclass(frozen=True, eq=False)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    content: Numbers | None
    zero_point: int | None
    """The zero point of a uint8 tensor, whose scale is 1; None for other types."""


@dataclass(frozen=True)
class _Operator:
    code: int
    inputs: list[int]
    outputs: list[int]
    convolution: Convolution | None


class TfliteGraph:
    """Collects tensors and operators; `finish` makes the file. Tensors are referred to by their index."""

    def __init__(self) -> None:
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self._tensors: list[_Tensor] = []
        self._operators: list[_Operator] = []
        self._padding: int | None = None

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self._tensors[tensor].shape

    def tensor(self, name: str, shape: tuple[int, ...], zero_point: int | None = None) -> int:
        """A computed tensor: float32, or uint8 of scale 1 if a zero point is given."""
        dtype = "float32" if zero_point is None else "uint8"
        self._tensors.append(_Tensor(name, tuple(shape), dtype, None, zero_point))
        return len(self._tensors) - 1

    def constant(self, name: str, values: Numbers) -> int:
        """A constant: int32 stays int32, everything else becomes float32."""
        dtype = "int32" if values.dtype == np.int32 else "float32"
        content = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
        self._tensors.append(_Tensor(name, values.shape, dtype, content, None))
        return len(self._tensors) - 1

    def symmetric_padding(self) -> int:
        """The constant that lets PAD put one zero around height and width."""
        if self._padding is None:
            self._padding = self.constant("padding", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        return self._padding

    def operator(self, code: int, inputs: list[int], output: int, convolution: Convolution | None = None) -> int:
        """Add an operator that computes the tensor `output`, which is returned."""
        self._operators.append(_Operator(code, inputs, [output], convolution))
        return output

    def finish(self) -> bytes:
        """Return the finished file."""
        b = flatbuffers.Builder(1 << 16)
        buffers = [_table(b, {})]
        tensors = []
        for tensor in self._tensors:
            buffer = 0
            if tensor.content is not None:
                buffer = len(buffers)
                buffers.append(_table(b, {0: ("offset", _aligned_bytes(b, tensor.content.tobytes()))}))
            fields: dict[int, tuple[str, int]] = {}
            if tensor.zero_point is not None:
                scales = b.CreateNumpyVector(np.array([1.0], "<f4"))
                zero_points = b.CreateNumpyVector(np.array([tensor.zero_point], "<i8"))
                fields[4] = ("offset", _table(b, {2: ("offset", scales), 3: ("offset", zero_points)}))
            fields |= {
                0: ("offset", b.CreateNumpyVector(np.array(tensor.shape, "<i4"))),
                1: ("int8", _TENSOR_TYPES[tensor.dtype]),
                2: ("uint32", buffer),
                3: ("offset", b.CreateString(tensor.name)),
            }
            tensors.append(_table(b, fields))
        codes = sorted({operator.code for operator in self._operators})
        operators = [_operator(b, codes, operator) for operator in self._operators]
        code_tables = [_table(b, {0: ("int8", code), 2: ("int32", 1), 3: ("int32", code)}) for code in codes]
        subgraph = _table(b, {
            0: ("offset", _offsets(b, tensors)),
            1: ("offset", b.CreateNumpyVector(np.array(self.inputs, "<i4"))),
            2: ("offset", b.CreateNumpyVector(np.array(self.outputs, "<i4"))),
            3: ("offset", _offsets(b, operators)),
            4: ("offset", b.CreateString("main")),
        })  # fmt: skip
        model = _table(b, {
            0: ("uint32", 3),
            1: ("offset", _offsets(b, code_tables)),
            2: ("offset", _offsets(b, [subgraph])),
            3: ("offset", b.CreateString("maix-posenet")),
            4: ("offset", _offsets(b, buffers)),
        })  # fmt: skip
        b.Finish(model, b"TFL3")
        return bytes(b.Output())


def _operator(b: flatbuffers.Builder, codes: list[int], operator: _Operator) -> int:
    options: dict[int, tuple[str, int]] = {}
    if (convolution := operator.convolution) is not None:
        options = {0: ("int8", convolution.padding), 1: ("int32", convolution.stride), 2: ("int32", convolution.stride)}
        first = 3
        if operator.code == DEPTHWISE_CONV_2D:
            options[3] = ("int32", 1)
            first = 4
        options |= {
            first: ("int8", convolution.activation),
            first + 1: ("int32", convolution.dilation),
            first + 2: ("int32", convolution.dilation),
        }
    options_table = _table(b, options)
    return _table(b, {
        0: ("uint32", codes.index(operator.code)),
        1: ("offset", b.CreateNumpyVector(np.array(operator.inputs, "<i4"))),
        2: ("offset", b.CreateNumpyVector(np.array(operator.outputs, "<i4"))),
        3: ("uint8", _OPTIONS_TYPE[operator.code]),
        4: ("offset", options_table),
    })  # fmt: skip


def _table(b: flatbuffers.Builder, fields: dict[int, tuple[str, int]]) -> int:
    b.StartObject(max(fields, default=-1) + 1)
    slots = {
        "offset": lambda slot, value: b.PrependUOffsetTRelativeSlot(slot, value, 0),
        "int8": lambda slot, value: b.PrependInt8Slot(slot, value, 0),
        "uint8": lambda slot, value: b.PrependUint8Slot(slot, value, 0),
        "int32": lambda slot, value: b.PrependInt32Slot(slot, value, 0),
        "uint32": lambda slot, value: b.PrependUint32Slot(slot, value, 0),
    }
    for slot, (kind, value) in fields.items():
        slots[kind](slot, value)
    return int(b.EndObject())


def _offsets(b: flatbuffers.Builder, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _aligned_bytes(b: flatbuffers.Builder, data: bytes) -> int:
    """A byte vector that starts at a multiple of 16, as interpreters require for weights."""
    b.StartVector(1, len(data), 16)
    b.head = b.Head() - len(data)
    b.Bytes[b.Head() : b.Head() + len(data)] = data
    b.vectorNumElems = len(data)
    return int(b.EndVector())
