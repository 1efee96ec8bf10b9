"""Where feature maps go in KPU RAM, and which form each layer takes, for any picture size.

Weights, batch norm and tables do not depend on the picture's size, so a program quantized at one size runs at
any other once its image sizes, switches, DMA counts and addresses are set anew. Three things save RAM or time:

- Sliding depthwise: split into groups of channels, each written one group's length beside its input, a depthwise
  layer needs 1 + 1/G of its map instead of 2; a group overwrites the input of the one before it.
- Diagonal: a depthwise layer whose result is then halved may run as a full 3x3 convolution with weights on the
  diagonal only, because full convolutions can pool and depthwise ones cannot. The 1x1 layer behind it then runs
  on a quarter of the pixels.
- Banded: a convolution and the diagonal layer behind it, done band by band of channels, never hold the whole map
  between the two.

All are exact: the same bytes come out. Which are used is found by a shortest-path search over the program, the
cost being the time model of cycles.py, over the places that maps can take.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np

from common.errors import UserError
from model_build.kpu import constraints, cycles, kmodel_v3, ram
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import POOL_STRIDE, KpuLayer
from model_build.kpu.lower import LEFT_TOP, diagonal, diagonal_arg_add, place
from model_build.kpu.program import INPUT, KpuProgram

LEFT_TOP_2 = LEFT_TOP[2]
FORMS = ("plain", "sliding", "diagonal", "banded")
_GROUP_CHOICES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
# The search gives up here; PoseNet at any size that fits is found within a few thousand.
_MOST_STATES = 30_000


class DoesNotFitError(UserError):
    """No layout exists within KPU RAM."""


@dataclass(frozen=True)
class LayoutNode:
    """A layer as the planner sees it: shapes only."""

    source: int
    depthwise: bool
    kernel_size: int
    in_channels: int
    out_channels: int
    pool_type: int
    is_output: bool
    can_be_diagonal: bool


@dataclass(frozen=True)
class Piece:
    """One KPU layer to run: a range of a program layer's channels in a certain form, with its addresses.

    first, last: output channels of the program layer, last exclusive (input channels too where per channel).
    in_height, in_width: what the piece reads; pool_type: the pooling that it really does.
    """

    layer: int
    form: str
    first: int
    last: int
    in_height: int
    in_width: int
    pool_type: int
    source_line: int
    target_line: int
    estimate_us: float
    groups: int = 1


@dataclass(frozen=True)
class LayoutPlan:
    """What was decided: pieces in execution order, the picture's place, the peak in lines."""

    width_px: int
    height_px: int
    input_line: int
    pieces: tuple[Piece, ...]
    peak_lines: int
    estimate_us: float


@dataclass(frozen=True)
class _Map:
    """A feature map at a place."""

    layer: int
    line: int
    lines: int
    height: int
    width: int

    @property
    def end(self) -> int:
        return self.line + self.lines


@dataclass(frozen=True)
class _State:
    """Layers below `position` are done; `maps` are those still read later."""

    position: int
    maps: tuple[_Map, ...]


@dataclass(order=True)
class _Entry:
    """total_us: cost so far plus the least that can follow (A* search); the deeper of two equals goes first."""

    total_us: float
    minus_position: int
    cost_us: float
    peak: int
    serial: int
    state: _State = field(compare=False)
    previous: _Entry | None = field(compare=False)
    pieces: tuple[Piece, ...] = field(compare=False)


def nodes_of(program: KpuProgram) -> tuple[LayoutNode, ...]:
    """The program's shapes."""
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
        )
        for index, (layer, source) in enumerate(zip(program.layers, program.sources, strict=True))
    )


class _Planner:
    """Shortest path from the picture to the last layer."""

    def __init__(self, nodes: tuple[LayoutNode, ...], height: int, width: int, forms: tuple[str, ...], ram_lines: int):
        self.nodes, self.height, self.width = nodes, height, width
        self.forms, self.ram_lines = forms, ram_lines
        self.readers: dict[int, list[int]] = {}
        for index, node in enumerate(nodes):
            self.readers.setdefault(node.source, []).append(index)
        self.furthest = 0
        self.most_needed: dict[int, int] = {}
        self.rest_us = self._rest()

    def plan(self) -> LayoutPlan | None:
        first = self.nodes[0]
        input_lines = ram.lines(first.in_channels, self.height, self.width)
        if input_lines > self.ram_lines:
            return None
        serial = itertools.count()
        queue: list[_Entry] = []
        for line in sorted({0, self.ram_lines - input_lines}):
            picture = _Map(INPUT, line, input_lines, self.height, self.width)
            heapq.heappush(
                queue,
                _Entry(self.rest_us[0][0], 0, 0.0, input_lines, next(serial), _State(0, (picture,)), None, ()),
            )
        done: set[_State] = set()
        while queue and len(done) < _MOST_STATES:
            entry = heapq.heappop(queue)
            if entry.state in done:
                continue
            done.add(entry.state)
            self.furthest = max(self.furthest, entry.state.position)
            if entry.state.position == len(self.nodes):
                return self._finish(entry)
            for state, pieces, peak in self._moves(entry.state):
                if state in done:
                    continue
                cost = entry.cost_us + sum(piece.estimate_us for piece in pieces)
                # Rounded, so that equal paths compare equal and the search goes straight down one of them.
                total = round(cost + self._rest_of(state), 3)
                peak = max(entry.peak, peak)
                heapq.heappush(queue, _Entry(total, -state.position, cost, peak, next(serial), state, entry, pieces))
        return None

    def _rest(self) -> list[list[float]]:
        """rest[i][halved]: the least time of layers i and on if RAM were endless; `halved` when layer i's pooling
        has been done by a diagonal layer before it."""
        count = len(self.nodes)
        rest = [[0.0, 0.0] for _ in range(count + 1)]
        for index in reversed(range(count)):
            node = self.nodes[index]
            for halved in (0, 1):
                stride = (1 << halved) * (self.height // self._natural_height(node.source))
                height, width = self.height // stride, self.width // stride
                least = self._us(node, node.out_channels, height, width) + rest[index + 1][0]
                if "diagonal" in self.forms and self._halves_next(index):
                    groups = self._best_diagonal_groups(node, height, width)
                    banded = self._diagonal_us(node, groups, height, width)
                    least = min(least, banded + rest[index + 1][1])
                rest[index][halved] = least
        return rest

    def _rest_of(self, state: _State) -> float:
        if state.position == len(self.nodes):
            return 0.0
        node = self.nodes[state.position]
        source = next(m for m in state.maps if m.layer == node.source)
        return self.rest_us[state.position][int(self._halved(node, source))]

    def _diagonal_groups(self, node: LayoutNode, width: int) -> list[int]:
        """Numbers of groups of channels that a diagonal layer can be cut into."""
        packing = max(ram.row_layout(width).groups, ram.row_layout(width // 2).groups)
        blocks = -(-node.out_channels // packing)
        return [g for g in (1, *_GROUP_CHOICES) if -(-blocks // -(-blocks // g)) == g]

    def _best_diagonal_groups(self, node: LayoutNode, height: int, width: int) -> int:
        return min(
            self._diagonal_groups(node, width),
            key=lambda groups: self._diagonal_us(node, groups, height, width),
        )

    def _diagonal_us(self, node: LayoutNode, groups: int, height: int, width: int) -> float:
        return sum(
            self._us(node, last - first, height, width, diagonal=True)
            for first, last in self._bands(node.out_channels, groups, width)
        )

    def _bands(self, channels: int, groups: int, width: int) -> list[tuple[int, int]]:
        """Ranges of channels that begin at whole lines both at this width and at half of it."""
        packing = max(ram.row_layout(width).groups, ram.row_layout(width // 2).groups)
        blocks = -(-channels // packing)
        band = -(-blocks // groups) * packing
        return [(first, min(first + band, channels)) for first in range(0, channels, band)]

    def _finish(self, entry: _Entry) -> LayoutPlan:
        pieces: list[Piece] = []
        last, step = entry, entry
        while step.previous is not None:
            pieces[:0] = step.pieces
            step = step.previous
        return LayoutPlan(self.width, self.height, step.state.maps[0].line, tuple(pieces), last.peak, last.cost_us)

    def _places(self, taken: list[tuple[int, int]], lines: int) -> Iterator[int]:
        """Lines where a map of this length fits between `taken` (line, end): both ends of every gap."""
        start = 0
        for line, end in [*sorted(taken), (self.ram_lines, self.ram_lines)]:
            if line - start >= lines:
                yield start
                if line - start > lines:
                    yield line - lines
            start = max(start, end)

    def _after(self, state: _State, count: int, made: _Map) -> _State:
        """The state once `count` more layers are done and `made` exists."""
        position = state.position + count
        kept = [m for m in (*state.maps, made) if any(r >= position for r in self.readers.get(m.layer, ()))]
        return _State(position, tuple(sorted(kept, key=lambda m: m.layer)))

    def _us(self, node: LayoutNode, channels: int, height: int, width: int, diagonal: bool = False) -> float:
        if node.depthwise:
            return cycles.shape_us(not diagonal, 3, channels, channels, height, width)
        return cycles.shape_us(False, node.kernel_size, node.in_channels, channels, height, width)

    def _moves(self, state: _State) -> Iterator[tuple[_State, tuple[Piece, ...], int]]:
        """(state after, pieces, peak lines in use) of everything that can be done next."""
        index = state.position
        node = self.nodes[index]
        source = next(m for m in state.maps if m.layer == node.source)
        # The layer may have been halved already by a diagonal layer before it.
        pool = node.pool_type
        if self._halved(node, source):
            pool = 0
        stride = POOL_STRIDE[pool]
        height, width = source.height // stride, source.width // stride
        taken = [(m.line, m.end) for m in state.maps]
        held = sum(m.lines for m in state.maps)
        last_reader = self.readers[node.source][-1] == index
        lines = ram.lines(node.out_channels, height, width)
        self._note(index, held + lines)
        if "plain" in self.forms or not node.depthwise:
            us = self._us(node, node.out_channels, source.height, source.width)
            for line in self._places(taken, lines):
                piece = Piece(
                    index,
                    "plain",
                    0,
                    node.out_channels,
                    source.height,
                    source.width,
                    pool,
                    source.line,
                    line,
                    us,
                )
                made = _Map(index, line, lines, height, width)
                yield self._after(state, 1, made), (piece,), held + lines
        if node.depthwise and last_reader and "sliding" in self.forms:
            yield from self._slide(state, index, source)
        if node.depthwise and "diagonal" in self.forms and self._halves_next(index):
            yield from self._diagonal(state, index, source, taken, held)
        if "banded" in self.forms and not node.depthwise and pool == 0 and self.readers.get(index) == [index + 1]:
            following = self.nodes[index + 1]
            if following.depthwise and self._halves_next(index + 1):
                yield from self._banded(state, index, source, taken, held)

    def _note(self, index: int, lines: int) -> None:
        self.most_needed[index] = min(lines, self.most_needed.get(index, lines))

    def _halves_next(self, index: int) -> bool:
        """Whether depthwise layer `index` is read only by a 1x1 layer that keeps each left-top pixel of four."""
        readers = self.readers.get(index, [])
        node = self.nodes[index]
        if not node.can_be_diagonal or node.is_output or readers != [index + 1] or node.pool_type != 0:
            return False
        reader = self.nodes[readers[0]]
        return not reader.depthwise and reader.kernel_size == 1 and reader.pool_type == LEFT_TOP_2

    def _halved(self, node: LayoutNode, source: _Map) -> bool:
        """Whether `source` was made by a diagonal layer, which has done this layer's pooling."""
        if source.layer == INPUT or not self._halves_next(source.layer):
            return False
        return source.height != self._natural_height(source.layer)

    def _natural_height(self, index: int) -> int:
        """Height of layer `index`'s output when every layer does its own pooling."""
        stride = 1
        while index != INPUT:
            stride *= POOL_STRIDE[self.nodes[index].pool_type]
            index = self.nodes[index].source
        return self.height // stride

    def _slide(self, state: _State, index: int, source: _Map) -> Iterator[tuple[_State, tuple[Piece, ...], int]]:
        node = self.nodes[index]
        channels, height, width = node.in_channels, source.height, source.width
        packing = ram.row_layout(width).groups
        blocks = -(-channels // packing)
        block_lines = source.lines // blocks
        others = [(m.line, m.end) for m in state.maps if m is not source]
        held = sum(m.lines for m in state.maps)
        for groups in _GROUP_CHOICES:
            per_group = -(-blocks // groups)
            count = -(-blocks // per_group)
            if count != groups:
                continue
            shift = per_group * block_lines
            self._note(index, held + shift)
            for up in (False, True):
                start, end = (source.line, source.end + shift) if up else (source.line - shift, source.end)
                if start < 0 or end > self.ram_lines or any(a < end and start < b for a, b in others):
                    continue
                pieces = []
                for group in range(count):
                    first, last = (
                        group * per_group * packing,
                        min((group + 1) * per_group * packing, channels),
                    )
                    at = source.line + group * shift
                    pieces.append(
                        Piece(
                            index,
                            "sliding",
                            first,
                            last,
                            height,
                            width,
                            0,
                            at,
                            at + shift if up else at - shift,
                            self._us(node, last - first, height, width),
                            count,
                        )
                    )
                made = _Map(index, start + shift if up else start, source.lines, height, width)
                yield (
                    self._after(state, 1, made),
                    tuple(reversed(pieces)) if up else tuple(pieces),
                    held + shift,
                )

    def _diagonal(
        self, state: _State, index: int, source: _Map, taken: list[tuple[int, int]], held: int
    ) -> Iterator[tuple[_State, tuple[Piece, ...], int]]:
        """Each output channel of a full convolution costs a pass over all its inputs, nearly all zero here: cut
        into groups of channels, the passes are shorter."""
        node = self.nodes[index]
        height, width = source.height // 2, source.width // 2
        lines = ram.lines(node.out_channels, height, width)
        self._note(index, held + lines)
        groups = self._best_diagonal_groups(node, source.height, source.width)
        for line in self._places(taken, lines):
            pieces = tuple(
                self._diagonal_piece(index, source, source.line, line, band, groups, band[0])
                for band in self._bands(node.out_channels, groups, source.width)
            )
            made = _Map(index, line, lines, height, width)
            yield self._after(state, 1, made), pieces, held + lines

    def _diagonal_piece(
        self,
        index: int,
        shape: _Map,
        source: int,
        target: int,
        band: tuple[int, int],
        groups: int,
        skipped: int,
    ) -> Piece:
        """One band of a diagonal layer; `skipped` channels precede it at `source`."""
        first, last = band
        return Piece(
            index,
            "diagonal",
            first,
            last,
            shape.height,
            shape.width,
            LEFT_TOP_2,
            source + ram.lines(skipped, shape.height, shape.width),
            target + ram.lines(first, shape.height // 2, shape.width // 2),
            self._us(self.nodes[index], last - first, shape.height, shape.width, diagonal=True),
            groups,
        )

    def _banded(
        self, state: _State, index: int, source: _Map, taken: list[tuple[int, int]], held: int
    ) -> Iterator[tuple[_State, tuple[Piece, ...], int]]:
        node = self.nodes[index]
        height, width, channels = source.height, source.width, node.out_channels
        out_lines = ram.lines(channels, height // 2, width // 2)
        for groups in self._diagonal_groups(self.nodes[index + 1], width):
            if groups == 1:
                continue
            bands = self._bands(channels, groups, width)
            band_lines = ram.lines(bands[0][1], height, width)
            self._note(index, held + band_lines + out_lines)
            for out_line in self._places(taken, out_lines):
                occupied = [*taken, (out_line, out_line + out_lines)]
                for band_line in self._places(occupied, band_lines):
                    pieces = []
                    for band in bands:
                        first, last = band
                        us = self._us(node, last - first, height, width)
                        pieces.append(
                            Piece(
                                index,
                                "banded",
                                first,
                                last,
                                height,
                                width,
                                0,
                                source.line,
                                band_line,
                                us,
                                groups,
                            )
                        )
                        pieces.append(self._diagonal_piece(index + 1, source, band_line, out_line, band, groups, 0))
                    made = _Map(index + 1, out_line, out_lines, height // 2, width // 2)
                    yield self._after(state, 2, made), tuple(pieces), held + band_lines + out_lines


def plan(
    nodes: tuple[LayoutNode, ...],
    width_px: int,
    height_px: int,
    forms: tuple[str, ...] = FORMS,
    ram_lines: int = ram.RAM_LINES,
) -> LayoutPlan:
    """Find the layout of least estimated time. Raises DoesNotFitError naming the layer in the way."""
    found = search(nodes, width_px, height_px, forms, ram_lines)
    return found if isinstance(found, LayoutPlan) else _refuse(found)


def search(
    nodes: tuple[LayoutNode, ...], width_px: int, height_px: int, forms: tuple[str, ...], ram_lines: int
) -> LayoutPlan | _Planner:
    """A plan, or the planner that found none. Bands cost most time and widen the search: only in need."""
    planner = None
    for tried in dict.fromkeys((tuple(form for form in forms if form != "banded"), forms)):
        planner = _Planner(nodes, height_px, width_px, tried, ram_lines)
        found = planner.plan()
        if found is not None:
            return found
    assert planner is not None
    return planner


def _refuse(planner: _Planner) -> NoReturn:
    raise DoesNotFitError(_explain(planner))


def _fits(planner: _Planner, nodes: tuple[LayoutNode, ...], width_px: int, height_px: int) -> bool:
    return isinstance(search(nodes, width_px, height_px, planner.forms, planner.ram_lines), LayoutPlan)


def _explain(planner: _Planner) -> str:
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
    """The same program with quarters/4 of the channels, but for the picture's and the outputs'."""
    return tuple(
        replace(
            node,
            in_channels=node.in_channels if node.source == INPUT else max(1, node.in_channels * quarters // 4),
            out_channels=node.out_channels if node.is_output else max(1, node.out_channels * quarters // 4),
        )
        for node in nodes
    )


def _fitting_sizes(planner: _Planner, count: int = 3) -> list[tuple[int, int]]:
    """The largest sizes (width, height) not above the wanted one that fit, of about the same shape."""
    nodes, width_px, height_px = planner.nodes, planner.width, planner.height
    stride = output_stride(nodes)
    found: list[tuple[int, int]] = []
    candidates = sorted(
        (
            (w, h)
            for w in range(4 * stride, width_px + 1, stride)
            for h in range(4 * stride, height_px + 1, stride)
            if w // stride % 64  # MaixPy's rule for outputs
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


# --- from plan to registers ---------------------------------------------------------------------------------


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
    program: KpuProgram,
    width_px: int,
    height_px: int,
    forms: tuple[str, ...] = FORMS,
    ram_lines: int = ram.RAM_LINES,
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


def piece_sources(program: KpuProgram, found: LayoutPlan) -> list[tuple[int, ...]]:
    """For each KPU layer of a plan, the KPU layers whose output it must find (-1: the picture); for overlap.py."""
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
