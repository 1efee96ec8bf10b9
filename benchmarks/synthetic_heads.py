"""Scenes of people for decoders: the four heads as a network would give them, quantized, but made without a network.

A person is 17 keypoints on a jointed figure; every keypoint makes a hill in its heatmap, and offsets and displacements
around it that point where they should, plus noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.arrays import Bytes, Floats
from common.skeleton import EDGES, KEYPOINTS
from model_build import manifest as manifest_file
from model_build.manifest import field_facts, map_size, mul_q16, sigmoid_table_q15
from model_build.network import HEADS

# An upright figure, x and y in units of its height, hip at the origin.
_FIGURE = np.array([
    (0.00, -0.42), (0.02, -0.44), (-0.02, -0.44), (0.05, -0.43), (-0.05, -0.43), (0.10, -0.30), (-0.10, -0.30),
    (0.14, -0.15), (-0.14, -0.15), (0.16, 0.00), (-0.16, 0.00), (0.07, 0.00), (-0.07, 0.00), (0.08, 0.24),
    (-0.08, 0.24), (0.08, 0.47), (-0.08, 0.47),
])  # fmt: skip


@dataclass(frozen=True)
class HeadScale:
    """real = (byte − zero_point) · scale per head; a field may hold one number, or one per channel in a list."""

    scale: Any
    zero_point: Any


BUILD_QUANTIZATION = (
    HeadScale(12 / 255, 85),
    HeadScale(36 / 127, 128),
    HeadScale([1.0] * 2 * len(EDGES), [128] * 2 * len(EDGES)),
    HeadScale([1.0] * 2 * len(EDGES), [128] * 2 * len(EDGES)),
)
"""What model_build gives: logits -4 to 8, offsets to 36 px; displacements have a scale per channel, 0.5 to 1.3 px."""

CORAL_QUANTIZATION = (
    HeadScale(0.0784, 160),
    HeadScale(0.392, 128),
    HeadScale(1.3876, 117),
    HeadScale(1.3876, 117),
)
"""Constants that are close to those of Coral's quantized PoseNet."""


def decoder_manifest(
    width: int,
    height: int,
    output_stride: int = 16,
    quantization: tuple[HeadScale, ...] = CORAL_QUANTIZATION,
    field_width: int = 0,
) -> dict[str, Any]:
    """The part of posenet.json that a decoder reads, for an input of width × height pixels.

    `field_width` means the same as in Manifest.
    """
    channels = (len(KEYPOINTS), 2 * len(KEYPOINTS), 2 * len(EDGES), 2 * len(EDGES))
    return {
        **field_facts(width, height, field_width or width),
        "input": {"width": width, "height": height},
        "output_stride": output_stride,
        "map": {"width": map_size(width, output_stride), "height": map_size(height, output_stride)},
        "keypoints": list(KEYPOINTS),
        "edges": [list(edge) for edge in EDGES],
        "heads": [
            {"name": name, "channels": n, "scale": q.scale, "zero_point": q.zero_point, "mul_q16": mul_q16(q.scale)}
            for name, n, q in zip(HEADS, channels, quantization, strict=True)
        ],
        "sigmoid_q15": list(sigmoid_table_q15(quantization[0].scale, quantization[0].zero_point)),
    }


def dequantize(manifest: dict[str, Any], heads: list[Bytes]) -> list[Floats]:
    """The real values, float64 CHW, of heads in bytes, uint8 CHW."""
    constants = zip(manifest["heads"], heads, strict=True)
    return [manifest_file.dequantize(array, head["scale"], head["zero_point"]) for head, array in constants]


def quantize(manifest: dict[str, Any], real: list[Floats]) -> list[Bytes]:
    """The heads as bytes, uint8 CHW; values beyond the range saturate."""
    heads = []
    for head, array in zip(manifest["heads"], real, strict=True):
        scale = np.broadcast_to(np.asarray(head["scale"], dtype=np.float64), head["channels"])[:, None, None]
        zero = np.broadcast_to(np.asarray(head["zero_point"]), head["channels"])[:, None, None]
        heads.append(np.clip(np.rint(array / scale) + zero, 0, 255).astype(np.uint8))
    return heads


def random_person(rng: np.random.Generator, width: int, height: int, size_px: tuple[float, float]) -> Floats:
    """Random keypoints, float64 (17, 2), x and y in pixels, which may lie outside the frame."""
    figure = _FIGURE * rng.uniform(*size_px)
    if rng.random() < 0.5:
        figure = figure * (-1, 1)
    angle = rng.normal(0, 0.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = rng.uniform((0.1 * width, 0.3 * height), (0.9 * width, 0.8 * height))
    person: Floats = figure @ turn.T + centre + rng.normal(0, 3, figure.shape)
    return person


def scene(
    rng: np.random.Generator,
    manifest: dict[str, Any],
    people: int,
    noise: float = 1.0,
    size_px: tuple[float, float] | None = None,
    apart_px: float = 40,
) -> list[Bytes]:
    """The four heads, uint8 CHW, of a scene of random people.

    People whose hips are nearer than `apart_px` are drawn again (a few times). A `noise` of 1 is about what a real
    network shows: logits ±0.4, offsets ±0.7 px, displacements ±2 px.
    """
    width, height = manifest["input"]["width"], manifest["input"]["height"]
    size_px = size_px or (0.5 * height, 1.1 * height)
    placed: list[Floats] = []
    for _ in range(people):
        for _ in range(20):
            person = random_person(rng, width, height, size_px)
            if all(np.hypot(*(person - other).mean(axis=0)) > apart_px for other in placed):
                break
        placed.append(person)
    return place(rng, manifest, placed, noise)


def place(rng: np.random.Generator, manifest: dict[str, Any], people: list[Floats], noise: float = 1.0) -> list[Bytes]:
    """The four heads, uint8 CHW, of people given by their keypoints."""
    stride = manifest["output_stride"]
    columns, rows = manifest["map"]["width"], manifest["map"]["height"]
    keypoints, edges = len(manifest["keypoints"]), manifest["edges"]
    x = np.arange(columns)[None, :] * float(stride) * np.ones((rows, 1))
    y = np.arange(rows)[:, None] * float(stride) * np.ones((1, columns))
    heat = rng.normal(-7, 0.4 * noise, (keypoints, rows, columns))
    offset = rng.normal(0, 0.7 * noise, (2 * keypoints, rows, columns))
    forward = rng.normal(0, 2 * noise, (2 * len(edges), rows, columns))
    backward = rng.normal(0, 2 * noise, (2 * len(edges), rows, columns))
    if people:
        points = np.stack(people)
        for k in range(keypoints):
            away = np.hypot(points[:, k, 0, None, None] - x, points[:, k, 1, None, None] - y)
            owner = away.argmin(axis=0)
            nearest = away.min(axis=0)
            peak = rng.normal(3.0, 1.2, len(people))
            heat[k] += np.max(
                [np.maximum(0, 7 + p) * np.exp(-((a / 55) ** 2)) for p, a in zip(peak, away, strict=True)], axis=0
            )
            near = nearest < 48
            offset[k] += np.where(near, points[owner, k, 1] - y, 0)
            offset[keypoints + k] += np.where(near, points[owner, k, 0] - x, 0)
            for e, (parent, child) in enumerate(edges):
                for vectors, source, target in ((forward, parent, child), (backward, child, parent)):
                    if source == k:
                        vector = points[:, target] - points[:, source]
                        vectors[e] += np.where(near, vector[owner, 1], 0)
                        vectors[len(edges) + e] += np.where(near, vector[owner, 0], 0)
    return quantize(manifest, [heat, offset, forward, backward])
