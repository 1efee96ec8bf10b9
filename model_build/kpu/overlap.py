"""Checks that a laid-out model never reads what it should not. The check knows nothing of the planner.

It replays a V3 model over the lines of KPU RAM, remembering for every line which layer wrote it, and compares
what each layer reads with what the layer's input should be made of. It works from registers alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from model_build.kpu import ram
from model_build.kpu.kmodel_v3 import DMA_SLACK_BYTES, KmodelV3
from model_build.kpu.layer import KpuLayer
from model_build.kpu.program import INPUT

_NOTHING = -2


@dataclass(frozen=True)
class Extent:
    """The lines from `first` up to, but not including, `end`."""

    first: int
    end: int

    def overlaps(self, other: Extent) -> bool:
        return self.first < other.end and other.first < self.end


def source_extent(layer: KpuLayer) -> Extent:
    return Extent(layer.source_line, layer.source_line + layer.in_lines)


def target_extent(layer: KpuLayer) -> Extent:
    return Extent(layer.target_line, layer.target_line + layer.out_lines)


def check(model: KmodelV3, sources: list[tuple[int, ...]] | None = None) -> None:
    """Raise UserError if the model's use of KPU RAM is unsound.

    - every map lies inside KPU RAM, and its registers agree with its size and layout;
    - no layer writes over its own input while reading it;
    - every line that a layer reads was written (by the picture or a layer), and those of its input that one layer
      wrote have that layer's row layout;
    - with `sources`, the layers that each layer's input must come from (INPUT for the picture), every line it reads
      was last written by one of them: nothing overwrote an input that is still needed.
    """
    writer = np.full(ram.RAM_LINES, _NOTHING)
    layers = model.kpu_layers
    first = source_extent(layers[0])
    if first.end > ram.RAM_LINES:
        raise UserError(f"the picture ends at line {first.end} of {ram.RAM_LINES}")
    writer[first.first : first.end] = INPUT
    highest = first.end
    for index, layer in enumerate(layers):
        reads, writes = source_extent(layer), target_extent(layer)
        for extent, what in ((reads, "input"), (writes, "output")):
            if extent.end > ram.RAM_LINES:
                raise UserError(f"layer {index}: {what} ends at line {extent.end} of {ram.RAM_LINES}")
        _check_registers(index, layer)
        if reads.overlaps(writes):
            raise UserError(
                f"layer {index} writes lines {writes.first}-{writes.end} over its input {reads.first}-{reads.end}"
            )
        found = set(np.unique(writer[reads.first : reads.end]).tolist())
        if _NOTHING in found:
            raise UserError(f"layer {index} reads lines {reads.first}-{reads.end}, but not all of them were written")
        if sources is not None and found != set(sources[index]):
            raise UserError(
                f"layer {index} should read what {sorted(sources[index])} wrote, but its lines hold {sorted(found)}"
            )
        for made in found - {INPUT}:
            if (layers[made].out_width, layers[made].out_height) != (layer.in_width, layer.in_height):
                raise UserError(f"layer {index} reads layer {made}'s map as one of another size")
        writer[writes.first : writes.end] = index
        highest = max(highest, reads.end, writes.end)
    if model.max_start_line < highest:
        raise UserError(f"the model says that it uses {model.max_start_line} lines, but it uses {highest}")
    _check_main_memory(model)


def _check_registers(index: int, layer: KpuLayer) -> None:
    regs = layer.registers
    source, target = ram.row_layout(layer.in_width), ram.row_layout(layer.out_width)
    expected = {
        "row_switch_addr": source.row_lines,
        "channel_switch_addr": source.row_lines * layer.in_height,
        "coef_group": source.groups,
        "wb_row_switch_addr": target.row_lines,
        "wb_channel_switch_addr": target.row_lines * layer.out_height,
        "wb_group": target.groups,
        "dma_total_byte": layer.out_bytes - 1,
    }
    for name, value in expected.items():
        if getattr(regs, name) != value:
            raise UserError(f"layer {index}: register {name} is {getattr(regs, name)}, but its size needs {value}")


def _check_main_memory(model: KmodelV3) -> None:
    """Outputs lie apart in main memory, with the bytes that DMA may write beyond each."""
    spans = sorted((output.address, output.address + output.size_bytes) for output in model.outputs)
    for (_, end), (start, _) in zip(spans, [*spans[1:], (model.main_mem_bytes, 0)], strict=True):
        if end + DMA_SLACK_BYTES > start:
            raise UserError(f"main memory: an output ends at {end}, but the next place begins at {start}")
    made = {layer.main_mem_address: layer.out_bytes for layer in model.kpu_layers}
    for index, output in enumerate(model.outputs):
        if made.get(output.address) != output.size_bytes:
            raise UserError(f"output {index} of {output.size_bytes} bytes at {output.address} is not made by any layer")
