"""Descriptions of kmodel files, one reader for each version."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import Counter
from typing import Any

from common import kfpkg, spiffs
from common.errors import FormatError
from common.flash_map import FILES_ADDRESS
from model_build.inspect import kmodel_v4
from model_build.inspect.description import Description, TableOf, bytes_text, shape_text
from model_build.kpu import kmodel_v3, kmodel_v5
from model_build.kpu.cycles import executed_macs
from model_build.kpu.layer import KpuLayer
from model_build.kpu.ram import LINE_BYTES, RAM_LINES

_LAYER_COLUMNS = (
    "layer", "kind", "input", "output", "kernel", "pool", "from line", "to line", "weights", "to main memory",
)  # fmt: skip


_NODE_COLUMNS = ("node", "kind", "input", "output", "kernel", "pool", "from line", "to line", "bytes")


def describe(data: bytes, name: str) -> Description:
    """Describe a kmodel V3, V4 or V5; FormatError if it is damaged."""
    if data[:4] == kmodel_v3.BEGINNING:
        return _v3(data, name)
    if len(data) < 8:
        raise FormatError(f"{name}: {len(data)} bytes are not a kmodel")
    (version,) = struct.unpack_from("<I", data, 4)
    if version == 4:
        return _v4(data, name)
    if version == 5:
        return _v5(data, name)
    raise FormatError(f"{name} is a kmodel of version {version}; only 3, 4 and 5 can be read")


def describe_kfpkg(data: bytes, name: str) -> Description:
    """Describe a kflash package: its list of files, and the kmodel among them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            rows, notes, tables = [], [], []
            for entry in kfpkg.entries(package, name):
                rows.append((entry.name, f"{entry.address_bytes:#x}", entry.size_bytes))
                content = package.read(entry.name)
                if kmodel_v3.is_kmodel(content):
                    inner = describe(content, entry.name)
                    notes.append(f"{entry.name}: {inner.form}, {inner.facts.get('layers', '')}")
                if entry.address_bytes == FILES_ADDRESS:
                    try:
                        held = [(file, len(data)) for file, data in spiffs.files(content).items()]
                    except FormatError as error:
                        notes.append(f"{entry.name}: {error}")
                        continue
                    tables.append(TableOf("files on /flash", ("file", "bytes"), held))
                    notes.append(f"{entry.name}: MaixPy's file system; flashed, it replaces all that /flash holds")
    except (KeyError, ValueError, TypeError, AttributeError, OSError, NotImplementedError, RuntimeError, EOFError,
            RecursionError, struct.error, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise FormatError(f"{name} is not a kflash package: {' '.join(str(error).split())}") from None
    return Description(
        file=name,
        form="kflash package (kfpkg)",
        facts={"size": bytes_text(len(data)), "files": len(rows)},
        tables=[TableOf("files", ("file", "flash address", "bytes"), rows), *tables],
        notes=notes,
    )


def _v3(data: bytes, name: str) -> Description:
    model = kmodel_v3.read(data)
    rows = []
    for index, layer in enumerate(model.layers):
        if isinstance(layer, KpuLayer):
            rows.append(_kpu_row(index, layer))
        else:
            rows.append((index, layer.type_name, "", "", "", "", "", "", f"{len(layer.body)} bytes of body", "CPU"))
    kpu = model.kpu_layers
    kinds = Counter("k210_conv" if isinstance(layer, KpuLayer) else layer.type_name for layer in model.layers)
    facts: dict[str, Any] = {
        "size": bytes_text(len(data)),
        "layers": f"{len(model.layers)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        "weights": "8 bits" if model.eight_bit else "16 bits",
        "main memory": bytes_text(model.main_mem_bytes),
        "KPU RAM": _lines_text(kpu),
        "multiply-adds": f"{sum(executed_macs(layer) for layer in kpu) / 1e6:,.1f} million as run",
    }
    if kpu:
        facts["picture"] = f"{kpu[0].in_channels} planes of {kpu[0].in_width}×{kpu[0].in_height}"
    return Description(
        file=name,
        form="kmodel V3 (every MaixPy loads it)",
        facts=facts,
        tables=[
            TableOf("outputs", ("output", "main memory address", "bytes"), [
                (i, output.address, output.size_bytes) for i, output in enumerate(model.outputs)]),
            TableOf("layers", _LAYER_COLUMNS, rows),
        ],
        notes=[
            "A V3 file holds no scales: what output bytes mean stands in posenet.json beside it, or in the program "
            "that came with it."
        ],
    )  # fmt: skip


def _lines_text(layers: list[KpuLayer]) -> str:
    if not layers:
        return "none"
    first = min(min(layer.source_line, layer.target_line) for layer in layers)
    end = max(max(layer.source_line + layer.in_lines, layer.target_line + layer.out_lines) for layer in layers)
    return f"lines {first:,} to {end:,} of {RAM_LINES:,}, {(end - first) * LINE_BYTES / 1024:,.0f} KiB"


def _kpu_row(index: int, layer: KpuLayer) -> tuple[Any, ...]:
    kind = "depthwise" if layer.depthwise else "convolution"
    return (
        index, kind, f"{layer.in_channels}×{layer.in_height}×{layer.in_width}",
        f"{layer.out_channels}×{layer.out_height}×{layer.out_width}", f"{layer.kernel_size}×{layer.kernel_size}",
        layer.pool_type or "", layer.source_line, layer.target_line, layer.weights.size,
        "yes" if layer.main_mem_address is not None else "",
    )  # fmt: skip


def _v4(data: bytes, name: str) -> Description:
    model = kmodel_v4.read(data)
    kinds = Counter(node.kind for node in model.nodes)
    rows: list[tuple[Any, ...]] = []
    for index, node in enumerate(model.nodes):
        layer = node.registers
        if layer is None:
            rows.append((index, node.kind, "", "", "", "", "", "", node.body_bytes))
            continue
        channels = (layer.i_ch_num + 1, layer.o_ch_num + 1)
        rows.append((
            index, node.kind + (" depthwise" if layer.depth_wise_layer else ""),
            f"{channels[0]}×{layer.i_col_high + 1}×{layer.i_row_wid + 1}",
            f"{channels[1]}×{layer.o_col_high + 1}×{layer.o_row_wid + 1}",
            "3×3" if layer.kernel_type else "1×1", layer.pool_type or "",
            layer.image_src_addr, layer.image_dst_addr, node.body_bytes,
        ))  # fmt: skip
    return Description(
        file=name,
        form="kmodel V4 (nncase 0.2; only some MaixPy builds load it)",
        facts={
            "size": bytes_text(len(data)),
            "target": model.target,
            "nodes": f"{len(model.nodes)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            "constants": bytes_text(model.constants_bytes),
            "main memory": bytes_text(model.main_mem_bytes),
        },
        tables=[
            TableOf("inputs", ("input", "shape", "memory", "type", "address", "bytes"), [
                (i, shape_text(shape), place.memory, place.datatype, place.start, place.size)
                for i, (place, shape) in enumerate(model.inputs)]),
            TableOf("outputs", ("output", "memory", "type", "address", "bytes"), [
                (i, place.memory, place.datatype, place.start, place.size) for i, place in enumerate(model.outputs)]),
            TableOf("nodes", _NODE_COLUMNS, rows),
        ],
        notes=["A V4 file holds no shapes of its outputs; programs must name them (kpu.set_outputs)."],
    )  # fmt: skip


def _v5(data: bytes, name: str) -> Description:
    modules = kmodel_v5.read_modules(data)
    module_rows = [
        (
            module.type,
            len(module.functions),
            ", ".join(f"{key} {len(value):,}" for key, value in module.sections.items()),
        )
        for module in modules
    ]
    tables = [TableOf("modules", ("module", "functions", "sections, bytes"), module_rows)]
    facts: dict[str, Any] = {"size": bytes_text(len(data)), "modules": kmodel_v5.module_names(modules)}
    notes = ["No MaixPy loads V5, and builds that take V4 crash on it; `python -m model_build build` makes V3."]
    if any(module.type == "k210" for module in modules):
        try:
            program = kmodel_v5.read(data)
        except FormatError as error:
            notes.append(str(error))
        else:
            channels, height, width = program.input_shape
            facts["layers"] = f"{len(program.layers)} on the KPU"
            facts["picture"] = f"{channels} planes of {width}×{height}"
            macs = sum(executed_macs(layer) for layer in program.layers)
            facts["multiply-adds"] = f"{macs / 1e6:,.1f} million as run"
            tables.append(TableOf("outputs", ("output", "layer", "scale", "zero point"), [
                (i, output.layer, _scale_text(output.scale), output.zero_point)
                for i, output in enumerate(program.outputs)
            ]))  # fmt: skip
            tables.append(
                TableOf("layers", _LAYER_COLUMNS, [_kpu_row(i, layer) for i, layer in enumerate(program.layers)])
            )
    else:
        notes.append("It holds no code for the K210's KPU.")
    return Description(file=name, form="kmodel V5 (nncase 1.x)", facts=facts, tables=tables, notes=notes)


def _scale_text(scale: Any) -> str:
    if scale is None:
        return ""
    if isinstance(scale, float | int):
        return f"{scale:.6g}"
    return f"{len(scale)} of {min(scale):.3g} … {max(scale):.3g}"
