"""The report's table: what each KPU layer of a build is, where it lies, and its estimated cost.

Text, CSV and JSON are made from one table of columns, so they always agree.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model_build.kpu import cycles, ram
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import LEFT_TOP_2, KpuLayer
from model_build.kpu.layout_search import LayoutPlan, Piece
from model_build.kpu.program import KpuProgram


@dataclass(frozen=True)
class _Column:
    key: str
    title: str
    shown: Callable[[Any], str]
    meaning: str


def _text(value: Any) -> str:
    return str(value)


def _thousands(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


COLUMNS: tuple[_Column, ...] = (
    _Column("index", "#", _text, "KPU layer in the kmodel, from 0"),
    _Column("name", "layer", _text, "layer of the network; [a:b] a range of its channels"),
    _Column("type", "type", _text, "as run: conv or depthwise, and the form that the layout gave it"),
    _Column("in_shape", "in WxHxC", _text, "input map"),
    _Column("out_shape", "out WxHxC", _text, "output map, after pooling"),
    _Column("kernel", "k", _text, "side of the kernel as run"),
    _Column("stride", "s", _text, "stride as run, which is pooling"),
    _Column("in_lines", "in", _text, "64-byte lines of KPU RAM of the input"),
    _Column("out_lines", "out", _text, "64-byte lines of KPU RAM of the output"),
    _Column("source_line", "from", _text, "first line of the input"),
    _Column("target_line", "to", _text, "first line of the output"),
    _Column("macs_useful", "MACs useful", _thousands, "multiply-adds that the network asks for"),
    _Column("macs_executed", "MACs run", _thousands, "multiply-adds that the KPU does, before pooling"),
    _Column("estimate_us", "est. us", _thousands, "estimated time (" + cycles.MODEL + ")"),
    _Column("share", "share %", _percent, "of the estimated total"),
    _Column("utilisation", "util %", _percent, "useful MACs against 576 a cycle for the estimated time"),
)


@dataclass(frozen=True)
class KpuReport:
    """Rows by COLUMNS' keys, totals, and quality figures of the heads if given."""

    rows: tuple[dict[str, Any], ...]
    totals: dict[str, Any]
    heads: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary, for report.json."""
        return {
            "columns": {column.key: column.meaning for column in COLUMNS},
            "layers": list(self.rows),
            "totals": self.totals,
            **({"heads": list(self.heads)} if self.heads else {}),
        }

    def csv(self) -> str:
        """The report as CSV: one line for each KPU layer, in plain numbers."""
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow([column.key for column in COLUMNS])
        writer.writerows([row[column.key] for column in COLUMNS] for row in self.rows)
        return target.getvalue()

    def text(self) -> str:
        """The table and the totals for people."""
        cells = [[column.title for column in COLUMNS]]
        cells += [[column.shown(row[column.key]) for column in COLUMNS] for row in self.rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        left = {"name", "type"}
        lines = []
        for line in cells:
            padded = [
                cell.ljust(width) if column.key in left else cell.rjust(width)
                for cell, width, column in zip(line, widths, COLUMNS, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        t = self.totals
        lines += [
            "",
            f"KPU time       about {t['estimate_ms']:.1f} ms a picture, {t['frames_per_second_bound']:.1f} pictures/s "
            f"at most: an estimate ({cycles.MODEL}), not a measurement",
            f"KPU RAM        {t['kpu_ram_peak_bytes'] / 1024:,.0f} KiB live at most, highest line used "
            f"{t['highest_line']:,} of {ram.RAM_LINES:,} ({ram.RAM_BYTES // 1024:,} KiB)",
            f"MACs           {t['macs_useful'] / 1e6:,.1f} million useful, {t['macs_executed'] / 1e6:,.1f} million run",
            f"on the CPU     {t['cpu_layers']} layers",
        ]
        return "\n".join(lines) + "\n"


def make(model: KmodelV3, plan: LayoutPlan, program: KpuProgram, heads: Sequence[dict[str, Any]] = ()) -> KpuReport:
    """The report of a laid-out model; `heads` is passed through."""
    layers = model.kpu_layers
    estimates = [cycles.layer_us(layer) for layer in layers]
    total_us = sum(estimates)
    rows: list[dict[str, Any]] = []
    for layer, piece, us in zip(layers, plan.pieces, estimates, strict=True):
        head = {"index": len(rows), "name": _name(piece, program)}
        rows.append(head | _row(layer, piece, _useful_macs(layer, piece, program, plan), us, us / total_us))
    totals = {
        "kpu_layers": len(layers),
        "cpu_layers": len(model.layers) - len(layers),
        "estimate_ms": round(total_us / 1000, 3),
        "estimate_model": cycles.MODEL,
        "kpu_clock_hz": cycles.KPU_CLOCK_HZ,
        "frames_per_second_bound": round(1e6 / total_us, 2),
        "kpu_ram_peak_lines": plan.peak_lines,
        "kpu_ram_peak_bytes": plan.peak_lines * ram.LINE_BYTES,
        "highest_line": model.max_start_line,
        "kpu_ram_bytes": ram.RAM_BYTES,
        "main_mem_bytes": model.main_mem_bytes,
        "macs_useful": sum(row["macs_useful"] for row in rows),
        "macs_executed": sum(row["macs_executed"] for row in rows),
        "utilisation": round(_utilisation(sum(row["macs_useful"] for row in rows), total_us), 5),
    }
    return KpuReport(tuple(rows), totals, tuple(heads))


def _row(layer: KpuLayer, piece: Piece, useful_macs: int, us: float, share: float) -> dict[str, Any]:
    return {
        "type": _type(layer, piece),
        "in_shape": f"{layer.in_width}x{layer.in_height}x{layer.in_channels}",
        "out_shape": f"{layer.out_width}x{layer.out_height}x{layer.out_channels}",
        "kernel": layer.kernel_size,
        "stride": layer.pool_stride,
        "in_lines": layer.in_lines,
        "out_lines": layer.out_lines,
        "source_line": layer.source_line,
        "target_line": layer.target_line,
        "macs_useful": useful_macs,
        "macs_executed": cycles.executed_macs(layer),
        "estimate_us": round(us, 1),
        "share": round(share, 5),
        "utilisation": round(_utilisation(useful_macs, us), 5),
    }


def _name(piece: Piece, program: KpuProgram) -> str:
    name = program.layers[piece.layer].name or f"layer {piece.layer}"
    return f"{name} [{piece.first}:{piece.last}]" if piece.groups > 1 else name


def _type(layer: KpuLayer, piece: Piece) -> str:
    kind = "depthwise" if layer.depthwise else "conv"
    return kind if piece.form == "plain" else f"{kind} {piece.form}"


def _useful_macs(layer: KpuLayer, piece: Piece, program: KpuProgram, plan: LayoutPlan) -> int:
    """Multiply-adds per kept output pixel: a depthwise kernel has nine per channel in any form. If the layer
    after it drops three pixels of four, only a quarter of its pixels count."""
    original = program.layers[piece.layer]
    per_pixel = original.weights[piece.first : piece.last].size
    pixels = layer.out_width * layer.out_height
    if original.depthwise and not layer.pool_type:
        readers = [i for i, source in enumerate(program.sources) if source == piece.layer]
        kept = {other.pool_type for other in plan.pieces if other.layer in readers}
        if kept == {LEFT_TOP_2}:
            pixels //= 4
    return per_pixel * pixels


def _utilisation(macs: int, us: float) -> float:
    return macs / (cycles.PEAK_MACS_PER_CYCLE * us * cycles.KPU_CLOCK_HZ / 1e6)
