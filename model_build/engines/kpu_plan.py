"""The order and form in which the KPU engine runs a kmodel's layers: maps as arrays instead of by way of KPU RAM."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model_build.kpu import ram, registers
from model_build.kpu.layer import LEFT_TOP_2, BatchNorm, KpuLayer
from model_build.kpu.program import INPUT


@dataclass(frozen=True)
class Channels:
    """Channels first … last (exclusive) of the map that layer `layer` made (INPUT: the picture)."""

    layer: int
    first: int
    last: int


def trace_inputs(layers: list[KpuLayer]) -> list[list[Channels]] | None:
    """For each layer the whole channels that its input consists of, found by replaying KPU RAM line by line.

    None if some input is anything else: lines that nothing wrote, parts of maps, maps of another shape.
    """
    writer = np.full(ram.RAM_LINES, -2)
    offset = np.zeros(ram.RAM_LINES, np.int64)

    def written(index: int, line: int, count: int) -> None:
        writer[line : line + count] = index
        offset[line : line + count] = np.arange(count)

    first = layers[0]
    written(INPUT, first.source_line, first.in_lines)
    inputs = []
    for index, layer in enumerate(layers):
        here = slice(layer.source_line, layer.source_line + layer.in_lines)
        who, where = writer[here], offset[here]
        breaks = np.flatnonzero((np.diff(who) != 0) | (np.diff(where) != 1)) + 1
        block_lines = ram.lines(1, layer.in_height, layer.in_width)
        groups = ram.row_layout(layer.in_width).groups
        found, missing = [], layer.in_channels
        for start, end in zip([0, *breaks], [*breaks, len(who)], strict=True):
            made, at, count = int(who[start]), int(where[start]), int(end - start)
            if made == -2 or at % block_lines or count % block_lines:
                return None
            if made == INPUT:
                shape = (first.in_channels, first.in_height, first.in_width)
            else:
                shape = (layers[made].out_channels, layers[made].out_height, layers[made].out_width)
            begin = at // block_lines * groups
            channels = min(count // block_lines * groups, missing)
            if shape[1:] != (layer.in_height, layer.in_width) or begin + channels > shape[0]:
                return None
            # Only the last group may be partly filled, since any other would leave a gap.
            if channels % groups and channels != missing:
                return None
            found.append(Channels(made, begin, begin + channels))
            missing -= channels
        if missing:
            return None
        inputs.append(found)
        written(index, layer.target_line, layer.out_lines)
    return inputs


@dataclass(frozen=True)
class Step:
    """One layer to run, on channels that earlier steps made."""

    layer: KpuLayer
    inputs: tuple[Channels, ...]
    """In these inputs, `layer` is the number of a step."""
    numbers: tuple[int, ...]
    """The numbers of the kmodel's KPU layers that this step stands for."""

    @property
    def to_main_memory(self) -> bool:
        return self.layer.main_mem_address is not None


def plan(layers: list[KpuLayer], inputs: list[list[Channels]]) -> list[Step]:
    """The layers as steps that run fast one after the other, with the same outputs in main memory."""
    return _halve_early(_join_groups([_as_depthwise(layer) for layer in layers], inputs))


def _as_depthwise(layer: KpuLayer) -> KpuLayer:
    """A full convolution with weights on the diagonal only as the equal depthwise layer; other layers unchanged.

    Off the diagonal the stored weight is the zero point, −arg_x. In a depthwise layer these weights are missing from
    arg_w·Σw, and arg_add counts once instead of once per input: both differences are the same for all channels.
    """
    regs, weights, count = layer.registers, layer.weights, layer.in_channels
    if layer.depthwise or layer.kernel_size != 3 or count != layer.out_channels or regs.shr_x or regs.shr_w:
        return layer
    diagonal = np.eye(count, dtype=bool)
    if (weights[~diagonal] != -regs.arg_x).any():
        return layer
    missing = 9 * (count - 1) * -regs.arg_x
    same = layer.with_registers(depth_wise_layer=1, arg_add=regs.arg_add * count + regs.arg_w * missing)
    return replace(same, weights=weights[diagonal][:, None])


def _join_groups(layers: list[KpuLayer], inputs: list[list[Channels]]) -> list[Step]:
    """Steps in which depthwise layers are whole again that the layout had split into groups of channels to save KPU
    RAM."""
    steps: list[Step] = []
    # Where the channels of each layer's output are now: step and first channel.
    place: dict[int, tuple[int, int]] = {INPUT: (INPUT, 0)}
    for index, (layer, parts) in enumerate(zip(layers, inputs, strict=True)):
        moved = _joined(
            [Channels(place[p.layer][0], place[p.layer][1] + p.first, place[p.layer][1] + p.last) for p in parts]
        )
        if steps and len(moved) == 1 and _goes_with(steps[-1], layer, moved[0]):
            before, here, at = steps[-1], moved[0], len(steps) - 1
            there = before.inputs[0]
            if there.last == here.first:
                place[index] = (at, before.layer.out_channels)
                whole = _side_by_side(before.layer, layer)
            else:
                # Layouts that slide upwards begin with the last group.
                for number in before.numbers:
                    place[number] = (at, place[number][1] + layer.out_channels)
                place[index] = (at, 0)
                whole = _side_by_side(layer, before.layer)
            both = Channels(here.layer, min(here.first, there.first), max(here.last, there.last))
            steps[-1] = Step(whole, (both,), (*before.numbers, index))
        else:
            place[index] = (len(steps), 0)
            steps.append(Step(layer, tuple(moved), (index,)))
    return steps


def _joined(parts: list[Channels]) -> list[Channels]:
    """The same channels, with adjacent ranges joined into one."""
    made = parts[:1]
    for part in parts[1:]:
        if part.layer == made[-1].layer and part.first == made[-1].last:
            made[-1] = Channels(part.layer, made[-1].first, part.last)
        else:
            made.append(part)
    return made


def _goes_with(step: Step, layer: KpuLayer, part: Channels) -> bool:
    """Whether a depthwise layer computes the same as the step, on the neighbouring channels of the same map."""
    before = step.layer
    return (
        before.depthwise
        and layer.depthwise
        and before.main_mem_address is None
        and layer.main_mem_address is None
        and len(step.inputs) == 1
        and step.inputs[0].layer == part.layer
        and (step.inputs[0].last == part.first or part.last == step.inputs[0].first)
        and _without_places(before) == _without_places(layer)
        and before.activation.pack() == layer.activation.pack()
    )


_PLACES = (
    "image_src_addr", "image_dst_addr", "i_ch_num", "o_ch_num", "o_ch_num_coef", "load_time", "para_size", "coef_size",
    "channel_byte_num", "dma_total_byte", "send_data_out",
)  # fmt: skip
"""Registers that tell where a layer's maps lie and how many channels they have, but not what is computed."""


def _without_places(layer: KpuLayer) -> registers.LayerRegisters:
    return replace(layer.registers, **dict.fromkeys(_PLACES, 0))


def _side_by_side(one: KpuLayer, other: KpuLayer) -> KpuLayer:
    """One depthwise layer with the channels of both."""
    a, b = one.batch_norm, other.batch_norm
    norm = BatchNorm(*(np.concatenate(pair) for pair in ((a.mul, b.mul), (a.shift, b.shift), (a.add, b.add))))
    count = one.out_channels + other.out_channels - 1
    made = one.with_registers(i_ch_num=count, o_ch_num=count)
    return replace(made, weights=np.concatenate([one.weights, other.weights]), batch_norm=norm)


def _halve_early(steps: list[Step]) -> list[Step]:
    """If every reader of a depthwise layer keeps only the top-left pixel of each 2×2 block, drop the others at once."""
    made = list(steps)
    for index, step in enumerate(steps):
        layer = step.layer
        readers = [i for i, other in enumerate(steps) if any(part.layer == index for part in other.inputs)]
        if not (layer.depthwise and layer.pool_type == 0 and layer.main_mem_address is None and readers):
            continue
        alone = all(len(steps[i].inputs) == 1 for i in readers)
        picking = all(
            steps[i].layer.kernel_size == 1 and steps[i].layer.pool_type == LEFT_TOP_2 and not steps[i].layer.depthwise
            for i in readers
        )
        if alone and picking:
            width, height = layer.out_width // 2 - 1, layer.out_height // 2 - 1
            halved = layer.with_registers(pool_type=LEFT_TOP_2, o_row_wid=width, o_col_high=height)
            made[index] = replace(step, layer=halved)
            for i in readers:
                reader = made[i].layer.with_registers(pool_type=0, i_row_wid=width, i_col_high=height)
                made[i] = replace(made[i], layer=reader)
    return made
