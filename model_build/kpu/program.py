"""A KPU program: the layers and their connections, without addresses."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import FormatError
from model_build.kpu.layer import KpuLayer

INPUT = -1
"""The picture, where layers are named by their number."""


@dataclass(frozen=True)
class ProgramOutput:
    """An output: the layer that makes it, and real value = (byte − zero_point) · scale where known.

    scale is a tuple if each channel has its own.
    """

    layer: int
    scale: float | tuple[float, ...] | None = None
    zero_point: int | None = None
    name: str = ""


@dataclass(frozen=True)
class KpuProgram:
    """layers in execution order; sources[i] is the layer that layer i reads, or INPUT."""

    layers: tuple[KpuLayer, ...]
    sources: tuple[int, ...]
    outputs: tuple[ProgramOutput, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the picture."""
        first = self.layers[self.sources.index(INPUT)]
        return first.in_channels, first.in_height, first.in_width


def link(layers: list[KpuLayer], input_line: int) -> tuple[int, ...]:
    """For each layer the layer that last wrote its source line; INPUT for the picture, which lies at `input_line`.

    Raises FormatError if a layer reads an address where no map of that shape begins.
    """
    writer: dict[int, int] = {input_line: INPUT}
    sources = []
    for index, layer in enumerate(layers):
        if layer.source_line not in writer:
            raise FormatError(f"layer {index} reads KPU line {layer.source_line}, where nothing was written")
        source = writer[layer.source_line]
        if source != INPUT:
            made = layers[source]
            shape = (made.out_channels, made.out_height, made.out_width)
            if shape != (layer.in_channels, layer.in_height, layer.in_width):
                raise FormatError(f"layer {index} does not read the shape that layer {source} wrote, {shape}")
        sources.append(source)
        writer[layer.target_line] = index
    return tuple(sources)
