"""Reads a kmodel V4 (nncase 0.2), as far as `inspect` shows it.

Structures: nncase 0.2, runtime/model.h, runtime_op.def and k210/k210_ops_body.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from common.errors import FormatError
from model_build.kpu import registers
from model_build.kpu.kmodel_v3 import LATER_BEGINNING
from model_build.kpu.registers import REGISTERS_BYTES, LayerRegisters

HEADER_BYTES = 40
BODY_ALIGNMENT = 8
K210_CONV2D = 0x2002
MAX_NODES = 10_000
TARGETS = {0: "CPU", 1: "K210"}
MEMORIES = {0: "constants", 1: "main memory", 2: "KPU RAM"}
DATATYPES = {0: "float32", 1: "uint8"}
OPCODES = {
    0x00: "binary", 0x01: "concat", 0x02: "conv2d", 0x03: "dequantize", 0x04: "matmul", 0x05: "pad", 0x06: "quantize",
    0x07: "reduce", 0x08: "reduce_window2d", 0x09: "memory_copy", 0x0A: "resize_image", 0x0B: "softmax",
    0x0C: "transpose", 0x0D: "strided_slice", 0x0E: "unary", 0x0F: "quantized_conv2d", 0x10: "quantized_matmul",
    0x11: "quantized_binary", 0x12: "table_lookup1d", 0x13: "conv2d_transpose", 0x14: "nnil_unary",
    0x1001: "cpu_conv2d", 0x1002: "cpu_depthwise_conv2d", 0x1003: "cpu_reduce_window2d",
    0x1004: "cpu_quantized_conv2d", 0x1005: "cpu_quantized_depthwise_conv2d",
    0x2001: "kpu_upload", K210_CONV2D: "kpu_conv2d",
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """A tensor's place: memory, type, byte offset, bytes."""

    memory: str
    datatype: str
    start: int
    size: int


@dataclass(frozen=True)
class KmodelNode:
    """A node of the graph: its operator, and the length of its body in the file."""

    opcode: int
    body_bytes: int
    registers: LayerRegisters | None
    """The main facts of a KPU convolution."""

    @property
    def kind(self) -> str:
        return OPCODES.get(self.opcode, f"opcode {self.opcode:#x}")


@dataclass(frozen=True)
class KmodelV4:
    """The header of a V4 file, with (place, shape) of its inputs, the places of its outputs, and its nodes."""

    target: str
    eight_bit: bool
    constants_bytes: int
    main_mem_bytes: int
    inputs: tuple[tuple[Range, tuple[int, ...]], ...]
    outputs: tuple[Range, ...]
    nodes: tuple[KmodelNode, ...]


def read(data: bytes) -> KmodelV4:
    """Parse a V4 file; FormatError if it is damaged or of another version."""
    if len(data) < HEADER_BYTES or data[:4] != LATER_BEGINNING:
        raise FormatError("kmodel V4: the file has no header of 40 bytes")
    version, flags, target, constants, main_mem, nodes, inputs, outputs, _ = struct.unpack_from("<9I", data, 4)
    if version != 4:
        raise FormatError(f"this is a kmodel V{version}, not V4")
    if nodes > MAX_NODES or inputs > 64 or outputs > 64:
        raise FormatError(f"kmodel V4: {nodes} nodes, {inputs} inputs, {outputs} outputs; the file is damaged")
    reader = _Reader(data, HEADER_BYTES)
    in_ranges = [reader.range() for _ in range(inputs)]
    shapes = [reader.take("<4i", "input shape") for _ in range(inputs)]
    out_ranges = [reader.range() for _ in range(outputs)]
    reader.skip(constants, "constants")
    headers = [reader.take("<2I", "node header") for _ in range(nodes)]
    found = []
    for index, (opcode, size) in enumerate(headers):
        start = reader.position
        # nncase pads bodies to 8 bytes and often leaves the padding of the last one out of the file.
        missing = start + size - len(data)
        last = index == nodes - 1
        reader.skip(size - missing if last and 0 < missing < BODY_ALIGNMENT else size, f"node {index}")
        layer = None
        if opcode == K210_CONV2D:
            # The body holds the range of the main memory output, batches, a reserved word, then the registers.
            if reader.position - start < 24 + REGISTERS_BYTES:
                raise FormatError(f"kmodel V4: node {index} (kpu_conv2d) has a body of {size} bytes, too short")
            layer = registers.unpack(data[start + 24 : start + 24 + REGISTERS_BYTES])
        found.append(KmodelNode(opcode, size, layer))
    return KmodelV4(
        target=TARGETS.get(target, f"target {target}"),
        eight_bit=bool(flags & 1),
        constants_bytes=constants,
        main_mem_bytes=main_mem,
        inputs=tuple(zip(in_ranges, shapes, strict=True)),
        outputs=tuple(out_ranges),
        nodes=tuple(found),
    )


class _Reader:
    def __init__(self, data: bytes, position: int):
        self.data, self.position = data, position

    def take(self, form: str, what: str) -> tuple[int, ...]:
        start = self.position
        self.skip(struct.calcsize(form), what)
        return struct.unpack_from(form, self.data, start)

    def range(self) -> Range:
        memory, datatype, start, size = self.take("<4I", "tensor range")
        if memory not in MEMORIES or datatype not in DATATYPES:
            raise FormatError(f"kmodel V4: a tensor in memory {memory} of type {datatype}; the file is damaged")
        return Range(MEMORIES[memory], DATATYPES[datatype], start, size)

    def skip(self, count: int, what: str) -> None:
        if count > len(self.data) - self.position:
            raise FormatError(
                f"kmodel V4: {what} of {count} bytes at {self.position} passes the end ({len(self.data)} bytes)"
            )
        self.position += count
