"""Writes a kmodel V3 whose maps lie where the program has them, to compare with the layouts that the build chooses."""

from __future__ import annotations

from dataclasses import replace

from model_build.kpu.kmodel_v3 import KmodelV3, place_outputs
from model_build.kpu.program import KpuProgram


def from_program(program: KpuProgram) -> KmodelV3:
    """The program as a V3 kmodel with its KPU RAM addresses as they are, and outputs in the program's order."""
    layers = list(program.layers)
    places, main_mem_bytes = place_outputs([layers[output.layer].out_bytes for output in program.outputs])
    for output, place in zip(program.outputs, places, strict=True):
        layers[output.layer] = replace(layers[output.layer], main_mem_address=place.address)
    ends = [layer.source_line + layer.in_lines for layer in layers]
    ends += [layer.target_line + layer.out_lines for layer in layers]
    return KmodelV3(tuple(layers), places, main_mem_bytes, max(ends))
