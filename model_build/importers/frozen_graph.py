"""PoseNet in a frozen TensorFlow graph (.pb), as posenet-python writes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from common.skeleton import Skeleton
from model_build.importers import graphdef
from model_build.importers.recognise import to_network
from model_build.network import Network


def load(path: Path, skeleton: Skeleton | None = None) -> Network:
    """Network of a .pb file; FormatError if it is damaged or holds no PoseNet."""
    return from_bytes(path.read_bytes(), path.name, skeleton)


def from_bytes(
    data: bytes, source_id: str, skeleton: Skeleton | None = None, input_size: tuple[int, int] | None = None
) -> Network:
    """Network from a serialized GraphDef."""
    graph = graphdef.to_graph(graphdef.read(data, source_id), source_id, input_size)
    return to_network(graph, Path(source_id).stem, source_id, hashlib.sha256(data).hexdigest(), skeleton)
