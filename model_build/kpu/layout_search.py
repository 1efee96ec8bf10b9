"""The search for the fastest layout that fits: where feature maps go in KPU RAM, and which form each layer takes.

Three forms besides the plain one save RAM or time. All of them are exact, so the bytes are the same.

- Sliding: a depthwise layer split into G groups of channels, each written one group's length away from its input, needs
  the space of 1 + 1/G maps instead of 2. With G = 4, lines of KPU RAM from left to right:

      before         | in0 | in1 | in2 | in3 |         in: the layer's input, one group of channels each
      group 0  |out0 | in0 | in1 | in2 | in3 |
      group 1  |out0 |out1 | in1 | in2 | in3 |         in0 has been read, so out1 may lie over it
      group 2  |out0 |out1 |out2 | in2 | in3 |
      group 3  |out0 |out1 |out2 |out3 | in3 |

- Diagonal: a depthwise layer whose result is then halved may run as a full 3x3 convolution with weights on the
  diagonal only, because full convolutions can pool and depthwise ones cannot. The 1x1 layer after it then runs
  on a quarter of the pixels.
- Banded: a convolution and the diagonal layer after it are computed for one band of channels at a time, so that the
  whole map between the two never exists.

The search is A*. A state is "layers below `position` are done, and these maps lie there"; a move runs the next layer
(or two) in one form at one place, and costs the time by the model of cycles.py; the remaining layers cost at
least `rest_us`, their time without any limit of RAM:

    picture ──plain at 0──▶ layer 0 ──sliding by 4──▶ layer 1 ──plain──▶ …       cost so far + least rest = total
            └─plain at top─▶ layer 0 ──diagonal─────▶ layer 1 ──plain──▶ …       the least total goes on
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from model_build.kpu import cycles, ram
from model_build.kpu.layer import LEFT_TOP_2, POOL_STRIDE
from model_build.kpu.program import INPUT

FORMS = ("plain", "sliding", "diagonal", "banded")
_GROUP_CHOICES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_MOST_STATES = 30_000
"""The search gives up after this many states; for PoseNet at any size that fits, a few thousand are enough."""


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
    groups: int = 1
    """A layer of groups runs as one piece for each: its channels read their part of the input alone."""


@dataclass(frozen=True)
class Piece:
    """One KPU layer to run: a range of a program layer's channels in a certain form, with its addresses.

    first, last: output channels of the program layer, last exclusive (input channels too where per channel).
    in_height, in_width: size of the map that the piece reads; pool_type: the pooling that it does itself.
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
    """The result: pieces in execution order, the picture's place, and the most lines in use."""

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

    @property
    def taken(self) -> list[tuple[int, int]]:
        return [(m.line, m.end) for m in self.maps]

    @property
    def lines(self) -> int:
        return sum(m.lines for m in self.maps)


class _Move(NamedTuple):
    """One possible next step: the state after it, what runs, and the most lines in use meanwhile."""

    state: _State
    pieces: tuple[Piece, ...]
    peak_lines: int


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


class Planner:
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
        """The layout of least time; None if none fits into RAM, or none was found in _MOST_STATES states."""
        first = self.nodes[0]
        input_lines = ram.lines(first.in_channels, self.height, self.width)
        if input_lines > self.ram_lines:
            return None
        serial = itertools.count()
        queue: list[_Entry] = []
        for line in sorted({0, self.ram_lines - input_lines}):
            picture = _Map(INPUT, line, input_lines, self.height, self.width)
            heapq.heappush(
                queue, _Entry(self.rest_us[0][0], 0, 0.0, input_lines, next(serial), _State(0, (picture,)), None, ())
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
                # Costs are rounded, so that equal paths compare equal and the search follows only one of them.
                total = round(cost + self._rest_of(state), 3)
                peak = max(entry.peak, peak)
                heapq.heappush(queue, _Entry(total, -state.position, cost, peak, next(serial), state, entry, pieces))
        return None

    def _rest(self) -> list[list[float]]:
        """rest[i][halved]: the least time of layer i and those after it without a limit of RAM; `halved` if a diagonal
        layer before layer i has done its pooling."""
        count = len(self.nodes)
        rest = [[0.0, 0.0] for _ in range(count + 1)]
        for index in reversed(range(count)):
            node = self.nodes[index]
            for halved in (0, 1):
                stride = (1 << halved) * (self.height // self._natural_height(node.source))
                height, width = self.height // stride, self.width // stride
                whole = node.groups * self._us(node, node.out_channels // node.groups, height, width)
                least = whole + rest[index + 1][0]
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
        return self.rest_us[state.position][int(self._halved(node, self._source(state)))]

    def _diagonal_groups(self, node: LayoutNode, width: int) -> list[int]:
        """Numbers of groups of channels into which a diagonal layer can be split."""
        packing = max(ram.row_layout(width).groups, ram.row_layout(width // 2).groups)
        blocks = -(-node.out_channels // packing)
        return [g for g in (1, *_GROUP_CHOICES) if -(-blocks // -(-blocks // g)) == g]

    def _best_diagonal_groups(self, node: LayoutNode, height: int, width: int) -> int:
        return min(
            self._diagonal_groups(node, width), key=lambda groups: self._diagonal_us(node, groups, height, width)
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
        """The lines at which a map of this length fits between `taken` (line, end): both ends of every gap."""
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
        return cycles.shape_us(False, node.kernel_size, node.in_channels // node.groups, channels, height, width)

    def _moves(self, state: _State) -> Iterator[_Move]:
        """All possible next steps."""
        index = state.position
        node, source = self.nodes[index], self._source(state)
        if "plain" in self.forms or not node.depthwise:
            yield from self._plain(state, source)
        if node.depthwise and "sliding" in self.forms and self.readers[node.source][-1] == index:
            yield from self._slide(state, source)
        if node.depthwise and "diagonal" in self.forms and self._halves_next(index):
            yield from self._diagonal(state, source)
        whole = not node.depthwise and node.groups == 1
        if "banded" in self.forms and whole and self.readers.get(index) == [index + 1]:
            following = self.nodes[index + 1]
            if self._pool(node, source) == 0 and following.depthwise and self._halves_next(index + 1):
                yield from self._banded(state, source)

    def _source(self, state: _State) -> _Map:
        """The map that the next layer reads."""
        return next(m for m in state.maps if m.layer == self.nodes[state.position].source)

    def _pool(self, node: LayoutNode, source: _Map) -> int:
        """The pooling that a layer must still do: none if a diagonal layer before it has done it."""
        return 0 if self._halved(node, source) else node.pool_type

    def _plain(self, state: _State, source: _Map) -> Iterator[_Move]:
        """The whole layer at once, or one group of channels after the other, from its source to a free place."""
        index = state.position
        node, pool = self.nodes[index], self._pool(self.nodes[index], source)
        height, width = source.height // POOL_STRIDE[pool], source.width // POOL_STRIDE[pool]
        lines = ram.lines(node.out_channels, height, width)
        size, reads = node.out_channels // node.groups, node.in_channels // node.groups
        self._note(index, state.lines + lines)
        for line in self._places(state.taken, lines):
            pieces = tuple(
                Piece(
                    layer=index,
                    form="plain",
                    first=group * size,
                    last=(group + 1) * size,
                    in_height=source.height,
                    in_width=source.width,
                    pool_type=pool,
                    source_line=source.line + ram.lines(group * reads, source.height, source.width),
                    target_line=line + ram.lines(group * size, height, width),
                    estimate_us=self._us(node, size, source.height, source.width),
                    groups=node.groups,
                )  # fmt: skip
                for group in range(node.groups)
            )
            made = _Map(index, line, lines, height, width)
            yield _Move(self._after(state, 1, made), pieces, state.lines + lines)

    def _note(self, index: int, lines: int) -> None:
        self.most_needed[index] = min(lines, self.most_needed.get(index, lines))

    def _halves_next(self, index: int) -> bool:
        """Whether depthwise layer `index` is read only by a 1x1 layer that keeps only the left-top pixel of each 2×2
        block."""
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
        """Height of layer `index`'s output if every layer does its own pooling."""
        stride = 1
        while index != INPUT:
            stride *= POOL_STRIDE[self.nodes[index].pool_type]
            index = self.nodes[index].source
        return self.height // stride

    def _slide(self, state: _State, source: _Map) -> Iterator[_Move]:
        """Groups of channels one after the other, each written next to its input as in the drawing above."""
        index = state.position
        node = self.nodes[index]
        packing = ram.row_layout(source.width).groups
        blocks = -(-node.in_channels // packing)
        others = [(m.line, m.end) for m in state.maps if m is not source]
        for groups in _GROUP_CHOICES:
            per_group = -(-blocks // groups)
            if -(-blocks // per_group) != groups:
                continue
            shift = per_group * (source.lines // blocks)
            self._note(index, state.lines + shift)
            for step in (-shift, shift):
                start, end = min(source.line, source.line + step), max(source.end, source.end + step)
                if start < 0 or end > self.ram_lines or any(a < end and start < b for a, b in others):
                    continue
                size = per_group * packing
                pieces = []
                for group in range(groups):
                    first, last = group * size, min((group + 1) * size, node.in_channels)
                    line = source.line + group * shift
                    pieces.append(Piece(
                        layer=index, form="sliding", first=first, last=last,
                        in_height=source.height, in_width=source.width, pool_type=0,
                        source_line=line, target_line=line + step,
                        estimate_us=self._us(node, last - first, source.height, source.width), groups=groups,
                    ))  # fmt: skip
                made = _Map(index, source.line + step, source.lines, source.height, source.width)
                # When sliding towards higher lines, the last group is first: what a group overwrites must have been
                # read.
                ordered = pieces if step < 0 else pieces[::-1]
                yield _Move(self._after(state, 1, made), tuple(ordered), state.lines + shift)

    def _diagonal(self, state: _State, source: _Map) -> Iterator[_Move]:
        """Each output channel of a full convolution costs a pass over all inputs, nearly all with weight zero here, so
        the passes are shorter if the layer is split into groups of channels."""
        index = state.position
        node = self.nodes[index]
        height, width = source.height // 2, source.width // 2
        lines = ram.lines(node.out_channels, height, width)
        self._note(index, state.lines + lines)
        groups = self._best_diagonal_groups(node, source.height, source.width)
        for line in self._places(state.taken, lines):
            pieces = tuple(
                self._diagonal_piece(index, source, source.line, line, band, groups, skipped=band[0])
                for band in self._bands(node.out_channels, groups, source.width)
            )
            made = _Map(index, line, lines, height, width)
            yield _Move(self._after(state, 1, made), pieces, state.lines + lines)

    def _diagonal_piece(
        self, index: int, shape: _Map, source: int, target: int, band: tuple[int, int], groups: int, skipped: int
    ) -> Piece:
        """One band of a diagonal layer; `skipped` channels precede it at `source`."""
        first, last = band
        return Piece(
            layer=index, form="diagonal", first=first, last=last,
            in_height=shape.height, in_width=shape.width, pool_type=LEFT_TOP_2,
            source_line=source + ram.lines(skipped, shape.height, shape.width),
            target_line=target + ram.lines(first, shape.height // 2, shape.width // 2),
            estimate_us=self._us(self.nodes[index], last - first, shape.height, shape.width, diagonal=True),
            groups=groups,
        )  # fmt: skip

    def _banded(self, state: _State, source: _Map) -> Iterator[_Move]:
        """A convolution and the diagonal layer after it in turns, with one band of channels between the two."""
        index = state.position
        node = self.nodes[index]
        height, width, channels = source.height, source.width, node.out_channels
        out_lines = ram.lines(channels, height // 2, width // 2)
        for groups in self._diagonal_groups(self.nodes[index + 1], width):
            if groups == 1:
                continue
            bands = self._bands(channels, groups, width)
            band_lines = ram.lines(bands[0][1], height, width)
            peak = state.lines + band_lines + out_lines
            self._note(index, peak)
            for out_line in self._places(state.taken, out_lines):
                made = _Map(index + 1, out_line, out_lines, height // 2, width // 2)
                for band_line in self._places([*state.taken, (made.line, made.end)], band_lines):
                    pieces = []
                    for first, last in bands:
                        convolution = Piece(
                            layer=index, form="banded", first=first, last=last,
                            in_height=height, in_width=width, pool_type=0,
                            source_line=source.line, target_line=band_line,
                            estimate_us=self._us(node, last - first, height, width), groups=groups,
                        )  # fmt: skip
                        halving = self._diagonal_piece(
                            index + 1, source, band_line, out_line, (first, last), groups, skipped=0
                        )
                        pieces += [convolution, halving]
                    yield _Move(self._after(state, 2, made), tuple(pieces), peak)


def search(
    nodes: tuple[LayoutNode, ...], width_px: int, height_px: int, forms: tuple[str, ...], ram_lines: int
) -> LayoutPlan | Planner:
    """A plan, or the planner that found none. Bands cost the most time and widen the search, so they are tried last."""
    planner = None
    for tried in dict.fromkeys((tuple(form for form in forms if form != "banded"), forms)):
        planner = Planner(nodes, height_px, width_px, tried, ram_lines)
        found = planner.plan()
        if found is not None:
            return found
    assert planner is not None
    return planner
