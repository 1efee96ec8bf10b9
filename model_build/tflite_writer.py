"""Float TFLite of a Network, written directly as FlatBuffers: milliseconds, the same bytes every time.

Schema: tensorflow/lite/schema/schema.fbs. Stride-2 convolutions are written as PAD by one on all sides and a
VALID convolution (model_build/padding.py says why).
"""

from __future__ import annotations

import flatbuffers
import numpy as np

from model_build.network import HEADS, Conv, Network
from model_build.padding import feature_sizes

_CONV_2D, _DEPTHWISE, _PAD = 3, 4, 34
_ACTIVATION = {"linear": 0, "relu": 1, "relu6": 3}
_FLOAT32, _INT32 = 0, 2
_SAME, _VALID = 0, 1


def write(network: Network, width: int, height: int) -> bytes:
    """TFLite bytes: input "input" float32 (1, H, W, 3) in [−1, 1), outputs the four heads, NHWC, in HEADS order."""
    graph = _Graph()
    current = graph.tensor("input", (1, height, width, 3))
    graph.inputs.append(current)
    sizes = feature_sizes(network, width, height)
    for layer, (out_width, out_height) in zip(network.trunk, sizes, strict=True):
        current = _layer(graph, layer, current, out_width, out_height)
    for name in HEADS:
        head = network.heads[name]
        graph.outputs.append(_layer(graph, head, current, *sizes[-1], name=name))
    return graph.finish()


def _layer(graph: _Graph, layer: Conv, source: int, width: int, height: int, name: str | None = None) -> int:
    padding = _SAME
    if layer.stride == 2 and layer.kernel == 3:
        _, in_height, in_width, channels = graph.shapes[source]
        padded = graph.tensor(layer.name + "/pad", (1, in_height + 2, in_width + 2, channels))
        graph.operator(_PAD, [source, graph.symmetric_padding()], [padded])
        source, padding = padded, _VALID
    # TFLite stores OHWI for convolutions and 1HWC for depthwise ones.
    weights = layer.weights.transpose((3, 0, 1, 2))
    inputs = [
        source,
        graph.constant(layer.name + "/weights", weights),
        graph.constant(layer.name + "/bias", layer.bias),
    ]
    out = graph.tensor(name or layer.name, (1, height, width, layer.out_channels))
    code = _CONV_2D if layer.kind == "conv" else _DEPTHWISE
    graph.operator(code, inputs, [out], (padding, layer.stride, layer.dilation, _ACTIVATION[layer.activation]))
    return out


class _Graph:
    """Collects tensors and operators; `finish` makes the file."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.contents: list[np.ndarray | None] = []
        self.operators: list[tuple[int, list[int], list[int], tuple[int, int, int, int] | None]] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self._padding: int | None = None

    def tensor(self, name: str, shape: tuple[int, ...], content: np.ndarray | None = None) -> int:
        self.names.append(name)
        self.shapes.append(tuple(shape))
        self.contents.append(content)
        return len(self.names) - 1

    def constant(self, name: str, values: np.ndarray) -> int:
        return self.tensor(name, values.shape, np.ascontiguousarray(values, "<f4"))

    def symmetric_padding(self) -> int:
        if self._padding is None:
            pads = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], "<i4")
            self._padding = self.tensor("padding", pads.shape, pads)
        return self._padding

    def operator(self, code: int, inputs: list[int], outputs: list[int], options: tuple | None = None) -> None:
        self.operators.append((code, inputs, outputs, options))

    def finish(self) -> bytes:
        b = flatbuffers.Builder(1 << 16)
        buffers = [_table(b, {})]
        tensors = []
        for name, shape, content in zip(self.names, self.shapes, self.contents, strict=True):
            buffer = 0
            if content is not None:
                buffer = len(buffers)
                buffers.append(_table(b, {0: ("offset", _aligned_bytes(b, content.tobytes()))}))
            kind = _INT32 if content is not None and content.dtype == np.int32 else _FLOAT32
            tensors.append(
                _table(b, {
                    0: ("offset", b.CreateNumpyVector(np.array(shape, "<i4"))),
                    1: ("int8", kind),
                    2: ("uint32", buffer),
                    3: ("offset", b.CreateString(name)),
                })
            )  # fmt: skip
        codes = sorted({code for code, *_ in self.operators})
        operators = [self._operator(b, codes, *operator) for operator in self.operators]
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

    def _operator(self, b: flatbuffers.Builder, codes: list[int], code: int, inputs: list[int], outputs: list[int],
                  options: tuple[int, int, int, int] | None) -> int:  # fmt: skip
        if options is None:
            options_type, options_table = 22, _table(b, {})
        else:
            padding, stride, dilation, activation = options
            common = {0: ("int8", padding), 1: ("int32", stride), 2: ("int32", stride)}
            tail = [("int8", activation), ("int32", dilation), ("int32", dilation)]
            if code == _CONV_2D:
                options_type, first = 1, 3
            else:
                options_type, first = 2, 4
                common[3] = ("int32", 1)
            options_table = _table(b, {**common, **{first + i: item for i, item in enumerate(tail)}})
        return _table(b, {
            0: ("uint32", codes.index(code)),
            1: ("offset", b.CreateNumpyVector(np.array(inputs, "<i4"))),
            2: ("offset", b.CreateNumpyVector(np.array(outputs, "<i4"))),
            3: ("uint8", options_type),
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
    return b.EndObject()


def _offsets(b: flatbuffers.Builder, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _aligned_bytes(b: flatbuffers.Builder, data: bytes) -> int:
    """A byte vector that starts at a multiple of 16, as interpreters want of weights."""
    b.StartVector(1, len(data), 16)
    b.head = b.Head() - len(data)
    b.Bytes[b.Head() : b.Head() + len(data)] = data
    b.vectorNumElems = len(data)
    return b.EndVector()
