"""kmodel version 3, which every stock MaixPy loads.

Structures: nncase 0.1 (Generator.cs) and the SDK's kpu.h (`kpu_kmodel_header_t`, `kpu_model_conv_layer_argument_t`).
Little-endian; every offset inside a layer body counts from the start of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from common.errors import FormatError
from model_build.kpu import layer as kpu_layer
from model_build.kpu import registers
from model_build.kpu.layer import ACTIVATION_BYTES, KpuLayer
from model_build.kpu.ram import RAM_LINES

VERSION = 3
BEGINNING = VERSION.to_bytes(4, "little")
LATER_BEGINNING = b"LDMK"
"""Files of versions 4 and 5 begin with this; their version follows."""
HEADER_BYTES = 28
CONV_ARGUMENT_BYTES = 24
FLAG_EIGHT_BIT = 1
FLAG_MAIN_MEM_OUT = 1
MAX_FILE_BYTES = 6 << 20
"""MaixPy's loader reads at most this much."""
BODY_ALIGNMENT = 8
MAX_LAYERS = 1024
MAX_OUTPUTS = 64

K210_CONV = 10240
LAYER_TYPES = {
    0: "invalid",
    1: "add",
    2: "quantized_add",
    3: "global_max_pool2d",
    4: "quantized_global_max_pool2d",
    5: "global_average_pool2d",
    6: "quantized_global_average_pool2d",
    7: "max_pool2d",
    8: "quantized_max_pool2d",
    9: "average_pool2d",
    10: "quantized_average_pool2d",
    11: "quantize",
    12: "dequantize",
    13: "requantize",
    14: "l2_normalization",
    15: "softmax",
    16: "concat",
    17: "quantized_concat",
    18: "fully_connected",
    19: "quantized_fully_connected",
    20: "tensorflow_flatten",
    21: "quantized_tensorflow_flatten",
    22: "resize_nearest_neighbor",
    23: "quantized_resize_nearest_neighbor",
    24: "channelwise_dequantize",
    25: "logistic",
    K210_CONV: "k210_conv",
    10241: "k210_add_padding",
    10242: "k210_remove_padding",
    10243: "k210_upload",
}


@dataclass(frozen=True)
class CpuLayer:
    """A layer that the CPU runs: its type number and raw body."""

    type: int
    body: bytes

    @property
    def type_name(self) -> str:
        return LAYER_TYPES[self.type]


@dataclass(frozen=True)
class MainMemOutput:
    """An output: byte offset in the main memory buffer, and length in bytes."""

    address: int
    size_bytes: int


@dataclass(frozen=True)
class KmodelV3:
    """A V3 model. max_start_line: KPU RAM high-water mark in lines; main_mem_bytes: the buffer to allocate."""

    layers: tuple[KpuLayer | CpuLayer, ...]
    outputs: tuple[MainMemOutput, ...]
    main_mem_bytes: int
    max_start_line: int
    eight_bit: bool = True

    @property
    def kpu_layers(self) -> list[KpuLayer]:
        return [layer for layer in self.layers if isinstance(layer, KpuLayer)]


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _write_conv(layer: KpuLayer, start: int) -> bytes:
    """One convolution's body at file offset `start`: argument, registers (aligned 8), weights and batch norm
    (128), activation (256), padded to 8."""
    weights, norm = layer.weights.tobytes(), layer.batch_norm.pack()
    layer_at = _align(start + CONV_ARGUMENT_BYTES, 8)
    weights_at = _align(layer_at + registers.REGISTERS_BYTES, 128)
    norm_at = _align(weights_at + len(weights), 128)
    activation_at = _align(norm_at + len(norm), 256)
    body = bytearray(_align(activation_at + ACTIVATION_BYTES, 8) - start)
    in_main = layer.main_mem_address is not None
    struct.pack_into(
        "<6I",
        body,
        0,
        FLAG_MAIN_MEM_OUT if in_main else 0,
        layer.main_mem_address or 0,
        layer_at,
        weights_at,
        norm_at,
        activation_at,
    )
    # The runtime fills in these fields.
    blank = replace(layer.registers, int_en=0, send_data_out=0, para_start_addr=0, bwsx_base_addr=0, active_addr=0)
    for offset, part in (
        (layer_at, registers.pack(blank)),
        (weights_at, weights),
        (norm_at, norm),
        (activation_at, layer.activation.pack()),
    ):
        body[offset - start : offset - start + len(part)] = part
    return bytes(body)


def write(model: KmodelV3) -> bytes:
    """Encode. Raises FormatError if a field does not fit or the file exceeds what MaixPy loads (6 MiB)."""
    offset = HEADER_BYTES + 8 * len(model.outputs) + 8 * len(model.layers)
    types, bodies = [], []
    for layer in model.layers:
        if isinstance(layer, CpuLayer):
            types.append(layer.type)
            bodies.append(layer.body)
        else:
            types.append(K210_CONV)
            bodies.append(_write_conv(layer, offset))
        offset += len(bodies[-1])
    if offset > MAX_FILE_BYTES:
        raise FormatError(f"the kmodel would have {offset} bytes, but MaixPy loads at most {MAX_FILE_BYTES}")
    head = struct.pack(
        "<7I",
        VERSION,
        FLAG_EIGHT_BIT if model.eight_bit else 0,
        0,
        len(model.layers),
        model.max_start_line,
        model.main_mem_bytes,
        len(model.outputs),
    )
    head += b"".join(struct.pack("<2I", output.address, output.size_bytes) for output in model.outputs)
    head += b"".join(struct.pack("<2I", kind, len(body)) for kind, body in zip(types, bodies, strict=True))
    return head + b"".join(bodies)


def _slice(data: bytes, offset: int, count: int, what: str) -> bytes:
    if offset + count > len(data):
        raise FormatError(f"kmodel V3: {what} at {offset}, {count} bytes, lies outside of {len(data)} bytes")
    return data[offset : offset + count]


def _read_conv(data: bytes, start: int, size: int, index: int, eight_bit: bool) -> KpuLayer:
    what = f"layer {index}"
    if size < CONV_ARGUMENT_BYTES:
        raise FormatError(f"kmodel V3: {what} (k210_conv) has a body of {size} bytes, too short")
    flags, main_mem, layer_at, weights_at, norm_at, act_at = struct.unpack_from("<6I", data, start)
    for offset, name in ((layer_at, "registers"), (weights_at, "weights"), (norm_at, "bn"), (act_at, "activation")):
        if not start <= offset < start + size:
            raise FormatError(f"kmodel V3: {what}: {name} at {offset} lie outside of its body {start}+{size}")
    register_bytes = _slice(data, layer_at, registers.REGISTERS_BYTES, f"{what} registers")
    regs = registers.unpack(register_bytes)
    weight_bytes = 1 if eight_bit else 2
    layer = kpu_layer.build(
        register_bytes,
        _slice(data, weights_at, kpu_layer.weight_count(regs) * weight_bytes, f"{what} weights"),
        _slice(data, norm_at, 8 * (regs.o_ch_num + 1), f"{what} batch norm"),
        _slice(data, act_at, ACTIVATION_BYTES, f"{what} activation"),
        main_mem if flags & FLAG_MAIN_MEM_OUT else None,
        what,
        weight_bytes,
    )
    for line, count, name in (
        (layer.source_line, layer.in_lines, "input"),
        (layer.target_line, layer.out_lines, "output"),
    ):
        if line + count > RAM_LINES:
            raise FormatError(f"kmodel V3: {what}: {name} of {count} lines at line {line} of {RAM_LINES}")
    return layer


def is_kmodel(head: bytes) -> bool:
    """Whether a file with this beginning is a kmodel of any version."""
    return head[:4] in (BEGINNING, LATER_BEGINNING)


def check_version(data: bytes) -> None:
    """Raise FormatError, saying what the file is instead, unless it begins as a kmodel V3."""
    if data[:4] == LATER_BEGINNING and len(data) >= 8:
        (version,) = struct.unpack_from("<I", data, 4)
        made_by = {4: " (nncase 0.2)", 5: " (nncase 1.x)"}.get(version, "")
        raise FormatError(f"this is a kmodel V{version}{made_by}, but a V3 is needed: build the model again here")
    if len(data) < HEADER_BYTES:
        raise FormatError(f"not a kmodel V3: {len(data)} bytes are less than its header of {HEADER_BYTES}")
    (version,) = struct.unpack_from("<I", data)
    if version == 0x2713:
        raise FormatError("this is an encrypted kmodel V3 (smodel): it can only be read by the board it is for")
    if version != VERSION:
        raise FormatError(f"not a kmodel V3: the file begins with {data[:4].hex(' ')}, not 03 00 00 00")


def read(data: bytes) -> KmodelV3:
    """Decode a V3 file strictly: lengths must add up to the file's length, except that the last body may lack its
    padding. Raises FormatError."""
    check_version(data)
    _, flags, arch, layer_count, max_start, main_mem_bytes, output_count = struct.unpack_from("<7I", data)
    if arch != 0:
        raise FormatError(f"kmodel V3: architecture {arch}, but only 0 (K210) can be read")
    if not 1 <= layer_count <= MAX_LAYERS or not 1 <= output_count <= MAX_OUTPUTS:
        raise FormatError(f"kmodel V3: {layer_count} layers and {output_count} outputs are not possible")
    if max_start > RAM_LINES:
        raise FormatError(f"kmodel V3: it needs {max_start} lines of KPU RAM, but there are only {RAM_LINES}")
    head_bytes = HEADER_BYTES + 8 * output_count + 8 * layer_count
    head = _slice(data, 0, head_bytes, "header")
    outputs = []
    for index in range(output_count):
        address, size = struct.unpack_from("<2I", head, HEADER_BYTES + 8 * index)
        # nncase 0.1 writes four bytes per element even for bytes, so the end may lie beyond main memory.
        if address > main_mem_bytes:
            raise FormatError(f"kmodel V3: output {index} at {address} of {main_mem_bytes} bytes main memory")
        outputs.append(MainMemOutput(address, size))
    offset = head_bytes
    eight_bit = bool(flags & FLAG_EIGHT_BIT)
    layers: list[KpuLayer | CpuLayer] = []
    for index in range(layer_count):
        kind, size = struct.unpack_from("<2I", head, HEADER_BYTES + 8 * output_count + 8 * index)
        # nncase 0.1 pads bodies to 8 bytes and often leaves the padding of the last one out of the file.
        if index == layer_count - 1 and 0 < offset + size - len(data) < BODY_ALIGNMENT and size:
            size = len(data) - offset
        layers.append(_read_layer(data, kind, offset, size, index, eight_bit, main_mem_bytes))
        offset += size
    if offset != len(data):
        raise FormatError(f"kmodel V3: {len(data)} bytes, but its layers add up to {offset}")
    return KmodelV3(tuple(layers), tuple(outputs), main_mem_bytes, max_start, eight_bit)


def _read_layer(
    data: bytes, kind: int, offset: int, size: int, index: int, eight_bit: bool, main_mem_bytes: int
) -> KpuLayer | CpuLayer:
    if kind not in LAYER_TYPES or kind == 0:
        raise FormatError(f"kmodel V3: layer {index} has unknown type {kind}")
    if size == 0:
        raise FormatError(f"kmodel V3: layer {index} ({LAYER_TYPES[kind]}) has an empty body")
    body = _slice(data, offset, size, f"layer {index} body")
    if kind != K210_CONV:
        return CpuLayer(kind, body)
    layer = _read_conv(data, offset, size, index, eight_bit)
    if layer.main_mem_address is not None and layer.main_mem_address + layer.out_bytes > main_mem_bytes:
        raise FormatError(
            f"kmodel V3: layer {index} puts {layer.out_bytes} bytes at {layer.main_mem_address} of "
            f"{main_mem_bytes} bytes main memory"
        )
    return layer


# Main memory: outputs begin at multiples of 8, and DMA writes whole 8-byte words plus one.
_MAIN_MEM_ALIGN = 8
DMA_SLACK_BYTES = 8


def place_outputs(sizes_bytes: list[int]) -> tuple[tuple[MainMemOutput, ...], int]:
    """Main memory places for outputs of these sizes, and the bytes of main memory needed."""
    places, address = [], 0
    for size in sizes_bytes:
        places.append(MainMemOutput(address, size))
        address = _align(address + size + DMA_SLACK_BYTES, _MAIN_MEM_ALIGN)
    return tuple(places), address
