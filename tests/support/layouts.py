"""What a layout promises, computed independently of the code that made the layout."""

from __future__ import annotations

from model_build.kpu.layout_search import LayoutPlan, Piece
from model_build.kpu.program import INPUT, KpuProgram


def piece_sources(program: KpuProgram, found: LayoutPlan) -> list[tuple[int, ...]]:
    """For each KPU layer of a plan, the KPU layers whose output it must find (-1 is the picture), for overlap.py."""
    made: dict[int, list[tuple[int, Piece]]] = {}
    wanted: list[tuple[int, ...]] = []
    for index, piece in enumerate(found.pieces):
        layer, source = program.layers[piece.layer], program.sources[piece.layer]
        if source == INPUT:
            wanted.append((INPUT,))
        else:
            whole = not layer.depthwise
            wanted.append(
                tuple(
                    i for i, other in made[source] if whole or (other.first < piece.last and piece.first < other.last)
                )
            )
        made.setdefault(piece.layer, []).append((index, piece))
    return wanted
