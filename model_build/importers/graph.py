"""From a graph of operators to a Network: find the trunk, the heads, and fold what can be folded.

Readers of the different forms (TFLite, GraphDef, tfjs) bring their operators into the few kinds below; what
follows is the same for all of them.

Kinds: conv, depthwise (weights (kh, kw, in, out) or (kh, kw, C, 1)), bias (add a constant per channel), scale
(multiply by one), activation, pad, concat, normalise (elementwise with a scalar constant), dilate (into or
out of SpaceToBatch form), pass (identity, sigmoid, dequantize: value stays the same thing), other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from host_tools.errors import FormatError
from model_build.network import EDGES, HEADS, KEYPOINTS, Activation, Conv, Kind, Network, check
from model_build.padding import same_padding_before


@dataclass
class Op:
    """One operator; `inputs` are the computed tensors, constants stand in `attributes`."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    ops: list[Op]
    inputs: list[str]
    outputs: list[str]
    input_size: tuple[int, int] | None = None
    """(width, height) if the form fixes it."""


@dataclass(frozen=True)
class Skeleton:
    """Names of the keypoints and (parent, child) edges, where a network has others than PoseNet's."""

    keypoints: tuple[str, ...] = KEYPOINTS
    edges: tuple[tuple[int, int], ...] = EDGES


@dataclass
class _Unit:
    """A convolution with what follows it folded in."""

    conv: Conv
    padding: str | tuple[int, int, int, int]
    source: str
    result: str
    names: list[str]


_HEAD_PATTERNS = (
    ("drop", re.compile(r"segment|long_?offset|part_?heat|part_?offset", re.I)),
    ("displacement_fwd", re.compile(r"displacement_?fwd|disp(lacement)?_?forward|mid_?offsets?_?(fwd|forward)", re.I)),
    (
        "displacement_bwd",
        re.compile(r"displacement_?bwd|disp(lacement)?_?backward|mid_?offsets?_?(bwd|backward)", re.I),
    ),
    ("mid_offset", re.compile(r"mid_?offset", re.I)),
    ("heatmap", re.compile(r"heat_?map", re.I)),
    ("short_offset", re.compile(r"short_?offset|offset", re.I)),
)


def to_network(
    graph: Graph, name: str, source_id: str, source_sha256: str, skeleton: Skeleton | None = None
) -> Network:
    """Recognise a PoseNet in a graph; FormatError says what is missing or in the way."""
    units, features_of_input = _units(graph, source_id)
    trunk_units, features = _trunk(units, features_of_input, source_id)
    heads = _heads(graph, units, features, source_id)
    skeleton = skeleton or _default_skeleton(heads, source_id)
    trunk = _with_plain_names(tuple(unit.conv for unit in trunk_units))
    heads = _shifted_to_symmetric_grid(heads, trunk_units, graph.input_size, len(skeleton.keypoints), source_id)
    stride = 1
    for conv in trunk:
        stride *= conv.stride
    network = Network(
        name=name,
        trunk=trunk,
        heads=heads,
        output_stride=stride,
        keypoints=skeleton.keypoints,
        edges=skeleton.edges,
        source_id=source_id,
        source_sha256=source_sha256,
    )
    try:
        check(network)
    except ValueError as error:
        raise FormatError(f"{source_id} is no PoseNet that this program can build: {error}") from None
    return network


def _with_plain_names(trunk: tuple[Conv, ...]) -> tuple[Conv, ...]:
    """MobileNet's own layer names where the trunk is one: the same in every form that it comes in."""
    blocks = trunk[1:]
    if (
        trunk[0].kind != "conv"
        or len(blocks) % 2
        or any(layer.kind != ("conv" if i % 2 else "depthwise") for i, layer in enumerate(blocks))
    ):
        return trunk
    names = ["Conv2d_0"]
    for block in range(1, len(blocks) // 2 + 1):
        names += [f"Conv2d_{block}_depthwise", f"Conv2d_{block}_pointwise"]
    return tuple(replace(layer, name=name) for layer, name in zip(trunk, names, strict=True))


def _units(graph: Graph, source_id: str) -> tuple[list[_Unit], str]:
    """Convolutions with bias, scale and activation folded, and the tensor that the first of them reads."""
    consumers: dict[str, list[Op]] = defaultdict(list)
    producer: dict[str, Op] = {}
    for op in graph.ops:
        for tensor in op.inputs:
            consumers[tensor].append(op)
        for tensor in op.outputs:
            producer[tensor] = op

    units = []
    for op in graph.ops:
        if op.kind not in ("conv", "depthwise"):
            continue
        if len(op.inputs) != 1 or len(op.outputs) != 1 or "weights" not in op.attributes:
            raise FormatError(f"{source_id}: convolution {op.name} has no constant weights")
        weights = np.asarray(op.attributes["weights"], np.float32)
        if weights.ndim != 4:
            raise FormatError(f"{source_id}: weights of {op.name} have the shape {weights.shape}")
        channels = weights.shape[2] if op.kind == "depthwise" else weights.shape[3]
        bias = np.zeros(channels, np.float32)
        if (given := op.attributes.get("bias")) is not None:
            bias = _per_channel(given, channels, op, source_id)
        activation = op.attributes.get("activation", "linear")
        padding: str | tuple[int, int, int, int] = op.attributes.get("padding", "SAME")
        dilation = int(op.attributes.get("dilation", 1))

        # Backwards: explicit padding and the entrance to SpaceToBatch form belong to the convolution.
        source = op.inputs[0]
        for _ in graph.ops:
            before = producer.get(source)
            if before is None or before.kind not in ("pad", "dilate", "pass") or not before.inputs:
                break
            if before.kind == "pad":
                padding = before.attributes["pads"]
            elif before.kind == "dilate":
                dilation, padding = before.attributes["block"], "SAME"
            source = before.inputs[0]

        # Forwards: fold what acts on each channel, up to and including an activation.
        result, names = op.outputs[0], [op.name, *op.outputs]
        for _ in graph.ops:
            if activation != "linear" or len(consumers[result]) != 1 or result in graph.outputs:
                break
            after = consumers[result][0]
            if after.kind == "bias":
                bias = bias + _per_channel(after.attributes["value"], channels, after, source_id)
            elif after.kind == "scale":
                factor = _per_channel(after.attributes["value"], channels, after, source_id)
                weights = weights * (factor[:, None] if op.kind == "depthwise" else factor)
                bias = bias * factor
            elif after.kind == "activation":
                activation = after.attributes["activation"]
            elif after.kind != "dilate":
                break
            activation = after.attributes.get("activation", activation)
            result = after.outputs[0]
            names += [after.name, *after.outputs]
        if activation not in ("linear", "relu", "relu6"):
            raise FormatError(
                f"{source_id}: {op.name} has the activation {activation}; relu6, relu or none can be built"
            )
        stride = op.attributes.get("stride", [1, 1])
        if list(stride) not in ([1, 1], [2, 2]):
            raise FormatError(f"{source_id}: {op.name} has the stride {list(stride)}; 1 and 2 can be built")
        conv = Conv(
            name=op.name,
            kind="conv" if op.kind == "conv" else "depthwise",
            weights=np.ascontiguousarray(weights),
            bias=np.asarray(bias, np.float32),
            stride=int(stride[0]),
            dilation=dilation,
            activation=activation,
        )
        units.append(_Unit(conv, padding, source, result, names + op.attributes.get("names", [])))
    if not units:
        raise FormatError(f"{source_id} holds no convolution; it is no PoseNet")
    start = _after_normalisation(graph, consumers, source_id)
    return units, start


def _after_normalisation(graph: Graph, consumers: dict[str, list[Op]], source_id: str) -> str:
    """Walk from the graph's input over scalar arithmetic, which must map bytes to about [−1, 1].

    The tensor returned is named before any operator that passes it on: so are the convolutions' sources.
    """
    if len(graph.inputs) != 1:
        raise FormatError(f"{source_id} has {len(graph.inputs)} inputs; a PoseNet has one, the picture")
    tensor = start = graph.inputs[0]
    scale, offset, seen = 1.0, 0.0, False
    for _ in graph.ops:
        if len(consumers[tensor]) != 1 or consumers[tensor][0].kind not in ("normalise", "pass"):
            break
        op = consumers[tensor][0]
        tensor = op.outputs[0]
        if op.kind == "normalise":
            scale, offset, seen = op.attributes["apply"](scale), op.attributes["apply"](offset, True), True
            start = tensor
    if seen and not (abs(offset + 1) < 0.02 and abs(scale * 255 - 2) < 0.04):
        raise FormatError(
            f"{source_id} normalises pixels to {offset:.4g}…{offset + 255 * scale:.4g}; only −1…1 can be built"
        )
    return start


def _trunk(units: list[_Unit], start: str, source_id: str) -> tuple[list[_Unit], str]:
    """The chain of convolutions that begins at the input, and the tensor that the heads read."""
    readers: dict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        readers[unit.source].append(unit)
    trunk: list[_Unit] = []
    tensor = start
    while len(readers[tensor]) == 1:
        unit = readers[tensor][0]
        if unit in trunk or unit.conv.activation == "linear":
            break
        trunk.append(unit)
        tensor = unit.result
    if not trunk:
        raise FormatError(
            f"{source_id}: no convolution reads the input {start}; operators before it that this program "
            "does not know are in the way (`python -m model_build inspect` lists them)"
        )
    return trunk, tensor


def _heads(graph: Graph, units: list[_Unit], features: str, source_id: str) -> dict[str, Conv]:
    followers: dict[str, list[Op]] = defaultdict(list)
    for op in graph.ops:
        for tensor in op.inputs:
            followers[tensor].append(op)
    found: dict[str, Conv] = {}
    unnamed: list[Conv] = []
    for unit in units:
        if unit.source != features or unit.conv.activation != "linear":
            continue
        role = _role(unit.names) or _role(_names_downstream(unit.result, followers))
        if role == "drop":
            continue
        if role is None:
            unnamed.append(unit.conv)
        elif role in found:
            raise FormatError(f"{source_id} has two heads that are named {role}: {found[role].name}, {unit.conv.name}")
        else:
            found[role] = unit.conv
    _by_structure(found, unnamed)
    if (mid := found.pop("mid_offset", None)) is not None:
        # Forward and backward displacements in one tensor, forward first.
        half = mid.out_channels // 2
        for name, part in (("displacement_fwd", slice(0, half)), ("displacement_bwd", slice(half, 2 * half))):
            found[name] = Conv(f"{mid.name}/{name}", "conv", mid.weights[..., part], mid.bias[part], 1, 1, "linear")
    if missing := [head for head in HEADS if head not in found]:
        raise FormatError(
            f"{source_id} lacks the head{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"(found: {', '.join(found) or 'none'}); a PoseNet has four 1×1 convolutions on its last feature map"
        )
    return {head: replace(found[head], name=head) for head in HEADS}


def _role(names: list[str]) -> str | None:
    for name in names:
        for role, pattern in _HEAD_PATTERNS:
            if pattern.search(name):
                return role
    return None


def _names_downstream(tensor: str, followers: dict[str, list[Op]]) -> list[str]:
    """Names of what only renames or joins a head; a joint says nothing about which part it is."""
    names = []
    seen = {tensor}
    pending = [tensor]
    while pending:
        for op in followers[pending.pop()]:
            if op.kind == "pass":
                names += [op.name, *op.outputs]
                new = [out for out in op.outputs if out not in seen]
                seen.update(new)
                pending += new
    return names


def _by_structure(found: dict[str, Conv], unnamed: list[Conv]) -> None:
    """Roles of heads whose names say nothing: K, 2K, then 2E twice (forward first), or 4E once."""
    counts = {conv.out_channels for conv in unnamed}
    if "heatmap" not in found:
        # Segmentation heads have other widths; the heatmap is the one that comes with a head twice as wide.
        pairs = sorted(count for count in counts if 2 * count in counts or "short_offset" in found)
        for conv in unnamed:
            if pairs and conv.out_channels == pairs[0]:
                found["heatmap"] = conv
                break
    if "heatmap" not in found:
        return
    keypoints = found["heatmap"].out_channels
    rest = [conv for conv in unnamed if conv is not found["heatmap"]]
    if "short_offset" not in found:
        matching = [conv for conv in rest if conv.out_channels == 2 * keypoints]
        if matching:
            found["short_offset"] = matching[0]
            rest.remove(matching[0])
    missing = [name for name in ("displacement_fwd", "displacement_bwd") if name not in found]
    if "mid_offset" in found or not missing:
        return
    tree = 2 * (keypoints - 1)
    directed = [conv for conv in rest if conv.out_channels == tree]
    joined = [conv for conv in rest if conv.out_channels == 2 * tree]
    if len(directed) >= len(missing):
        found.update(zip(missing, directed, strict=False))
    elif joined and len(missing) == 2:
        found["mid_offset"] = joined[0]


def _default_skeleton(heads: dict[str, Conv], source_id: str) -> Skeleton:
    keypoints, channels = heads["heatmap"].out_channels, heads["displacement_fwd"].out_channels
    if (keypoints, channels) == (len(KEYPOINTS), 2 * len(EDGES)):
        return Skeleton()
    raise FormatError(
        f"{source_id} has {keypoints} keypoints and {channels / 2:g} edges, not PoseNet's 17 and 16; name them in a "
        'JSON file {"keypoints": [names], "edges": [[parent, child], …]} and give it with --skeleton'
    )


def _shifted_to_symmetric_grid(
    heads: dict[str, Conv], trunk: list[_Unit], size: tuple[int, int] | None, keypoints: int, source_id: str
) -> dict[str, Conv]:
    """Correct the short offsets of a network whose cells lie elsewhere than at cell · stride.

    Each stride-2 layer that pads p zeros before the first pixel, instead of one, centres its cells 1 − p
    pixels further right (below). Built here all cells lie at multiples of the stride, so a network that was
    trained on a shifted grid gets the shift taken from its offsets: the same positions come out.
    """
    shift_px = [0, 0]  # y, x
    step = 1
    sides = [size[1], size[0]] if size else [0, 0]
    for unit in trunk:
        if unit.conv.stride == 2 and unit.conv.kernel == 3:
            before = _padding_before(unit, sides, source_id)
            for axis in (0, 1):
                shift_px[axis] += (1 - before[axis]) * step
        elif unit.conv.kernel == 3 and not _is_same(unit, sides):
            raise FormatError(f"{source_id}: {unit.conv.name} has the padding {unit.padding}; SAME is wanted")
        sides = [-(-side // unit.conv.stride) for side in sides]
        step *= unit.conv.stride
    if shift_px == [0, 0]:
        return heads
    head = heads["short_offset"]
    bias = head.bias.copy()
    if bias.size != 2 * keypoints:
        return heads
    bias[:keypoints] += shift_px[0]
    bias[keypoints:] += shift_px[1]
    return {**heads, "short_offset": Conv(head.name, head.kind, head.weights, bias, 1, 1, "linear")}


def _padding_before(unit: _Unit, sides: list[int], source_id: str) -> tuple[int, int]:
    """Zeros before the first row and column of a stride-2 layer."""
    if isinstance(unit.padding, tuple):
        top, bottom, left, right = unit.padding
        if not all(0 <= pad <= 1 for pad in (top, bottom, left, right)):
            raise FormatError(f"{source_id}: {unit.conv.name} is padded by {unit.padding}; 0 or 1 can be built")
        return top, left
    if unit.padding != "SAME":
        raise FormatError(f"{source_id}: {unit.conv.name} has the padding {unit.padding}; SAME is wanted")
    # Forms without a fixed size are PoseNets that want odd sizes, where SAME is symmetric.
    return (
        same_padding_before(sides[0], 3, 2) if sides[0] else 1,
        same_padding_before(sides[1], 3, 2) if sides[1] else 1,
    )


def _is_same(unit: _Unit, sides: list[int]) -> bool:
    around = unit.conv.dilation
    return unit.padding == "SAME" or unit.padding == (around, around, around, around)


def _per_channel(value: Any, channels: int, op: Op, source_id: str) -> np.ndarray:
    array = np.asarray(value, np.float32).reshape(-1)
    if array.size == 1:
        return np.full(channels, array[0], np.float32)
    if array.size != channels:
        raise FormatError(f"{source_id}: {op.name} has {array.size} values for {channels} channels")
    return array


__all__ = ["Activation", "Graph", "Kind", "Op", "Skeleton", "to_network"]
