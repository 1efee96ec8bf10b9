"""posenet.json: everything that board and host must know about a built kmodel."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import FormatError, UserError
from common.flash_map import FLASH_BYTES
from common.pose import SCORE_ONE_Q15
from model_build.kpu.ram import RAM_BYTES
from model_build.network import HEADS, head_channels
from model_build.rotation import MOUNTS

FILE_NAME = "posenet.json"
"""The file's name in a build folder and on a board."""
FORMAT = 2
"""Format 2 is the first that tells the mount of a build."""
FORMAT_WITH_FIELD = 3
"""Builds that see a field squeezed in width have this format, so that older firmware refuses them."""

SQUEEZED_SIZES = {(256, 240): 320}
"""Input size → width of the field that it shows. The field is as high as the input and squeezed in width, because 256
columns fill the KPU's lines and 320 leave three eighths of them empty (docs/kpu.md)."""

Constant = float | list[float]
IntConstant = int | list[int]


@dataclass(frozen=True)
class HeadQuantization:
    """real = (byte − zero_point) · scale; offsets in pixels of the input, heatmap as logits.

    scale, zero_point and mul_q16 = round(scale · 65536) are lists if each channel has its own.
    """

    name: str
    output: int
    channels: int
    scale: Constant
    zero_point: IntConstant
    mul_q16: IntConstant
    bytes: int

    def dequantize(self, head: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Real values of the head's bytes, both (C, H, W)."""
        return dequantize(head, self.scale, self.zero_point)


@dataclass(frozen=True)
class KmodelFacts:
    """The kmodel that belongs to this manifest; the board compares `bytes` and `crc32` before it loads it."""

    version: int
    bytes: int
    sha256: str
    crc32: int
    flash_address: int
    kpu_ram_bytes: int
    main_mem_bytes: int


@dataclass(frozen=True)
class Manifest:
    network: str
    source_id: str
    source_sha256: str
    width: int
    height: int
    output_stride: int
    keypoints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    heads: tuple[HeadQuantization, ...]
    sigmoid_q15: tuple[int, ...]
    kmodel: KmodelFacts
    mount: int = 0
    """Degrees clockwise by which the camera is turned, seen from behind it; heads are in the frame's coordinates."""
    field_width: int = 0
    """The width of the field that the input shows, in pixels as high as the input's; 0: as wide as the input."""
    appear_score_q15: int = 0
    """The board's tracker begins a person with poses of this score, in 1/32768, and follows it also with less."""

    @property
    def field(self) -> tuple[int, int]:
        """Width and height of the field that the input shows, in square pixels. Coordinates of poses refer to it."""
        return self.field_width or self.width, self.height

    @property
    def widening(self) -> float:
        """The number of the field's columns that one column of the input shows."""
        return self.field[0] / self.width

    @property
    def map_width(self) -> int:
        return map_size(self.width, self.output_stride)

    @property
    def map_height(self) -> int:
        return map_size(self.height, self.output_stride)

    def head(self, name: str) -> HeadQuantization:
        """The head of this name."""
        return self.heads[HEADS.index(name)]

    def dequantize(self, heads: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
        """Real values of all heads' bytes, by name."""
        return {head.name: head.dequantize(heads[head.name]) for head in self.heads}

    def to_dict(self) -> dict[str, Any]:
        """The manifest as the dictionary that posenet.json holds and firmware/decoder.py takes."""
        return {
            **field_facts(self.width, self.height, self.field[0]),
            "network": self.network,
            "source": {"id": self.source_id, "sha256": self.source_sha256},
            "input": {"width": self.width, "height": self.height},
            "mount": self.mount,
            "output_stride": self.output_stride,
            "map": {"width": self.map_width, "height": self.map_height},
            "keypoints": list(self.keypoints),
            "edges": [list(edge) for edge in self.edges],
            "heads": [asdict(head) for head in self.heads],
            "sigmoid_q15": list(self.sigmoid_q15),
            "appear_score_q15": self.appear_score_q15,
            "kmodel": asdict(self.kmodel),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":")) + "\n"


def map_size(size_px: int, output_stride: int) -> int:
    """Cells along one side of the output map."""
    return (size_px - 1) // output_stride + 1


def usual_field_width(width: int, height: int) -> int:
    """Width of the field that an input of this size shows."""
    return SQUEEZED_SIZES.get((width, height), width)


def field_facts(width: int, height: int, field_width: int) -> dict[str, Any]:
    """The entries of posenet.json for a field of this width and an input of this size: the format, and the field."""
    if field_width == width:
        return {"format": FORMAT}
    return {"format": FORMAT_WITH_FIELD, "field": {"width": field_width, "height": height}}


def sigmoid_table_q15(scale: float, zero_point: int) -> tuple[int, ...]:
    """Score of each heatmap byte: round(32768·sigmoid((byte − zero_point)·scale)), at most 32767."""
    scores = []
    for byte in range(256):
        logit = (byte - zero_point) * scale
        # Beyond ±40 the table is flat, and exp would overflow for absurd scales.
        sigmoid = 1 / (1 + math.exp(-max(-40.0, min(40.0, logit))))
        scores.append(min(32767, round(32768 * sigmoid)))
    return tuple(scores)


def dequantize(head: NDArray[np.uint8], scale: ArrayLike, zero_point: ArrayLike) -> NDArray[np.float64]:
    """(byte − zero_point) · scale of bytes (C, H, W); the constants are single numbers, or one number for each
    channel."""
    zero_points, scales = (np.reshape(np.asarray(value, np.float64), (-1, 1, 1)) for value in (zero_point, scale))
    return (head.astype(np.float64) - zero_points) * scales


def mul_q16(scale: Constant) -> IntConstant:
    """A scale as the decoder's integer: in units of 1/65536."""
    if isinstance(scale, list):
        return [round(s * 65536) for s in scale]
    return round(scale * 65536)


def load(path: Path) -> Manifest:
    """Read and validate posenet.json; UserError if it is missing, FormatError if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `python -m model_build build` makes it") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not text; is it a posenet.json?") from None
    return parse(text, str(path))


def parse(text: str, where: str = FILE_NAME) -> Manifest:
    """Manifest from JSON text; FormatError names the field that is wrong."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not JSON: {error}") from None
    return from_dict(data, where)


def from_dict(data: Any, where: str = FILE_NAME) -> Manifest:
    """Manifest from its dictionary; FormatError names the field that is wrong."""
    fields = _Fields(data, where)
    form = fields.integer("format", 1, 1 << 30)
    if form not in (FORMAT, FORMAT_WITH_FIELD):
        known = f"{FORMAT} and {FORMAT_WITH_FIELD}"
        raise FormatError(f"{where} has format {form}, this program knows {known}; build again")
    field = fields.child("field") if form == FORMAT_WITH_FIELD else None
    appear_q15 = fields.integer("appear_score_q15", 0, SCORE_ONE_Q15) if "appear_score_q15" in data else 0
    source, size, cells = fields.child("source"), fields.child("input"), fields.child("map")
    keypoints = tuple(fields.items("keypoints", str))
    heads = tuple(_head(_Fields(item, f"{where}: heads[{i}]")) for i, item in enumerate(fields.items("heads", dict)))
    manifest = Manifest(
        network=fields.text("network"),
        source_id=source.text("id"),
        source_sha256=source.text("sha256"),
        width=size.integer("width", 1, 4096),
        height=size.integer("height", 1, 4096),
        output_stride=fields.integer("output_stride", 1, 64),
        keypoints=keypoints,
        edges=_edges(fields.items("edges", list), len(keypoints), where),
        heads=heads,
        sigmoid_q15=tuple(fields.items("sigmoid_q15", int)),
        mount=fields.integer("mount", 0, 270),
        field_width=field.integer("width", 1, 4096) if field else 0,
        appear_score_q15=appear_q15,
        kmodel=_kmodel(fields.child("kmodel")),
    )
    validate(manifest, where)
    if field and (manifest.field_width <= manifest.width or field.integer("height", 1, 4096) != manifest.height):
        raise FormatError(f"{where}: field must be wider than the input, {manifest.width} px, and as high as it")
    if (cells.integer("width", 1, 4096), cells.integer("height", 1, 4096)) != (manifest.map_width, manifest.map_height):
        raise FormatError(f"{where}: map is not (input − 1) // {manifest.output_stride} + 1 of the input")
    return manifest


def validate(manifest: Manifest, where: str = FILE_NAME) -> None:
    """FormatError unless heads, table and map fit each other."""
    if tuple(head.name for head in manifest.heads) != HEADS:
        raise FormatError(f"{where}: the heads are {[head.name for head in manifest.heads]} instead of {list(HEADS)}")
    if manifest.mount not in MOUNTS:
        raise FormatError(f"{where}: mount is {manifest.mount}, it can be {', '.join(map(str, MOUNTS))}")
    channels = head_channels(len(manifest.keypoints), len(manifest.edges))
    cells = manifest.map_width * manifest.map_height
    for head in manifest.heads:
        if head.channels != channels[head.name] or head.bytes != head.channels * cells:
            raise FormatError(
                f"{where}: head {head.name} has {head.channels} channels in {head.bytes} bytes instead of "
                f"{channels[head.name]} channels of {cells} bytes"
            )
        constants = (head.scale, head.zero_point, head.mul_q16)
        if head.name == "heatmap" and any(isinstance(constant, list) for constant in constants):
            raise FormatError(f"{where}: head heatmap must be quantized with one scale for all channels")
        for constant in constants:
            if isinstance(constant, list) and len(constant) != head.channels:
                raise FormatError(
                    f"{where}: head {head.name} has {len(constant)} constants for {head.channels} channels"
                )
    if len(manifest.sigmoid_q15) != 256 or not all(0 <= score <= 32767 for score in manifest.sigmoid_q15):
        raise FormatError(f"{where}: sigmoid_q15 must be 256 integers of 0…32767")


def _edges(given: list[Any], keypoints: int, where: str) -> tuple[tuple[int, int], ...]:
    for edge in given:
        if len(edge) != 2 or not all(type(end) is int and 0 <= end < keypoints for end in edge):
            raise FormatError(f"{where}: edge {edge!r} is not a pair of keypoint indices below {keypoints}")
    return tuple((edge[0], edge[1]) for edge in given)


def _kmodel(fields: _Fields) -> KmodelFacts:
    return KmodelFacts(
        version=fields.integer("version", 3, 5),
        bytes=fields.integer("bytes", 0, 1 << 30),
        sha256=fields.text("sha256"),
        crc32=fields.integer("crc32", 0, (1 << 32) - 1),
        flash_address=fields.integer("flash_address", 0, FLASH_BYTES - 1),
        kpu_ram_bytes=fields.integer("kpu_ram_bytes", 0, RAM_BYTES),
        main_mem_bytes=fields.integer("main_mem_bytes", 0, 1 << 23),
    )


def _head(fields: _Fields) -> HeadQuantization:
    return HeadQuantization(
        name=fields.text("name"),
        output=fields.integer("output", 0, 3),
        channels=fields.integer("channels", 1, 1024),
        scale=fields.constant("scale", float),
        zero_point=fields.constant("zero_point", int),
        mul_q16=fields.constant("mul_q16", int),
        bytes=fields.integer("bytes", 1, 1 << 23),
    )


class _Fields:
    """Typed access to a JSON object; every wrong or missing value is a FormatError that names the field."""

    def __init__(self, data: Any, where: str):
        if not isinstance(data, dict):
            raise FormatError(f"{where} is not a JSON object")
        self._data = data
        self._where = where

    def _get(self, name: str) -> Any:
        if name not in self._data:
            raise FormatError(f"{self._where} lacks the field {name}")
        return self._data[name]

    def child(self, name: str) -> _Fields:
        return _Fields(self._get(name), f"{self._where}: {name}")

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise FormatError(f"{self._where}: {name} must be text, but is {value!r:.40}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._get(name)
        if type(value) is not int or not low <= value <= high:
            raise FormatError(f"{self._where}: {name} must be an integer from {low} to {high}, but is {value!r:.40}")
        return value

    def items(self, name: str, kind: type) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise FormatError(f"{self._where}: {name} must be a list of {kind.__name__}")
        return value

    def constant(self, name: str, kind: type) -> Any:
        value = self._get(name)
        for number in value if isinstance(value, list) else [value]:
            if type(number) not in (int, kind) or not math.isfinite(number) or abs(number) > 1 << 30:
                raise FormatError(
                    f"{self._where}: {name} must be {kind.__name__} or a list of it, but is {value!r:.40}"
                )
        return value
