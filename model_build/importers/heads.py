"""Finds out which of the convolutions on the last feature map is which head.

Heads have no activation. Two rules tell their roles: first the names in the file, those of the convolution and of
operators that only pass its result on; then, for heads whose names say nothing, the numbers of channels.
"""

from __future__ import annotations

import re
from dataclasses import replace

from common.errors import FormatError
from model_build.importers.convolutions import Unit
from model_build.importers.graph import Graph, Pass
from model_build.network import HEADS, Conv

_DROP, _MID_OFFSET = "drop", "mid_offset"
"""Roles besides HEADS: heads that poses do not need (segmentation, body parts, long offsets), and a head that holds
forward and then backward displacements."""
_PATTERNS = {
    _DROP: r"segment|long_?offset|part_?heat|part_?offset",
    "displacement_fwd": r"displacement_?fwd|disp(lacement)?_?forward|mid_?offsets?_?(fwd|forward)",
    "displacement_bwd": r"displacement_?bwd|disp(lacement)?_?backward|mid_?offsets?_?(bwd|backward)",
    _MID_OFFSET: r"mid_?offset",
    "heatmap": r"heat_?map",
    "short_offset": r"short_?offset|offset",
}
"""A pattern for the names of each role; the first that fits counts."""


def find(graph: Graph, units: list[Unit], features: str) -> dict[str, Conv]:
    """The four heads on the tensor `features`, in HEADS order; FormatError names those that are missing."""
    readers = [unit for unit in units if unit.source == features]
    candidates = [unit for unit in readers if unit.conv.activation == "linear"]
    if not candidates:
        others = ", ".join(f"{unit.conv.name} with {unit.conv.activation}" for unit in readers) or "no convolution"
        raise FormatError(f"its heads cannot be found: the last feature map, {features}, is read by {others}")
    found, unnamed = _by_name(graph, candidates)
    _by_channels(found, unnamed)
    _split_mid_offset(found)
    if missing := [head for head in HEADS if head not in found]:
        widths = f"; others have {', '.join(str(conv.out_channels) for conv in unnamed)} channels" if unnamed else ""
        raise FormatError(
            f"it lacks the head{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"(found: {', '.join(found) or 'none'}{widths}); a PoseNet has four 1×1 convolutions without activation on "
            "its last feature map"
        )
    return {head: replace(found[head], name=head) for head in HEADS}


def _by_name(graph: Graph, candidates: list[Unit]) -> tuple[dict[str, Conv], list[Conv]]:
    """The heads whose names tell their role, by that role, and the rest in the file's order."""
    found: dict[str, Conv] = {}
    unnamed: list[Conv] = []
    for unit in candidates:
        role = _role(unit.names) or _role(_names_downstream(unit.result, graph))
        if role is None:
            unnamed.append(unit.conv)
        elif role in found:
            raise FormatError(f"it has two heads that are named {role}: {found[role].name}, {unit.conv.name}")
        elif role != _DROP:
            found[role] = unit.conv
    return found, unnamed


def _role(names: list[str]) -> str | None:
    """The role that the first telling name stands for.

    TensorFlow 2's TFLite converter joins the names of all operators that it fused, and of all constants that
    turned out equal, with ";". The first is the tensor's own; the others often name other heads.
    """
    for name in names:
        own = name.split(";", 1)[0]
        role = next((role for role, pattern in _PATTERNS.items() if re.search(pattern, own, re.I)), None)
        if role is not None:
            return role
    return None


def _names_downstream(tensor: str, graph: Graph) -> list[str]:
    """Names of operators that only rename a head; a concatenation of several heads tells nothing about its parts."""
    names = []
    seen = {tensor}
    pending = [tensor]
    while pending:
        for op in graph.consumers[pending.pop()]:
            if isinstance(op.meaning, Pass):
                names += [op.name, *op.outputs]
                new = [out for out in op.outputs if out not in seen]
                seen.update(new)
                pending += new
    return names


def _by_channels(found: dict[str, Conv], rest: list[Conv]) -> None:
    """Give roles to heads whose names say nothing, by their numbers of channels, and take them out of `rest`.

    K keypoints have K heatmaps, 2K short offsets, and K − 1 edges (they are a tree): 2(K − 1) displacements forward,
    then as many backward, or one head of both.
    """
    _take(found, "heatmap", rest, _heatmap_channels(found, rest))
    if "heatmap" not in found:
        return
    keypoints = found["heatmap"].out_channels
    displacements = 2 * (keypoints - 1)
    _take(found, "short_offset", rest, 2 * keypoints)
    missing = [role for role in ("displacement_fwd", "displacement_bwd") if role not in found]
    if _MID_OFFSET in found:
        return
    if sum(conv.out_channels == displacements for conv in rest) >= len(missing):
        for role in missing:
            _take(found, role, rest, displacements)
    elif len(missing) == 2:
        _take(found, _MID_OFFSET, rest, 2 * displacements)


def _take(found: dict[str, Conv], role: str, rest: list[Conv], channels: int | None) -> None:
    """Give a role that is still free to the first remaining head with that number of channels, if there is one."""
    index = next((i for i, conv in enumerate(rest) if conv.out_channels == channels), None)
    if role not in found and index is not None:
        found[role] = rest.pop(index)


def _heatmap_channels(found: dict[str, Conv], rest: list[Conv]) -> int | None:
    """Channels of the heatmap among heads without telling names.

    Segmentation heads have other numbers of channels; the heatmap is the head for which another has twice as many.
    """
    offsets = {conv.out_channels for conv in [*rest, *(found[role] for role in ("short_offset",) if role in found)]}
    return min((conv.out_channels for conv in rest if 2 * conv.out_channels in offsets), default=None)


def _split_mid_offset(found: dict[str, Conv]) -> None:
    mid = found.pop(_MID_OFFSET, None)
    if mid is None:
        return
    if mid.out_channels % 2:
        raise FormatError(
            f"{mid.name} has {mid.out_channels} channels; but it must have as many forward as backward displacements"
        )
    half = mid.out_channels // 2
    for name, part in (("displacement_fwd", slice(0, half)), ("displacement_bwd", slice(half, 2 * half))):
        found[name] = Conv(f"{mid.name}/{name}", "conv", mid.weights[..., part], mid.bias[part], 1, 1, "linear")
