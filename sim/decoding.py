"""From an engine's tensors to poses: the board's own decoder on bytes, the float reference on real values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from common.firmware_modules import firmware_module
from model_build.manifest import Manifest
from model_build.network import HEADS
from sim.reference_decoder import ReferenceDecoder


@dataclass(frozen=True)
class Pose:
    """One person. score 0…1; keypoints float64 (K, 2), x and y in pixels of the input; scores float64 (K,) 0…1."""

    score: float
    keypoints: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Options:
    """How poses are decoded; the names and defaults of the field (tfjs PoseNet)."""

    single: bool = False
    max_poses: int = 5
    score_threshold: float = 0.5
    nms_radius_px: int = 20
    refinement_steps: int = 2


Decode = Callable[[Mapping[str, np.ndarray]], list[Pose]]


def make_decoder(manifest: Manifest, options: Options, float_heads: bool = False) -> Decode:
    """A function from heads (name → CHW array) to poses, best first.

    Uint8 heads go through firmware/decoder.py, as on the board; float heads (engine tflite, real values, heatmap as
    logits) through the floating-point reference.
    """
    return _float_decoder(manifest, options) if float_heads else _integer_decoder(manifest, options)


def _integer_decoder(manifest: Manifest, options: Options) -> Decode:
    decoder = firmware_module("decoder").Decoder(
        manifest.to_dict(),
        score_threshold_q15=round(options.score_threshold * 32768),
        nms_radius_px=options.nms_radius_px,
        max_poses=options.max_poses,
        refinement_steps=options.refinement_steps,
    )
    run = decoder.single if options.single else decoder.multi

    def decode(heads: Mapping[str, np.ndarray]) -> list[Pose]:
        buffers = [np.ascontiguousarray(heads[name], dtype=np.uint8).reshape(-1).data for name in HEADS]
        return [pose_from_integers(raw) for raw in run(buffers)]

    return decode


def pose_from_integers(raw: object) -> Pose:
    """The decoder's [score_q15, x0_q8, y0_q8, score0_q15, …] as a Pose."""
    values = np.array(raw, dtype=np.float64)
    points = values[1:].reshape(-1, 3)
    return Pose(values[0] / 32768, points[:, :2] / 256, points[:, 2] / 32768)


def _float_decoder(manifest: Manifest, options: Options) -> Decode:
    reference = ReferenceDecoder(
        manifest.output_stride,
        manifest.edges,
        score_threshold=options.score_threshold,
        nms_radius_px=options.nms_radius_px,
        max_poses=options.max_poses,
        refinement_steps=options.refinement_steps,
    )

    def decode(heads: Mapping[str, np.ndarray]) -> list[Pose]:
        tensors = [np.asarray(heads[name], dtype=np.float64) for name in HEADS]
        found = reference.single(*tensors[:2]) if options.single else reference.multi(*tensors)
        return [Pose(pose.score, pose.keypoints, pose.scores) for pose in found]

    return decode
