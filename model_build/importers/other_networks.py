"""Pose networks that the KPU cannot run are refused by name, with the reason and what to use instead."""

from __future__ import annotations

import re

from common.errors import FormatError
from model_build.importers.graph import Convolution, Graph

_ADVICE = "take PoseNet on MobileNetV1 (`python -m model_build list` shows what is known)"
_MOVENET = re.compile(r"movenet|center_?net|kpt_(heatmap|offset|regress)", re.I)
_RESNET = re.compile(r"resnet", re.I)


def refuse(graph: Graph) -> None:
    """FormatError if the graph is a MoveNet, or a PoseNet on ResNet50."""
    if _named(graph, _MOVENET):
        raise FormatError(
            "this is a MoveNet, which the KPU cannot run: its feature pyramid adds enlarged maps (the KPU has "
            "no additions and no enlarging), and its decoder (ArgMax, GatherNd) is part of the graph; " + _ADVICE
        )
    if _named(graph, _RESNET) or _begins_with_7x7(graph):
        raise FormatError(
            "this is a PoseNet on ResNet50, which the KPU cannot run: it begins with a 7×7 convolution (the "
            "KPU has 1×1 and 3×3), adds branches, has maps of 2,048 channels (the KPU takes 1,024), and 23 million "
            "weights do not fit 16 MiB of flash; " + _ADVICE
        )


def _named(graph: Graph, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(name) for op in graph.ops for name in (op.name, *op.outputs))


def _begins_with_7x7(graph: Graph) -> bool:
    """Whether a convolution of the three colours is ResNet's: 7×7, 64 channels."""
    meanings = [op.meaning for op in graph.ops]
    return any(isinstance(meaning, Convolution) and meaning.weights.shape == (7, 7, 3, 64) for meaning in meanings)
