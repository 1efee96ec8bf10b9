"""The file of trained weights: small, simple, and readable with NumPy alone.

A NumPy .npz (a zip of arrays) with four members; layers follow each other in the order of `about.layers`,
trunk first, then the heads in HEADS order:

    about    uint8    JSON text: {"format": "maix-posenet weights", "version": 1, "name": …, "output_stride": 16,
                      "layers": [{"name", "kind", "shape", "stride", "activation"}, …], "notes": {…}}
    weights  int8     all layers' weights, each flattened from (kh, kw, in, out) or depthwise (3, 3, C, 1)
    scales   float32  one per output channel of every layer: weight = int8 · scale
    biases   float32  likewise

`notes` tell how they were trained: command, seed, data and its version, steps, losses, accuracy.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Floats, Numbers
from common.errors import FormatError, UserError
from common.files import atomic_path
from model_build.network import HEADS, Conv, Network, check

FORMAT, VERSION = "maix-posenet weights", 1
MAX_VALUES = 1 << 24
"""No PoseNet has more weights; the limit keeps a damaged shape from using up all memory."""
MAX_UNPACKED_BYTES = 4 * MAX_VALUES


def quantize(weights: Floats, kind: str) -> tuple[Floats, Floats]:
    """float32 weights → int8 of the same shape and float32 scales (out,), symmetric per output channel."""
    axes = (0, 1, 3) if kind == "depthwise" else (0, 1, 2)
    scales = np.maximum(np.abs(weights).max(axis=axes), 1e-12).astype(np.float32) / np.float32(127)
    return np.rint(weights / _along_outputs(scales, kind)).astype(np.int8), scales


def _along_outputs(values: Floats, kind: str) -> Floats:
    return values[:, None] if kind == "depthwise" else values


def save(path: Path, network: Network, notes: dict[str, Any]) -> None:
    """Write a network, its weights rounded to int8, completely or not at all."""
    layers, weights, scales, biases = [], [], [], []
    for layer in network.layers():
        values, steps = quantize(layer.weights, layer.kind)
        layers.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "shape": list(layer.weights.shape),
                "stride": layer.stride,
                "activation": layer.activation,
            }
        )
        weights.append(values.ravel())
        scales.append(steps)
        biases.append(layer.bias.astype(np.float32))
    about = {
        "format": FORMAT,
        "version": VERSION,
        "name": network.name,
        "output_stride": network.output_stride,
        "layers": layers,
        "notes": notes,
    }
    _write(path, about, np.concatenate(weights), np.concatenate(scales), np.concatenate(biases))


def _write(path: Path, about: dict[str, Any], weights: Floats, scales: Floats, biases: Floats) -> None:
    text = np.frombuffer(json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode(), np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, about=text, weights=weights, scales=scales, biases=biases)


def add_notes(path: Path, notes: dict[str, Any]) -> None:
    """Add notes to a weights file; its weights do not change."""
    data = _read(path)
    _parse(data, path)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        about = json.loads(bytes(arrays["about"]))
        about["notes"] |= notes
        _write(path, about, arrays["weights"], arrays["scales"], arrays["biases"])


def average(networks: Sequence[Network], logit_shift: float = 0.0) -> Network:
    """The mean of networks with the same layers, of which one was trained further from another (arXiv 2109.01903).

    logit_shift: is added to every heatmap logit; below 0, fewer poses are found and fewer ghosts. UserError if the
    layers differ.
    """
    first, *others = networks
    for other in others:
        if _forms(other) != _forms(first):
            raise UserError(f"{first.name} and {other.name} have different layers, so they have no mean")
    layers = [
        replace(
            layers[0],
            weights=np.mean([layer.weights for layer in layers], axis=0),
            bias=np.mean([layer.bias for layer in layers], axis=0),
        )
        for layers in zip(*(network.layers() for network in networks), strict=True)
    ]
    heads = dict(zip(HEADS, layers[-len(HEADS) :], strict=True))
    heads["heatmap"] = replace(heads["heatmap"], bias=heads["heatmap"].bias + np.float32(logit_shift))
    return replace(first, trunk=tuple(layers[: -len(HEADS)]), heads=heads)


def _forms(network: Network) -> list[tuple[object, ...]]:
    """What must be the same of each layer for a mean to make sense."""
    return [(layer.kind, layer.weights.shape, layer.stride, layer.activation) for layer in network.layers()]


def load(path: Path) -> Network:
    """Network of a weights file; FormatError if it is not one or is damaged, UserError if it cannot be read."""
    return _parse(_read(path), path)[0]


def load_notes(path: Path) -> dict[str, Any]:
    """The file's notes on how the weights were made."""
    return _parse(_read(path), path)[1]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _parse(data: bytes, path: Path) -> tuple[Network, dict[str, Any]]:
    try:
        about, weights, scales, biases = _unpack(data)
        layers = _layers(about["layers"], weights, scales, biases)
        trunk, heads = layers[: -len(HEADS)], layers[-len(HEADS) :]
        if tuple(layer.name for layer in heads) != HEADS:
            raise ValueError(f"the last layers are {[layer.name for layer in heads]} instead of {', '.join(HEADS)}")
        network = Network(
            str(about["name"]),
            tuple(trunk),
            dict(zip(HEADS, heads, strict=True)),
            about["output_stride"],
            source_id=str(about["name"]),
            source_sha256=hashlib.sha256(data).hexdigest(),
        )
        check(network)
        return network, dict(about["notes"])
    except Exception as error:  # On damaged files zipfile, zlib, NumPy and JSON raise a dozen kinds of exceptions.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FormatError(f"{path} is not a weights file of this project, or is damaged: {reason}") from error


def _unpack(data: bytes) -> tuple[dict[str, Any], Numbers, Floats, Floats]:
    """What the file says of itself, weights int8, scales and biases float32, all one after the other."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        about = json.loads(bytes(arrays["about"]))
        weights, scales, biases = (arrays[name] for name in ("weights", "scales", "biases"))
    if (about["format"], about["version"]) != (FORMAT, VERSION):
        raise ValueError(f"format {about['format']!r} version {about['version']!r}")
    if weights.dtype != np.int8 or scales.dtype != np.float32 or biases.dtype != np.float32:
        raise ValueError(f"types {weights.dtype}, {scales.dtype}, {biases.dtype}")
    return about, weights, scales, biases


def _layers(described: list[dict[str, Any]], weights: Numbers, scales: Floats, biases: Floats) -> list[Conv]:
    """The layers in the file's order, which use up weights, scales and biases."""
    layers = []
    at_weight = at_channel = 0
    for entry in described:
        name, kind, activation = str(entry["name"]), entry["kind"], entry["activation"]
        shape = tuple(int(n) for n in entry["shape"])
        count = math.prod(shape)
        if len(shape) != 4 or min(shape) < 1 or count > MAX_VALUES or kind not in ("conv", "depthwise"):
            raise ValueError(f"layer {name!r} of kind {kind!r}, shape {shape}")
        if activation not in ("relu6", "relu", "linear"):
            raise ValueError(f"layer {name!r} has the activation {activation!r}")
        channels = slice(at_channel, at_channel + (shape[2] if kind == "depthwise" else shape[3]))
        block = weights[at_weight : at_weight + count].reshape(shape)
        values = block.astype(np.float32) * _along_outputs(scales[channels], kind)
        layers.append(Conv(name, kind, values, biases[channels], entry["stride"], 1, activation))
        at_weight, at_channel = at_weight + count, channels.stop
    if (at_weight, at_channel, at_channel) != (weights.size, scales.size, biases.size):
        raise ValueError(f"{at_weight} weights and {at_channel} channels described, {weights.size} there")
    return layers
