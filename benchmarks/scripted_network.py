"""A network that sees what a script says, for testing what comes after it: poses go in, the four head tensors come
out.

The camera writes the frame's number into the picture's first pixel. The runner that stands where the KPU engine does
reads it there and returns that frame's tensors. Everything else (firmware, decoder, LCD) is the real thing.
"""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic_heads import HeadScale, decoder_manifest
from common.arrays import Bytes, Floats
from common.firmware_modules import FIRMWARE_DIR
from common.flash_map import KMODEL_ADDRESS
from common.skeleton import EDGES, KEYPOINTS
from model_build.manifest import usual_field_width
from sim.boards.devices import Devices, Lcd
from sim.parts.camera_source import FunctionCamera

STRIDE = 16
OFFSET_SCALE, DISPLACEMENT_SCALE, HEAT_SCALE = 0.25, 1.0, 0.05
ZERO = 128

# A person standing, arms down: keypoints in units of the height, from the middle of the hips.
STANDING = np.array([
    (0.0, -0.42), (0.02, -0.44), (-0.02, -0.44), (0.045, -0.43), (-0.045, -0.43), (0.11, -0.3), (-0.11, -0.3),
    (0.14, -0.16), (-0.14, -0.16), (0.15, -0.03), (-0.15, -0.03), (0.07, 0.0), (-0.07, 0.0), (0.08, 0.24),
    (-0.08, 0.24), (0.08, 0.48), (-0.08, 0.48),
])  # fmt: skip


def person(x: float, y: float, height: float = 160, **moved: tuple[float, float]) -> Floats:
    """Keypoints (17, 2) in pixels; `left_wrist=(dx, dy)` moves a joint, in units of the person's height."""
    points = STANDING * height + (x, y)
    for name, (dx, dy) in moved.items():
        camel = "".join(part.title() if i else part for i, part in enumerate(name.split("_")))
        points[KEYPOINTS.index(camel)] += np.array((dx, dy)) * height
    return points


def manifest(width: int, height: int, kmodel: bytes = b"") -> dict[str, Any]:
    """The posenet.json that belongs to these tensors."""
    scales = (HEAT_SCALE, OFFSET_SCALE, DISPLACEMENT_SCALE, DISPLACEMENT_SCALE)
    constants = tuple(HeadScale(scale, ZERO) for scale in scales)
    facts = decoder_manifest(width, height, STRIDE, constants, usual_field_width(width, height))
    cells = facts["map"]["width"] * facts["map"]["height"]
    for output, head in enumerate(facts["heads"]):
        head |= {"output": output, "bytes": head["channels"] * cells}
    return facts | {
        "network": "scripted", "source": {"id": "scripted", "sha256": "0" * 64}, "mount": 0,
        "kmodel": {
            "version": 3, "bytes": len(kmodel), "sha256": "0" * 64, "crc32": binascii.crc32(kmodel),
            "flash_address": KMODEL_ADDRESS, "kpu_ram_bytes": 0,
            "main_mem_bytes": sum(head["bytes"] for head in facts["heads"]),
        },
    }  # fmt: skip


def heads(people: Sequence[Floats], width: int, height: int) -> list[Bytes]:
    """The four tensors, uint8 CHW, whose decoding gives these people (keypoints outside the map are absent)."""
    map_w, map_h = (width - 1) // STRIDE + 1, (height - 1) // STRIDE + 1
    heat = np.full((17, map_h, map_w), ZERO - 100, dtype=np.uint8)
    offset = np.full((34, map_h, map_w), ZERO, dtype=np.uint8)
    forward = np.full((32, map_h, map_w), ZERO, dtype=np.uint8)
    backward = forward.copy()
    ys, xs = np.mgrid[0:map_h, 0:map_w]

    def byte(value: Floats, scale: float) -> Bytes:
        return np.asarray(np.clip(np.rint(value / scale) + ZERO, 0, 255), np.uint8)

    for points in people:
        for k, (x, y) in enumerate(points):
            distance = np.hypot(xs * STRIDE - x, ys * STRIDE - y)
            heat[k] = np.maximum(heat[k], np.where(distance < 32, 208 - 2 * np.minimum(distance, 60), 0))
            near = distance < 40
            offset[k][near] = byte(y - ys * STRIDE, OFFSET_SCALE)[near]
            offset[17 + k][near] = byte(x - xs * STRIDE, OFFSET_SCALE)[near]
        for e, (parent, child) in enumerate(EDGES):
            for tensor, source, target in ((forward, parent, child), (backward, child, parent)):
                near = np.hypot(xs * STRIDE - points[source][0], ys * STRIDE - points[source][1]) < 40
                tensor[e][near] = byte(points[target][1] - ys * STRIDE, DISPLACEMENT_SCALE)[near]
                tensor[16 + e][near] = byte(points[target][0] - xs * STRIDE, DISPLACEMENT_SCALE)[near]
    return [heat, offset, forward, backward]


def kmodel(width: int, height: int) -> bytes:
    """A V3 header with the four outputs and one KPU layer's registers that name the input size."""
    cells = ((width - 1) // STRIDE + 1) * ((height - 1) // STRIDE + 1)
    outputs, at = b"", 0
    for channels in (17, 34, 32, 32):
        outputs += struct.pack("<II", at, channels * cells)
        at += (channels * cells + 7) // 8 * 8
    body = struct.pack("<6I", 1, 0, 28 + 32 + 8 + 24, 0, 0, 0)
    body += struct.pack("<12Q", 0, 0, 2, (width - 1) | (height - 1) << 10, *[0] * 8)
    return struct.pack("<7I", 3, 1, 0, 1, 0, at, 4) + outputs + struct.pack("<II", 10240, len(body)) + body


class ScriptedNetwork:
    """A runner that takes the KPU engine's place."""

    def __init__(self, script: Callable[[int], Sequence[Floats]], width: int, height: int):
        self.script, self.width, self.height = script, width, height

    def run(self, planes: Bytes) -> list[Bytes]:
        frame = int(planes[0, 0, 0]) | int(planes[1, 0, 0]) << 8 | int(planes[2, 0, 0]) << 16
        return heads(self.script(frame), self.width, self.height)


def picture(frame: int, width: int, height: int) -> Bytes:
    """A grey picture with the frame's number in its first pixel."""
    image = np.full((height, width, 3), 60, dtype=np.uint8)
    image[0, 0] = frame & 255, frame >> 8 & 255, frame >> 16
    return image


def devices(
    script: Callable[[int], Sequence[Floats]], width: int = 320, height: int = 240, lcd: Lcd | None = None
) -> Devices:
    """A board whose camera and network follow `script`, which gives the people of each frame by its number."""
    board = Devices(camera=FunctionCamera(picture), lcd=lcd or Lcd())
    board.load_model = lambda data: ScriptedNetwork(script, width, height)
    data = kmodel(width, height)
    board.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + len(data)] = data
    return board


def flash_dir(folder: Path, width: int = 320, height: int = 240, main: str | None = None, **settings: object) -> Path:
    """A /flash with the firmware, posenet.json for the scripted network, settings, and perhaps another main.py."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in FIRMWARE_DIR.glob("*.py"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "posenet.json").write_text(json.dumps(manifest(width, height, kmodel(width, height))), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps({"start_delay_ms": 0, **settings}), encoding="utf-8")
    if main is not None:
        (folder / "main.py").write_text(main, encoding="utf-8")
    return folder
