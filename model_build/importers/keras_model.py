"""A user's own PoseNet in Keras (.keras, .h5) or SavedModel form, by way of TensorFlow's frozen graph."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import FormatError
from common.skeleton import Skeleton
from model_build.importers import graphdef
from model_build.network import Network
from model_build.tensorflow_group import tensorflow

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, shape with None for what is not fixed, type."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Layer:
    """A Keras layer; `shape` is that of its result."""

    name: str
    kind: str
    shape: Shape
    parameters: int


@dataclass(frozen=True)
class LoadedModel:
    """What TensorFlow loaded from a file, whatever it computes."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    """The layers of a Keras file; a SavedModel has none."""
    function: Any
    """The model's function of one picture, or None if it has other inputs."""

    def network(self, skeleton: Skeleton | None = None) -> Network:
        """The model as a PoseNet; FormatError if it is not one."""
        name = self.path.name
        if self.function is None:
            shapes = ", ".join(_text(tensor.shape) for tensor in self.inputs) or "none"
            raise FormatError(f"{name} has the inputs {shapes}; a PoseNet has one, a picture (any, height, width, 3)")
        with _tensorflow_errors(self.path):
            from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

            graph = convert_variables_to_constants_v2(self.function).graph.as_graph_def()
        _, height, width, _ = self.inputs[0].shape
        size = (width, height) if width and height else None
        network = graphdef.from_bytes(graph.SerializeToString(deterministic=True), name, skeleton, size)
        return replace(network, name=self.path.stem, source_sha256=_digest(self.path))


def load(path: Path, skeleton: Skeleton | None = None) -> Network:
    """Network of a Keras file or SavedModel folder; FormatError if TensorFlow cannot load it or it is not a PoseNet."""
    return open_model(path).network(skeleton)


def open_model(path: Path) -> LoadedModel:
    """Whatever model is in a Keras file or SavedModel folder; FormatError if TensorFlow cannot load it."""
    tf = tensorflow(f"reading {path.name}")
    with _tensorflow_errors(path):
        return _saved_model(tf, path) if path.is_dir() else _keras(tf, path)


@contextlib.contextmanager
def _tensorflow_errors(path: Path) -> Iterator[None]:
    """TensorFlow raises dozens of kinds of errors on damaged files; each becomes a FormatError."""
    try:
        yield
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"{path.name}: TensorFlow cannot load it: {' '.join(str(error).split())[:200]}") from None


def _keras(tf: Any, path: Path) -> LoadedModel:
    model = tf.keras.models.load_model(path, compile=False)
    inputs = tuple(_tensor(tensor) for tensor in model.inputs or ())
    function = None
    if _takes_a_picture(inputs):
        spec = tf.TensorSpec([1, *inputs[0].shape[1:]], model.inputs[0].dtype)
        function = tf.function(lambda picture: model(picture, training=False)).get_concrete_function(spec)
    layers = tuple(
        Layer(layer.name, type(layer).__name__, _result_shape(layer), int(layer.count_params()))
        for layer in model.layers
    )
    return LoadedModel(path, inputs, tuple(_tensor(tensor) for tensor in model.outputs or ()), layers, function)


def _saved_model(tf: Any, path: Path) -> LoadedModel:
    loaded = tf.saved_model.load(str(path))
    if not loaded.signatures:
        raise FormatError(f"{path.name} is a SavedModel without signatures; save the model with its inputs fixed")
    signatures = dict(loaded.signatures)
    function = signatures.get("serving_default") or signatures[sorted(signatures)[0]]
    # Kept alive: the signature's variables belong to the loaded object.
    function._maix_posenet_owner = loaded
    inputs = tuple(_tensor(spec) for spec in function.structured_input_signature[1].values())
    outputs = tuple(_tensor(spec) for spec in function.structured_outputs.values())
    return LoadedModel(path, inputs, outputs, (), function if _takes_a_picture(inputs) else None)


def _takes_a_picture(inputs: tuple[Tensor, ...]) -> bool:
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].shape[3] == 3


def _tensor(spec: Any) -> Tensor:
    return Tensor(str(spec.name), _shape(spec.shape), spec.dtype if isinstance(spec.dtype, str) else spec.dtype.name)


def _shape(shape: Any) -> Shape:
    """TensorFlow's TensorShape, of unknown rank too, or Keras's tuple."""
    if getattr(shape, "rank", 0) is None:
        return ()
    return tuple(None if side is None else int(side) for side in shape)


def _result_shape(layer: Any) -> Shape:
    shape = getattr(layer, "output_shape", ())
    if isinstance(shape, list):
        shape = shape[0] if shape else ()
    return tuple(shape) if isinstance(shape, tuple) else ()


def _text(shape: Shape) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if part.is_file():
            digest.update(part.read_bytes())
    return digest.hexdigest()
