"""kmodel version 5 (nncase 1.x): the KPU layers of its `k210` module.

Structures: nncase 1.9 runtime/model.h and k210/runtime_types.h, and model.h as it was before 6 August 2021, when
the same version number meant another layout. Little-endian throughout.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from common.errors import FormatError
from model_build.kpu import layer as kpu_layer
from model_build.kpu import registers
from model_build.kpu.kmodel_v3 import LATER_BEGINNING
from model_build.kpu.layer import KpuLayer
from model_build.kpu.program import KpuProgram, ProgramOutput, link
from model_build.kpu.ram import LINE_BYTES

VERSION = 5
_HEADER_BYTES = 32
_FUNCTION_HEADER_BYTES = 32

LOCATION_INPUT, LOCATION_OUTPUT, LOCATION_RDATA, LOCATION_DATA, LOCATION_SHARED = range(5)
LOCATION_KPU = 64
DATATYPE_UINT8, DATATYPE_FLOAT32 = 4, 9

_OP_UPLOAD, _OP_DOWNLOAD, _OP_CONV2D, _OP_COPY = range(4)
_OP_BYTES = {_OP_UPLOAD: 44, _OP_DOWNLOAD: 44, _OP_CONV2D: 152, _OP_COPY: 76}


@dataclass(frozen=True)
class MemoryRange:
    """Where a tensor lies: location code, datatype code, byte offset and length."""

    location: int
    datatype: int
    start: int
    size: int


@dataclass(frozen=True)
class Function:
    """A function of a module: its inputs and outputs with their shapes, and where its code lies in .text, in bytes."""

    inputs: tuple[MemoryRange, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[MemoryRange, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    entry_point: int
    text_bytes: int


@dataclass(frozen=True)
class Module:
    """A module by its kind, for example k210 or stackvm, with its functions and sections."""

    type: str
    functions: tuple[Function, ...]
    sections: dict[str, bytes] = field(repr=False)


class _Reader:
    """Reads little-endian numbers, and checks that they lie inside the file."""

    def __init__(self, data: bytes, offset: int = 0):
        self.data, self.offset = data, offset

    def take(self, count: int, what: str) -> bytes:
        if count < 0 or self.offset + count > len(self.data):
            raise FormatError(
                f"kmodel V5 is cut short: {what} needs {count} bytes at {self.offset} of {len(self.data)}"
            )
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def u32(self, count: int, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.take(4 * count, what))

    def range(self, what: str) -> MemoryRange:
        location, datatype, _, start, size = struct.unpack("<BBHII", self.take(12, what))
        return MemoryRange(location, datatype, start, size)

    def shape(self, what: str) -> tuple[int, ...]:
        (rank,) = self.u32(1, what)
        if rank > 8:
            raise FormatError(f"kmodel V5: {what} has rank {rank}")
        return self.u32(rank, what)


def _limited(count: int, what: str) -> int:
    if count > 4096:
        raise FormatError(f"kmodel V5: {count} {what} are not possible")
    return count


def _read_parameters(
    reader: _Reader, count: int, what: str
) -> tuple[tuple[MemoryRange, ...], tuple[tuple[int, ...], ...]]:
    """Ranges, then shapes, of the inputs or the outputs."""
    _limited(count, what + "s")
    return tuple(reader.range(what) for _ in range(count)), tuple(reader.shape(what + " shape") for _ in range(count))


def _read_function(reader: _Reader) -> Function:
    header_at = reader.offset
    header_bytes, size, _, _, inputs, outputs, entry, text_bytes = reader.u32(8, "function header")
    if header_bytes != _FUNCTION_HEADER_BYTES:
        raise FormatError(
            f"kmodel V5: a function header has {header_bytes} bytes instead of {_FUNCTION_HEADER_BYTES}; the file is "
            "damaged, or was made by an unreleased nncase"
        )
    in_ranges, in_shapes = _read_parameters(reader, inputs, "function input")
    out_ranges, out_shapes = _read_parameters(reader, outputs, "function output")
    if size < reader.offset - header_at:
        raise FormatError(f"kmodel V5: a function header says {size} bytes, but its contents are longer")
    reader.offset = header_at + size
    return Function(in_ranges, in_shapes, out_ranges, out_shapes, entry, text_bytes)


def _read_module(reader: _Reader) -> Module:
    start = reader.offset
    kind = reader.take(16, "module header").rstrip(b"\0").decode("latin-1")
    _, header_bytes, size, mempools, shared, sections, functions, _ = reader.u32(8, "module header")
    if size < header_bytes or start + size > len(reader.data):
        raise FormatError(f"kmodel V5: module {kind!r} says {size} bytes at {start} of {len(reader.data)}")
    reader.offset = start + header_bytes
    reader.take(8 * (_limited(mempools, "memory pools") + _limited(shared, "shared pools")), "memory pools")
    found_functions = tuple(_read_function(reader) for _ in range(_limited(functions, "functions")))
    bodies = _read_sections(reader, sections)
    reader.offset = start + size
    return Module(kind, found_functions, bodies)


def _read_old_module(reader: _Reader) -> Module:
    """A module as nncase wrote it before August 2021: without functions, inputs and outputs are its own."""
    kind = reader.take(16, "module header").rstrip(b"\0").decode("latin-1")
    size, mempools, inputs, outputs, sections, _ = reader.u32(6, "module header")
    # The size does not count the header.
    start = reader.offset
    if start + size > len(reader.data):
        raise FormatError(f"kmodel V5: module {kind!r} says {size} bytes at {start} of {len(reader.data)}")
    reader.take(8 * _limited(mempools, "memory pools"), "memory pools")
    in_ranges, in_shapes = _read_parameters(reader, inputs, "module input")
    out_ranges, out_shapes = _read_parameters(reader, outputs, "module output")
    bodies = _read_sections(reader, sections)
    reader.offset = start + size
    function = Function(in_ranges, in_shapes, out_ranges, out_shapes, 0, len(bodies.get(".text", b"")))
    return Module(kind, (function,), bodies)


def _read_sections(reader: _Reader, sections: int) -> dict[str, bytes]:
    bodies: dict[str, bytes] = {}
    merged: list[tuple[str, int, int]] = []
    for _ in range(_limited(sections, "sections")):
        name = reader.take(16, "section header").rstrip(b"\0").decode("latin-1")
        flags, body_start, body_bytes, _ = reader.u32(4, "section header")
        if flags & 1:
            merged.append((name, body_start, body_bytes))
        else:
            reader.take(body_start, f"padding of section {name}")
            bodies[name] = reader.take(body_bytes, f"section {name}")
    for name, body_start, body_bytes in merged:
        rdata = bodies.get(".rdata", b"")
        if body_start + body_bytes > len(rdata):
            raise FormatError(f"kmodel V5: section {name} lies outside of .rdata")
        bodies[name] = rdata[body_start : body_start + body_bytes]
    return bodies


def read_modules(data: bytes) -> tuple[Module, ...]:
    """All modules of a V5 file, of either layout, at least one. Raises FormatError for anything else."""
    if data[:4] != LATER_BEGINNING:
        raise FormatError(f"not a kmodel V5: the file begins with {data[:4].hex(' ') or 'nothing'}, not LDMK")
    reader = _Reader(data)
    _, version, header_bytes = reader.u32(3, "header")
    if version != VERSION:
        raise FormatError(f"this is a kmodel V{version}, but a V5 (nncase 1.x) is needed")
    if header_bytes == _HEADER_BYTES:
        _, _, count, _, _ = reader.u32(5, "header")
        read_module = _read_module
    elif header_bytes == 0:
        # In the place of the size there were flags, which were always 0: identifier, version, flags, alignment,
        # modules, main.
        _, count, _ = reader.u32(3, "header")
        read_module = _read_old_module
    else:
        raise FormatError(
            f"kmodel V5: the header has {header_bytes} bytes instead of {_HEADER_BYTES} or, before August 2021, "
            "24; the file is damaged"
        )
    if count == 0:
        raise FormatError("kmodel V5: its header names no module, which no compiler writes; the file is damaged")
    return tuple(read_module(reader) for _ in range(_limited(count, "modules")))


def module_names(modules: tuple[Module, ...]) -> str:
    """The kinds of the modules and the number of each, as text."""
    counts = Counter(module.type or "?" for module in modules)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _range_bytes(rdata: bytes, span: MemoryRange, what: str) -> bytes:
    if span.location != LOCATION_RDATA or span.start + span.size > len(rdata):
        raise FormatError(f"kmodel V5: {what} is not inside .rdata")
    return rdata[span.start : span.start + span.size]


def _kpu_line(span: MemoryRange, what: str) -> int:
    if span.location != LOCATION_KPU or span.start % LINE_BYTES:
        raise FormatError(f"kmodel V5: {what} is not a line of KPU RAM")
    return span.start // LINE_BYTES


def _kpu_module(modules: tuple[Module, ...]) -> Module:
    """The module that the KPU runs: the only one of its kind, with one function."""
    found = [module for module in modules if module.type == "k210"]
    if len(found) != 1 or len(found[0].functions) != 1:
        raise FormatError(
            f"a kmodel V5 with one k210 module of one function is needed; this one has the modules "
            f"{module_names(modules)}"
        )
    return found[0]


def read(data: bytes) -> KpuProgram:
    """The KPU program in a V5 file: every op must be upload, convolution or download.

    Outputs are in the order of the model's outputs; scale and zero point come from the float
    post-processing in the file. Raises FormatError if the file is damaged or needs more than the KPU.
    """
    modules = read_modules(data)
    module = _kpu_module(modules)
    function = module.functions[0]
    text = module.sections.get(".text", b"")[function.entry_point :][: function.text_bytes]
    ops = _Ops(text, module.sections.get(".rdata", b""))
    if not ops.layers or len(ops.input_lines) != 1:
        raise FormatError(
            f"kmodel V5: {len(ops.layers)} KPU layers and {len(ops.input_lines)} inputs; only one input can be read"
        )
    sources = link(ops.layers, ops.input_lines[0])
    outputs = _outputs(function, ops.layers, ops.downloads)
    stackvm = [other for other in modules if other.type == "stackvm"]
    if stackvm and stackvm[0].functions:
        outputs = _as_model_outputs(stackvm[0], modules.index(module), function, outputs)
    return KpuProgram(tuple(ops.layers), sources, outputs)


class _Ops:
    """What the ops of the KPU's function do, one after the other."""

    def __init__(self, text: bytes, rdata: bytes):
        self.layers: list[KpuLayer] = []
        self.input_lines: list[int] = []
        self.downloads: list[tuple[MemoryRange, int]] = []  # range, layer that made it
        self._reader, self._rdata = _Reader(text), rdata
        steps = {_OP_CONV2D: self._convolution, _OP_UPLOAD: self._upload, _OP_DOWNLOAD: self._download}
        while self._reader.offset < len(text):
            opcode = self._reader.take(4, "KPU op")[0]
            if opcode not in steps:
                known = "copy" if opcode == _OP_COPY else f"op {opcode}"
                raise FormatError(f"kmodel V5: the KPU module has a {known}, only convolutions are supported")
            steps[opcode]()

    def _convolution(self) -> None:
        name = f"layer {len(self.layers)}"
        *spans, main_mem = (self._reader.range("KPU convolution") for _ in range(4))
        (batches,) = self._reader.u32(1, "KPU convolution")
        if batches != 1:
            raise FormatError(f"kmodel V5: {name} has batch size {batches}; only 1 can be read")
        register_bytes = self._reader.take(registers.REGISTERS_BYTES, "KPU registers")
        weights, norm, act = (
            _range_bytes(self._rdata, span, f"{name} {part}")
            for span, part in zip(spans, ("weights", "batch norm", "activation"), strict=True)
        )
        if main_mem.size:
            self.downloads.append((main_mem, len(self.layers)))
        self.layers.append(kpu_layer.build(register_bytes, weights, norm, act, name=name))

    def _transfer(self) -> tuple[MemoryRange, MemoryRange]:
        source, target = self._reader.range("KPU transfer"), self._reader.range("KPU transfer")
        self._reader.u32(4, "KPU transfer shape")
        return source, target

    def _upload(self) -> None:
        self.input_lines.append(_kpu_line(self._transfer()[1], "upload"))

    def _download(self) -> None:
        source, target = self._transfer()
        line = _kpu_line(source, "download")
        writers = [i for i, layer in enumerate(self.layers) if layer.target_line == line]
        if not writers:
            raise FormatError(f"kmodel V5: a download from KPU line {line}, where no layer has written")
        self.downloads.append((target, writers[-1]))


def _outputs(
    function: Function, layers: list[KpuLayer], downloads: list[tuple[MemoryRange, int]]
) -> tuple[ProgramOutput, ...]:
    """Outputs of the KPU function in its order."""
    found = []
    for index, span in enumerate(function.outputs):
        makers = [i for made, i in downloads if made.location == LOCATION_OUTPUT and made.start == span.start]
        if not makers:
            raise FormatError(f"kmodel V5: output {index} of the KPU module is not made by any layer")
        if layers[makers[-1]].out_bytes != span.size:
            raise FormatError(f"kmodel V5: output {index} has {span.size} bytes, but its layer makes another size")
        found.append(ProgramOutput(makers[-1]))
    return tuple(found)


# The float module is a program for a stack machine. Only two of its instructions matter here: the call of the
# KPU function, whose arguments say where its outputs go, and the dequantizations that read them from there.
_LEA_BUFFER, _LDC_I4, _LDC_R4, _STSHAPE = 0x17, 0x02, 0x05, 0x31
_LEA_BYTES, _LDC_BYTES, _STSHAPE_BYTES = 7, 5, 3
_CALL, _DEQUANTIZE = b"\x5e\x03\x00", b"\x5e\x0b\x00" + bytes([DATATYPE_UINT8, DATATYPE_FLOAT32])


def _buffer_at(text: bytes, at: int) -> tuple[int, int] | None:
    """(location, offset) of a LEA_BUFFER instruction, if there is one."""
    if at < 0 or at + _LEA_BYTES > len(text) or text[at] != _LEA_BUFFER:
        return None
    location, _, offset = struct.unpack_from("<BBI", text, at + 1)
    return location, offset


def _call_arguments(text: bytes, kpu_module: int, function: Function) -> list[tuple[int, int]] | None:
    """Where the call of the KPU function puts its outputs: (location, offset) in the function's order."""
    inputs, outputs = len(function.inputs), len(function.outputs)
    call = _CALL + struct.pack("<IHBB", 0, kpu_module, inputs & 0xFF, outputs & 0xFF)
    at = text.find(call)
    if at < 0:
        return None
    found = []
    for shape in reversed(function.output_shapes):
        # buffer, data type, then shape and strides: their numbers, STSHAPE and the register's number
        at -= _LEA_BYTES + _LDC_BYTES + 2 * (_LDC_BYTES * len(shape) + _STSHAPE_BYTES + _LDC_BYTES)
        place = _buffer_at(text, at)
        if place is None:
            return None
        found.append(place)
    return found[::-1]


def _dequantizations(text: bytes) -> list[tuple[tuple[int, int], tuple[int, int], float, float]]:
    """(source, target, scale, bias) of every uint8 → float32 dequantization: real = byte·scale + bias."""
    found = []
    at = text.find(_DEQUANTIZE)
    while at >= 0:
        constants = at - 2 * _LDC_BYTES
        if constants >= 0 and text[constants] == _LDC_R4 and text[constants + _LDC_BYTES] == _LDC_R4:
            scale, bias = struct.unpack_from("<fxf", text, constants + 1)
            for rank in range(1, 7):
                start = constants - 3 * (rank * _LDC_BYTES + _STSHAPE_BYTES) - 2 * _LEA_BYTES
                source, target = _buffer_at(text, start), _buffer_at(text, start + _LEA_BYTES)
                if source and target and text[start + 2 * _LEA_BYTES] == _LDC_I4:
                    found.append((source, target, scale, bias))
                    break
        at = text.find(_DEQUANTIZE, at + 1)
    return found


def _as_model_outputs(
    stackvm: Module, kpu_module: int, function: Function, outputs: tuple[ProgramOutput, ...]
) -> tuple[ProgramOutput, ...]:
    """The outputs in the model's order with scale and zero point; unchanged if the file does not tell them."""
    text = stackvm.sections.get(".text", b"")
    places = _call_arguments(text, kpu_module, function)
    model_outputs = {(span.location, span.start): i for i, span in enumerate(stackvm.functions[0].outputs)}
    if places is None:
        return outputs
    by_place = {source: (target, scale, bias) for source, target, scale, bias in _dequantizations(text)}
    ordered: dict[int, ProgramOutput] = {}
    for output, place in zip(outputs, places, strict=True):
        if place in model_outputs:  # These outputs are bytes, without scale and zero point.
            ordered[model_outputs[place]] = output
            continue
        target, scale, bias = by_place.get(place, (None, 0.0, 0.0))
        if target not in model_outputs or not scale > 0 or not abs(bias / scale) < 1e6:
            return outputs
        ordered[model_outputs[target]] = ProgramOutput(output.layer, scale, round(-bias / scale))
    return tuple(ordered[index] for index in sorted(ordered)) if len(ordered) == len(outputs) else outputs


def rewrite(data: bytes, program: KpuProgram) -> bytes:
    """The same file with the weights, tables and arithmetic registers of `program`, whose layers it must have.

    Addresses and sizes stay, so nncase's simulator can run the new values. Raises FormatError if the layers
    are not those of the file.
    """
    module = _kpu_module(read_modules(data))
    function, sections = module.functions[0], module.sections
    text_at, rdata_at = (_only_place(data, sections.get(name, b""), name) for name in (".text", ".rdata"))
    text = sections[".text"][: function.entry_point + function.text_bytes]
    out = bytearray(data)
    offset, layers = function.entry_point, iter(program.layers)
    while offset < len(text):
        opcode = text[offset]
        if opcode not in _OP_BYTES:
            raise FormatError(f"kmodel V5: unknown KPU op {opcode}")
        if opcode == _OP_CONV2D:
            layer = next(layers, None)
            if layer is None:
                raise FormatError(f"the file has more KPU layers than the program's {len(program.layers)}")
            reader = _Reader(text, offset + 4)
            spans = [reader.range("KPU convolution") for _ in range(3)]
            parts = [layer.weights.tobytes(), layer.batch_norm.pack(), layer.activation.pack()]
            for span, part in zip(spans, parts, strict=True):
                if span.location != LOCATION_RDATA or not 0 <= span.size - len(part) < 256:
                    raise FormatError(f"{layer.name}: {len(part)} bytes do not fit the {span.size} bytes of the file")
                out[rdata_at + span.start : rdata_at + span.start + len(part)] = part
            at = text_at + offset + _OP_BYTES[opcode] - registers.REGISTERS_BYTES
            out[at : at + registers.REGISTERS_BYTES] = registers.pack(layer.registers)
        offset += _OP_BYTES[opcode]
    if next(layers, None) is not None:
        raise FormatError(f"the file has fewer KPU layers than the program's {len(program.layers)}")
    return bytes(out)


def _only_place(data: bytes, section: bytes, name: str) -> int:
    """The position of a section's bytes in the file."""
    at = data.find(section) if section else -1
    if at < 0 or data.find(section, at + 1) >= 0:
        raise FormatError(f"kmodel V5: section {name} cannot be told from the rest of the file")
    return at
