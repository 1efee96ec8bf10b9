"""PoseNet's first form in TensorFlow.js: manifest.json and one file of float32 values per variable.

Layer table and stride rule: mobilenet.ts of tfjs-models/posenet. Multipliers 0.50 and 0.75 have no stride
beyond 16; 1.00 and 1.01 have a fifth stride-2 layer (block 12). Once the wanted output stride is reached,
further strides become 1 and the blocks after them are dilated instead.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError, UserError, errors_about
from model_build.importers.json_parts import file_beside, parse
from model_build.network import HEADS, Activation, Conv, Kind, Network, check

BLOCK_STRIDES_16 = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1)
BLOCK_STRIDES_32 = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
_HEAD_VARIABLES = ("heatmap_2", "offset_2", "displacement_fwd_2", "displacement_bwd_2")
_MULTIPLIERS = {16: "050", 24: "075", 32: "100"}
MAX_VALUES = 1 << 24


def part_names(manifest: Path) -> list[str]:
    """The names of the files beside manifest.json that hold the variables."""
    return sorted({filename for filename, _ in variables(manifest).values()})


def digest(manifest: Path) -> str:
    """SHA-256 of manifest.json and all parts, by file name; UserError if a part is missing."""
    whole = hashlib.sha256(manifest.read_bytes())
    for name in part_names(manifest):
        path = manifest.parent / name
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {manifest.name} names it; get the whole checkpoint")
        whole.update(path.read_bytes())
    return whole.hexdigest()


def load(manifest: Path, output_stride: int | None = None) -> Network:
    """Network of a checkpoint; output stride 16 by default, 32 if the multiplier has it.

    At 16 the last block of 1.00 and 1.01 is dilated, which the KPU cannot do, so 32 is their default.
    """
    stored = variables(manifest)
    source_sha256 = digest(manifest)

    def values(name: str) -> Numbers:
        if name not in stored:
            raise FormatError(f"{manifest}: variable {name} is missing; this is not a PoseNet checkpoint")
        filename, shape = stored[name]
        data = (manifest.parent / filename).read_bytes()
        if len(data) != 4 * math.prod(shape):
            raise FormatError(
                f"{filename} has {len(data)} bytes, but {name} of shape {list(shape)} needs 4 bytes per value"
            )
        return np.frombuffer(data, "<f4").reshape(shape)

    def conv(
        name: str, kind: Kind = "conv", stride: int = 1, dilation: int = 1, activation: Activation = "relu6"
    ) -> Conv:
        scope = f"MobilenetV1/{name}/"
        weights = values(scope + ("depthwise_weights" if kind == "depthwise" else "weights"))
        return Conv(name, kind, weights, values(scope + "biases"), stride, dilation, activation)

    width = values("MobilenetV1/Conv2d_0/weights").shape[-1]
    strides = BLOCK_STRIDES_32 if width == 32 else BLOCK_STRIDES_16
    output_stride = output_stride or math.prod(strides)
    first, *blocks = stride_and_dilation(strides, output_stride)
    trunk = [conv("Conv2d_0", "conv", *first)]
    for block, at in enumerate(blocks, 1):
        trunk += [conv(f"Conv2d_{block}_depthwise", "depthwise", *at), conv(f"Conv2d_{block}_pointwise")]
    network = Network(
        name=f"posenet-{_MULTIPLIERS.get(width, f'width{width}')}-tfjs",
        trunk=tuple(trunk),
        heads={head: conv(name, activation="linear") for head, name in zip(HEADS, _HEAD_VARIABLES, strict=True)},
        output_stride=output_stride,
        source_id=f"tfjs checkpoint {manifest.parent.name}",
        source_sha256=source_sha256,
    )
    with errors_about(str(manifest)):
        check(network)
    return network


def stride_and_dilation(strides: tuple[int, ...], output_stride: int) -> list[tuple[int, int]]:
    """(stride, dilation) of each block at an output stride: toOutputStridedLayers of mobilenet.ts."""
    if output_stride not in (8, 16, 32) or output_stride > math.prod(strides):
        raise UserError(
            f"output stride {output_stride} is not possible; this network has 8, "
            f"16{', 32' if math.prod(strides) == 32 else ''}",
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
        text = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    with errors_about(str(path)):
        data = parse(text)
        if not isinstance(data, dict) or not data:
            raise FormatError("it is not a tfjs checkpoint manifest (variables by name)")
        return {name: _variable(name, entry) for name, entry in data.items()}


def _variable(name: str, entry: Any) -> tuple[str, tuple[int, ...]]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or "filename" not in entry:
        raise FormatError(f"{name!r:.60} has no filename and shape; this is not a tfjs checkpoint manifest")
    if not all(type(side) is int and side > 0 for side in shape) or math.prod(shape) > MAX_VALUES:
        raise FormatError(f"{name!r:.60} has the shape {shape!r:.60}")
    return file_beside(entry["filename"]), tuple(shape)
