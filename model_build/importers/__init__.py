"""Readers of every form that PoseNet weights come in; each makes a model_build.network.Network."""

from __future__ import annotations

import json
from pathlib import Path

from common.cli import near
from common.errors import FormatError, UserError
from common.skeleton import Skeleton
from model_build import catalog
from model_build.importers import graphdef, keras_model, strangers, tfjs_checkpoint, tfjs_graph, tflite, tflite_file
from model_build.kpu import kmodel_v3
from model_build.network import Network
from model_build.train import weights_file

FORMS = (
    "TFLite (.tflite), frozen graph (.pb), tfjs checkpoint (manifest.json) or graph model (model*.json), "
    "Keras (.keras, .h5), SavedModel folder, weights trained here (.npz)"
)


def open_network(name_or_path: str | Path, skeleton: Skeleton | None = None) -> Network:
    """The network of a catalogue name, or of a file or folder in any known form.

    UserError for unknown names, FormatError for files that are damaged or do not hold a PoseNet.
    """
    entry = catalog.find(str(name_or_path))
    if entry is not None:
        return load(catalog.obtain(entry), skeleton).renamed(str(name_or_path))
    check_name(name_or_path)
    return load(Path(name_or_path), skeleton)


def check_name(name_or_path: str | Path) -> None:
    """UserError unless it is a file, a folder, or a network of the catalogue."""
    names = catalog.names()
    if str(name_or_path) not in names and not Path(name_or_path).exists():
        raise UserError(
            f"{name_or_path}: neither a file nor a known network{near(str(name_or_path), names)}; "
            f"known networks: {', '.join(names)}",
            exit_code=2,
        )


def load(path: Path, skeleton: Skeleton | None = None) -> Network:
    """The network in a file or folder; its form is recognized by its contents."""
    if path.is_dir():
        return _load_folder(path, skeleton)
    with path.open("rb") as file:
        head = file.read(strangers.HEAD_BYTES)
    strangers.refuse(path.name, head)
    if head[4:8] == tflite_file.IDENTIFIER:
        return tflite.from_bytes(path.read_bytes(), path.name, skeleton)
    if path.suffix == ".npz":
        return weights_file.load(path)
    if path.suffix == ".json" or head.lstrip()[:1] == b"{":
        if tfjs_graph.is_graph_model(path):
            return tfjs_graph.load(path, skeleton)
        return tfjs_checkpoint.load(path)
    if path.suffix in (".keras", ".h5", ".hdf5"):
        return keras_model.load(path, skeleton)
    if path.suffix == ".pb":
        return graphdef.from_bytes(path.read_bytes(), path.name, skeleton)
    if kmodel_v3.is_kmodel(head):
        raise FormatError(
            f"{path.name} is a kmodel: a kmodel is the result of a build, and weights cannot be recovered from it"
        )
    raise FormatError(f"{path.name} begins with {head[:8]!r}; the known forms are {FORMS}")


def _load_folder(path: Path, skeleton: Skeleton | None) -> Network:
    if (path / "saved_model.pb").is_file():
        return keras_model.load(path, skeleton)
    for name in ("manifest.json", "model-stride16.json", "model.json", "model-stride32.json"):
        if (path / name).is_file():
            return load(path / name, skeleton)
    raise FormatError(
        f"{path} is a folder without saved_model.pb, manifest.json or model*.json; the known forms are {FORMS}"
    )


def load_skeleton(path: Path) -> Skeleton:
    """Keypoints and edges from JSON: {"keypoints": [names], "edges": [[parent, child], …]}."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        keypoints = tuple(str(name) for name in data["keypoints"])
        edges = tuple((int(parent), int(child)) for parent, child in data["edges"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f'{path}: {error!r}; a skeleton is {{"keypoints": [names], "edges": [[parent, child], …]}}'
        ) from None
    if not all(0 <= end < len(keypoints) for edge in edges for end in edge):
        raise FormatError(f"{path}: an edge names a keypoint that does not exist; there are {len(keypoints)}")
    return Skeleton(keypoints, edges)
