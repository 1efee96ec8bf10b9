"""Makes a Network of a graph of operators: folds what can be folded, finds trunk and heads, aligns the grid."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

from common.errors import FormatError, errors_about
from common.skeleton import EDGES, KEYPOINTS, Skeleton
from model_build.importers import grid, heads, other_networks
from model_build.importers.convolutions import Unit, fold_convolutions, picture_tensor
from model_build.importers.graph import Graph
from model_build.network import Conv, Network, check


def to_network(
    graph: Graph, name: str, source_id: str, source_sha256: str, skeleton: Skeleton | None = None
) -> Network:
    """Recognise a PoseNet in a graph; FormatError says what is missing or cannot be handled."""
    other_networks.refuse(graph)
    units = fold_convolutions(graph)
    trunk, features = _trunk(units, picture_tensor(graph))
    found = heads.find(graph, units, features)
    skeleton = skeleton or _default_skeleton(found)
    trunk = grid.undo_dilation(trunk)
    found = grid.shift_to_symmetric(found, trunk, graph.input_size, len(skeleton.keypoints))
    network = Network(
        name=name,
        trunk=_with_plain_names(tuple(unit.conv for unit in trunk)),
        heads=found,
        output_stride=math.prod(unit.conv.stride for unit in trunk),
        keypoints=skeleton.keypoints,
        edges=skeleton.edges,
        source_id=source_id,
        source_sha256=source_sha256,
    )
    with errors_about("it is not a PoseNet that this program can build"):
        check(network)
    return network


def _trunk(units: list[Unit], start: str) -> tuple[list[Unit], str]:
    """The chain of convolutions that begins at the picture, and the tensor that the heads read."""
    readers: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        readers[unit.source].append(unit)
    trunk: list[Unit] = []
    tensor = start
    while len(readers[tensor]) == 1:
        unit = readers[tensor][0]
        if unit in trunk or unit.conv.activation == "linear":
            break
        trunk.append(unit)
        tensor = unit.result
    if not trunk:
        raise FormatError(
            f"no convolution reads the input {start}; operators before it that this program "
            "does not know come before it (`python -m model_build inspect` lists them)"
        )
    return trunk, tensor


def _default_skeleton(heads: dict[str, Conv]) -> Skeleton:
    keypoints, channels = heads["heatmap"].out_channels, heads["displacement_fwd"].out_channels
    if (keypoints, channels) == (len(KEYPOINTS), 2 * len(EDGES)):
        return Skeleton()
    raise FormatError(
        f"it has {keypoints} keypoints and {channels / 2:g} edges, not PoseNet's 17 and 16; name them in a "
        'JSON file {"keypoints": [names], "edges": [[parent, child], …]} and give it with --skeleton'
    )


def _with_plain_names(trunk: tuple[Conv, ...]) -> tuple[Conv, ...]:
    """MobileNet's own layer names if the trunk is a MobileNet, so that they are the same for every form of file."""
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
