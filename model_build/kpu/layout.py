"""Lays out a program for a picture size: sizes, addresses and switches of every layer, and the resulting kmodel.

Weights, batch norm and tables do not depend on the picture's size, so a program quantized at one size runs at any
other size once its image sizes, switches, DMA counts and addresses are set. layout_search.py finds where maps lie.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.errors import UserError
from model_build.kpu import constraints, kmodel_v3, ram
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import POOL_STRIDE, KpuLayer
from model_build.kpu.layout_search import FORMS, LayoutNode, LayoutPlan, Piece, Planner, search
from model_build.kpu.lower import diagonal, diagonal_arg_add, place
from model_build.kpu.program import INPUT, KpuProgram


class DoesNotFitError(UserError):
    """No layout exists within KPU RAM."""


def nodes_of(program: KpuProgram) -> tuple[LayoutNode, ...]:
    """The program's layers as the planner sees them."""
    made_outputs = {output.layer for output in program.outputs}
    return tuple(
        LayoutNode(
            source,
            layer.depthwise,
            layer.kernel_size,
            layer.in_channels,
            layer.out_channels,
            layer.pool_type,
            index in made_outputs,
            layer.depthwise and diagonal_arg_add(layer) is not None,
            1 if layer.depthwise else layer.in_channels // layer.weights.shape[1],
        )
        for index, (layer, source) in enumerate(zip(program.layers, program.sources, strict=True))
    )


def plan(
    nodes: tuple[LayoutNode, ...],
    width_px: int,
    height_px: int,
    forms: tuple[str, ...] = FORMS,
    ram_lines: int = ram.RAM_LINES,
) -> LayoutPlan:
    """Find the layout of least estimated time. Raises DoesNotFitError, which names the layer that does not fit."""
    found = search(nodes, width_px, height_px, forms, ram_lines)
    if isinstance(found, Planner):
        raise DoesNotFitError(_explain(found))
    return found


def _fits(planner: Planner, nodes: tuple[LayoutNode, ...], width_px: int, height_px: int) -> bool:
    return isinstance(search(nodes, width_px, height_px, planner.forms, planner.ram_lines), LayoutPlan)


def _explain(planner: Planner) -> str:
    nodes, width, height = planner.nodes, planner.width, planner.height
    index = max(planner.most_needed, key=lambda i: planner.most_needed[i], default=0)
    if planner.most_needed.get(index, 0) <= planner.ram_lines:
        index = planner.furthest
    node = nodes[index]
    kind = "depthwise" if node.depthwise else f"{node.kernel_size}x{node.kernel_size}"
    needed = planner.most_needed.get(index, ram.lines(nodes[0].in_channels, height, width))
    message = (
        f"{width}x{height} does not fit into KPU RAM: layer {index} ({kind}, {node.in_channels} to "
        f"{node.out_channels} channels) needs {needed} of {planner.ram_lines} lines of 64 bytes"
    )
    sizes = _fitting_sizes(planner)
    if sizes:
        message += "; these sizes fit: " + ", ".join(f"{w}x{h}" for w, h in sizes)
    for numerator in (3, 2):
        if _fits(planner, _scaled(nodes, numerator), width, height):
            return message + f"; at {width}x{height} the same network with {numerator}/4 of the channels fits"
    return message


def _scaled(nodes: tuple[LayoutNode, ...], quarters: int) -> tuple[LayoutNode, ...]:
    """The same program with quarters/4 of the channels, except the picture's and the outputs' channels."""
    return tuple(
        replace(
            node,
            in_channels=node.in_channels if node.source == INPUT else max(1, node.in_channels * quarters // 4),
            out_channels=node.out_channels if node.is_output else max(1, node.out_channels * quarters // 4),
        )
        for node in nodes
    )


def _fitting_sizes(planner: Planner, count: int = 3) -> list[tuple[int, int]]:
    """The largest sizes (width, height) of about the same shape that fit and are not above the requested one."""
    nodes, width_px, height_px = planner.nodes, planner.width, planner.height
    stride = output_stride(nodes)
    found: list[tuple[int, int]] = []
    candidates = sorted(
        (
            (w, h)
            for w in range(4 * stride, width_px + 1, stride)
            for h in range(4 * stride, height_px + 1, stride)
            if w // stride % 64  # MaixPy cannot handle outputs whose width is a multiple of 64.
            and abs(w * height_px - h * width_px) <= stride * max(width_px, height_px)
        ),
        key=lambda size: -size[0] * size[1],
    )
    for width, height in candidates[:40]:
        if len(found) == count:
            break
        if _fits(planner, nodes, width, height):
            found.append((width, height))
    return found


def output_stride(nodes: tuple[LayoutNode, ...]) -> int:
    """Pixels of the picture per cell of the last layer's map."""
    stride, index = 1, len(nodes) - 1
    while index != INPUT:
        stride *= POOL_STRIDE[nodes[index].pool_type]
        index = nodes[index].source
    return stride


def realize(piece: Piece, layer: KpuLayer) -> KpuLayer:
    """The KPU layer that a piece of a plan stands for."""
    part = slice(piece.first, piece.last)
    if piece.form == "diagonal":
        cut = diagonal(layer, piece.first, piece.last)
    else:
        cut = replace(layer, weights=np.ascontiguousarray(layer.weights[part]), batch_norm=layer.batch_norm[part])
    if piece.groups > 1:
        cut = replace(cut, name=f"{layer.name} [{piece.first}:{piece.last}]")
    return place(cut, piece.source_line, piece.target_line, piece.in_height, piece.in_width, piece.pool_type)


def lay_out(
    program: KpuProgram, width_px: int, height_px: int, forms: tuple[str, ...] = FORMS, ram_lines: int = ram.RAM_LINES
) -> tuple[KmodelV3, LayoutPlan]:
    """The program as a V3 model for width × height pictures, and the plan behind it.

    forms: which forms of layers may be used (of FORMS). Raises UserError (a constraint, with its values) or
    DoesNotFitError (which layer needs how many lines, and what would fit).
    """
    nodes = nodes_of(program)
    constraints.check_size(width_px, height_px, output_stride(nodes))
    found = plan(nodes, width_px, height_px, forms, ram_lines)
    made: list[KpuLayer] = []
    maker: dict[int, int] = {}
    for piece in found.pieces:
        maker[piece.layer] = len(made)
        made.append(realize(piece, program.layers[piece.layer]))
    places, main_mem_bytes = kmodel_v3.place_outputs([made[maker[o.layer]].out_bytes for o in program.outputs])
    for output, where in zip(program.outputs, places, strict=True):
        index = maker[output.layer]
        made[index] = replace(made[index], main_mem_address=where.address)
    model = KmodelV3(
        tuple(made),
        places,
        main_mem_bytes,
        max(max(layer.source_line + layer.in_lines, layer.target_line + layer.out_lines) for layer in made),
    )
    for layer in made:
        constraints.check_layer(layer)
    return model, found
