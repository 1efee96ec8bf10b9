"""Where the cells of a network's maps lie: turns dilation back into strides, and corrects shifted grids."""

from __future__ import annotations

from dataclasses import replace

from common.errors import FormatError
from model_build.importers.convolutions import Unit
from model_build.network import Conv
from model_build.padding import same_padding_before


def undo_dilation(trunk: list[Unit]) -> list[Unit]:
    """The trunk with the strides that a finer output stride had replaced by dilation.

    PoseNet's published graphs of stride 8 are the network of stride 16 (1.00: of 32) with a stride-2 layer run at
    stride 1 and all 3×3 layers after it dilated by 2 (mobilenet.ts, toOutputStridedLayers). The pixels with even
    coordinates of such maps depend on each other only:

        stride 1, then dilation 2:   a b c d e        kept:  a . c . e       a 3×3 window dilated by 2 around c
                                                                             reads a, c, e: the neighbours of c
        stride 2, then dilation 1:   a   c   e                               among the kept ones

    So stride 2 at the last 3×3 layer that is not dilated, and half the dilation after it, gives exactly every
    second cell of every second row: the same values at the same places. This is repeated until no dilation is left.
    """
    while any(unit.conv.dilation > 1 for unit in trunk):
        trunk = _halve_dilation(trunk)
    return trunk


def _halve_dilation(trunk: list[Unit]) -> list[Unit]:
    first = next(i for i, unit in enumerate(trunk) if unit.conv.dilation > 1)
    before = [i for i, unit in enumerate(trunk[:first]) if unit.conv.kernel == 3]
    behind = [unit for unit in trunk[first:] if unit.conv.kernel == 3]
    odd = next((unit for unit in behind if unit.conv.dilation % 2), None)
    if not before or trunk[before[-1]].conv.stride != 1 or odd is not None:
        conv = odd.conv if odd is not None else trunk[first].conv
        raise FormatError(
            f"{conv.name} has the dilation {conv.dilation}, which is not that of a network with a coarser stride, so "
            "the KPU cannot run it; get the network with a larger output stride"
        )
    made = list(trunk)
    restored = made[before[-1]]
    # At stride 1 SAME pads by one on all sides at any size; pixels 0, 2, 4, … of the result are kept.
    padding = (1, 1, 1, 1) if _is_same(restored) else restored.padding
    made[before[-1]] = replace(restored, conv=replace(restored.conv, stride=2), padding=padding)
    made[first:] = [_with_half_dilation(unit) if unit.conv.kernel == 3 else unit for unit in trunk[first:]]
    return made


def _with_half_dilation(unit: Unit) -> Unit:
    padding = unit.padding
    if isinstance(padding, tuple):
        top, bottom, left, right = padding
        padding = (top // 2, bottom // 2, left // 2, right // 2)
    return replace(unit, conv=replace(unit.conv, dilation=unit.conv.dilation // 2), padding=padding)


def shift_to_symmetric(
    heads: dict[str, Conv], trunk: list[Unit], size: tuple[int, int] | None, keypoints: int
) -> dict[str, Conv]:
    """Correct the short offsets of a network whose cells do not lie at cell · stride.

    Each stride-2 layer that pads p zeros before the first pixel, instead of one, centres its cells 1 − p
    pixels further right (below). In a build here all cells lie at multiples of the stride, so the shift of a
    network that was trained on a shifted grid is added to its offsets, and the positions stay the same.
    """
    shift_y_px = shift_x_px = 0
    step_px = 1
    sides = [size[1], size[0]] if size else [0, 0]
    for unit in trunk:
        if unit.conv.stride == 2 and unit.conv.kernel == 3:
            before_y, before_x = _padding_before(unit, sides)
            shift_y_px += (1 - before_y) * step_px
            shift_x_px += (1 - before_x) * step_px
        elif unit.conv.kernel == 3 and not _is_same(unit):
            raise FormatError(f"{unit.conv.name} has the padding {unit.padding}; only SAME can be built")
        sides = [-(-side // unit.conv.stride) for side in sides]
        step_px *= unit.conv.stride
    head = heads["short_offset"]
    if (shift_y_px, shift_x_px) == (0, 0) or head.bias.size != 2 * keypoints:
        return heads
    bias = head.bias.copy()
    bias[:keypoints] += shift_y_px
    bias[keypoints:] += shift_x_px
    return {**heads, "short_offset": replace(head, bias=bias)}


def _padding_before(unit: Unit, sides: list[int]) -> tuple[int, int]:
    """Zeros before the first row and column of a stride-2 layer."""
    if isinstance(unit.padding, tuple):
        top, bottom, left, right = unit.padding
        if not all(0 <= pad <= 1 for pad in (top, bottom, left, right)):
            raise FormatError(f"{unit.conv.name} is padded by {unit.padding}; 0 or 1 can be built")
        return top, left
    if unit.padding != "SAME":
        raise FormatError(f"{unit.conv.name} has the padding {unit.padding}; only SAME can be built")
    # Forms without a fixed size are PoseNets for odd sizes, where SAME is symmetric.
    return (
        same_padding_before(sides[0], 3, 2) if sides[0] else 1,
        same_padding_before(sides[1], 3, 2) if sides[1] else 1,
    )


def _is_same(unit: Unit) -> bool:
    """Whether a layer of stride 1 keeps the size: zeros as wide as its dilation on all sides."""
    around = unit.conv.dilation
    return unit.padding == "SAME" or unit.padding == (around, around, around, around)
