"""PoseNet's first form in TensorFlow.js: manifest.json and one file of float32 values a variable.

Layer table and stride rule: mobilenet.ts of tfjs-models/posenet. Multipliers 0.50 and 0.75 have no stride
beyond 16; 1.00 and 1.01 have a fifth stride-2 layer (block 12). Once the wanted output stride is reached,
further strides become 1 and the blocks behind them are dilated instead.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError, UserError
from model_build.network import HEADS, Conv, Kind, Network, check

BLOCK_STRIDES_16 = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1)
BLOCK_STRIDES_32 = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
_HEAD_VARIABLES = ("heatmap_2", "offset_2", "displacement_fwd_2", "displacement_bwd_2")
_MULTIPLIERS = {16: "050", 24: "075", 32: "100"}
MAX_VALUES = 1 << 24
_PARTS: tuple[tuple[str, Kind], ...] = (("depthwise", "depthwise"), ("pointwise", "conv"))


def part_names(manifest: Path) -> list[str]:
    """The names of the files beside manifest.json that hold the variables."""
    return sorted({filename for filename, _ in variables(manifest).values()})


def digest(manifest: Path) -> str:
    """SHA-256 of manifest.json and all parts, by file name; UserError if a part is missing."""
    whole = hashlib.sha256(manifest.read_bytes())
    for filename in sorted(filename for filename, _ in variables(manifest).values()):
        path = manifest.parent / filename
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {manifest.name} names it; get the whole checkpoint")
        whole.update(path.read_bytes())
    return whole.hexdigest()


def load(manifest: Path, output_stride: int | None = None) -> Network:
    """Network of a checkpoint; output stride 16 by default, 32 where the multiplier has it.

    At 16 the last block of 1.00 and 1.01 is dilated, which the KPU cannot do, so 32 is their default.
    """
    stored = variables(manifest)
    source_sha256 = digest(manifest)

    def values(name: str) -> Numbers:
        if name not in stored:
            raise FormatError(f"{manifest}: variable {name} is missing; this is no PoseNet checkpoint")
        filename, shape = stored[name]
        data = (manifest.parent / filename).read_bytes()
        if len(data) != 4 * math.prod(shape):
            raise FormatError(f"{filename} has {len(data)} bytes, {name} of shape {list(shape)} needs 4 a value")
        return np.frombuffer(data, "<f4").reshape(shape)

    first = values("MobilenetV1/Conv2d_0/weights")
    width = first.shape[-1]
    strides = BLOCK_STRIDES_32 if width == 32 else BLOCK_STRIDES_16
    stride = output_stride or math.prod(strides)
    trunk = _trunk(values, strides, stride)
    heads = {
        head: Conv(
            name, "conv", values(f"MobilenetV1/{name}/weights"), values(f"MobilenetV1/{name}/biases"), 1, 1, "linear"
        )
        for head, name in zip(HEADS, _HEAD_VARIABLES, strict=True)
    }
    multiplier = _MULTIPLIERS.get(width, f"width{width}")
    network = Network(
        name=f"posenet-{multiplier}-tfjs",
        trunk=tuple(trunk),
        heads=heads,
        output_stride=stride,
        source_id=f"tfjs checkpoint {manifest.parent.name}",
        source_sha256=source_sha256,
    )
    try:
        check(network)
    except ValueError as error:
        raise FormatError(f"{manifest}: {error}") from None
    return network


def _trunk(values: Callable[[str], Numbers], strides: tuple[int, ...], output_stride: int) -> list[Conv]:
    layers = []
    for block, (stride, dilation) in enumerate(stride_and_dilation(strides, output_stride)):
        scope = f"MobilenetV1/Conv2d_{block}"
        if block == 0:
            layers.append(
                Conv("Conv2d_0", "conv", values(scope + "/weights"), values(scope + "/biases"), stride, dilation)
            )
            continue
        for part, kind in _PARTS:
            name = f"{scope}_{part}"
            weights = values(name + ("/depthwise_weights" if part == "depthwise" else "/weights"))
            at = (stride, dilation) if part == "depthwise" else (1, 1)
            layers.append(Conv(name.split("/")[1], kind, weights, values(name + "/biases"), *at))
    return layers


def stride_and_dilation(strides: tuple[int, ...], output_stride: int) -> list[tuple[int, int]]:
    """(stride, dilation) of each block at an output stride: toOutputStridedLayers of mobilenet.ts."""
    if output_stride not in (8, 16, 32) or output_stride > math.prod(strides):
        raise UserError(
            f"output stride {output_stride}: this network has 8, 16{', 32' if math.prod(strides) == 32 else ''}",
            exit_code=2,
        )
    reached, rate, layers = 1, 1, []
    for stride in strides:
        if reached == output_stride:
            layers.append((1, rate))
            rate *= stride
        else:
            layers.append((stride, 1))
            reached *= stride
    return layers


def variables(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The file name and shape of each variable; FormatError if the manifest is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from None
    found = {}
    if not isinstance(data, dict) or not data:
        raise FormatError(f"{path} is no tfjs checkpoint manifest (variables by name)")
    for name, entry in data.items():
        filename = entry.get("filename") if isinstance(entry, dict) else None
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(filename, str) or not isinstance(shape, list):
            raise FormatError(f"{path}: {name!r:.60} has no filename and shape; this is no tfjs checkpoint manifest")
        if not filename or filename != Path(filename).name or "\0" in filename or filename in (".", ".."):
            raise FormatError(f"{path}: {name!r:.60} names the file {filename!r:.60}, which is not beside it")
        if not all(type(side) is int and side > 0 for side in shape) or math.prod(shape) > MAX_VALUES:
            raise FormatError(f"{path}: {name!r:.60} has the shape {shape!r:.60}")
        found[name] = (filename, tuple(shape))
    return found
