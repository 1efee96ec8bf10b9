"""A user's own PoseNet in Keras (.keras, .h5) or SavedModel form, by way of TensorFlow's frozen graph."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from common.errors import FormatError, UserError
from model_build.importers import frozen_graph
from model_build.importers.graph import Skeleton
from model_build.network import Network


def load(path: Path, skeleton: Skeleton | None = None) -> Network:
    """Network of a Keras file or SavedModel folder; FormatError if TensorFlow cannot load it or it is no PoseNet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(f"reading {path.name} needs TensorFlow, which is not installed (x86-64 only)") from None
    try:
        function, size = _saved_model(tf, path) if path.is_dir() else _keras(tf, path)
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        graph = convert_variables_to_constants_v2(function).graph.as_graph_def()
    except Exception as error:  # TensorFlow raises dozens of kinds on damaged files
        raise FormatError(f"{path.name}: TensorFlow cannot load it: {' '.join(str(error).split())[:200]}") from None
    network = frozen_graph.from_bytes(graph.SerializeToString(deterministic=True), path.name, skeleton, size)
    digest = hashlib.sha256()
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if part.is_file():
            digest.update(part.read_bytes())
    return Network(**{**network.__dict__, "name": path.stem, "source_sha256": digest.hexdigest()})


def _keras(tf: Any, path: Path) -> tuple[Any, tuple[int, int] | None]:
    model = tf.keras.models.load_model(path, compile=False)
    shape = model.inputs[0].shape
    spec = tf.TensorSpec([1, shape[1], shape[2], shape[3]], model.inputs[0].dtype)
    function = tf.function(lambda picture: model(picture, training=False)).get_concrete_function(spec)
    return function, (shape[2], shape[1]) if shape[1] and shape[2] else None


def _saved_model(tf: Any, path: Path) -> tuple[Any, tuple[int, int] | None]:
    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]
    # Kept alive: the signature's variables belong to the loaded object.
    function._maix_posenet_owner = loaded
    (spec,) = function.structured_input_signature[1].values()
    shape = spec.shape
    return function, (shape[2], shape[1]) if len(shape) == 4 and shape[1] and shape[2] else None
