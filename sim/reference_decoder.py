"""Multi-pose decoding in floating point: what firmware/decoder.py is held against.

Written from the published method (PersonLab, arXiv 1803.08225, section 3.2; tfjs PoseNet's decodeMultiplePoses for
the parameters and the order of steps), on real-valued tensors, with none of the integer decoder's shortcuts.

`python -m sim.reference_decoder` compares the two on random scenes and prints how often and why they differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FloatPose:
    """score 0…1; keypoints float64 (K, 2) x, y in pixels of the network's input; scores float64 (K,) 0…1."""

    score: float
    keypoints: np.ndarray
    scores: np.ndarray


@dataclass
class Margins:
    """The nearest calls of a decoding: how far the closest decision was from falling otherwise.

    cells: distance of a rounded coordinate / stride from a half, in pixels; radius_px: distance of a distance from
    the suppression radius. A decoder that is off by e px may differ where a margin is below about 2·e.
    """

    cell_px: float = np.inf
    radius_px: float = np.inf
    same_byte_roots: bool = False
    details: list[str] = field(default_factory=list)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x), elementwise."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))


def local_maxima(scores: np.ndarray, threshold: float) -> list[tuple[float, int, int, int]]:
    """Candidates (score, keypoint, row, column), best first, ties by keypoint, row, column.

    scores: float (K, H, W). A candidate has at least the threshold and no greater score among its 8 neighbours.
    """
    keypoints, height, width = scores.shape
    padded = np.full((keypoints, height + 2, width + 2), -np.inf)
    padded[:, 1:-1, 1:-1] = scores
    around = np.max(
        [padded[:, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)],
        axis=0,
    )
    found = np.argwhere((scores >= threshold) & (scores >= around))
    return sorted(((float(scores[k, y, x]), int(k), int(y), int(x)) for k, y, x in found), key=lambda c: (-c[0], c[1:]))


class ReferenceDecoder:
    """PersonLab's fast greedy decoding on float tensors.

    output_stride in pixels; edges: (parent, child) in the order of the displacement channels. The options are those
    of firmware/decoder.py with scores 0…1 in place of q15.
    """

    def __init__(
        self,
        output_stride: int,
        edges: Sequence[Sequence[int]],
        score_threshold: float = 0.5,
        nms_radius_px: float = 20,
        max_poses: int = 5,
        refinement_steps: int = 2,
        min_pose_score: float = 0.15,
    ) -> None:
        self.output_stride = output_stride
        self.edges = [(int(a), int(b)) for a, b in edges]
        self.score_threshold = score_threshold
        self.nms_radius_px = nms_radius_px
        self.max_poses = max_poses
        self.refinement_steps = refinement_steps
        self.min_pose_score = min_pose_score
        self.margins = Margins()

    def single(self, heatmap: np.ndarray, short_offset: np.ndarray) -> list[FloatPose]:
        """Best cell per keypoint plus short offset. heatmap (K, H, W) logits, short_offset (2·K, H, W) pixels."""
        count, _, width = heatmap.shape
        best = heatmap.reshape(count, -1).argmax(axis=1)
        rows, columns = best // width, best % width
        k = np.arange(count)
        points = np.stack([columns, rows], axis=1) * float(self.output_stride)
        points[:, 0] += short_offset[count + k, rows, columns]
        points[:, 1] += short_offset[k, rows, columns]
        scores = sigmoid(heatmap[k, rows, columns])
        pose = FloatPose(float(scores.mean()), points, scores)
        return [pose] if pose.score >= self.min_pose_score else []

    def multi(
        self,
        heatmap: np.ndarray,
        short_offset: np.ndarray,
        displacement_fwd: np.ndarray,
        displacement_bwd: np.ndarray,
    ) -> list[FloatPose]:
        """Poses by falling score. Tensors are CHW: logits, and pixels of the input (y channels before x)."""
        self.margins = Margins()
        scores = sigmoid(heatmap)
        poses: list[FloatPose] = []
        for _, k, row, column in local_maxima(scores, self.score_threshold):
            if len(poses) == self.max_poses:
                break
            root = self._cell(row, column) + self._vector(short_offset, k, row, column)
            if self._claimed(poses, k, root):
                continue
            points, point_scores = self._follow(k, root, scores, short_offset, displacement_fwd, displacement_bwd)
            point_scores[k] = scores[k, row, column]
            free = [not self._claimed(poses, i, point) for i, point in enumerate(points)]
            poses.append(FloatPose(float((point_scores * free).sum() / len(points)), points, point_scores))
        return sorted((p for p in poses if p.score >= self.min_pose_score), key=lambda p: -p.score)

    def _cell(self, row: int, column: int) -> np.ndarray:
        return np.array([column, row], dtype=np.float64) * self.output_stride

    @staticmethod
    def _vector(field_: np.ndarray, index: int, row: int, column: int) -> np.ndarray:
        """(x, y) of the index-th vector of a field whose first half of channels is y."""
        half = len(field_) // 2
        return np.array([field_[half + index, row, column], field_[index, row, column]], dtype=np.float64)

    def _nearest(self, point: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
        """Row and column of the cell nearest to a point; halves go to the greater; clamped to the map."""
        limits = shape[2] - 1, shape[1] - 1
        nearest = []
        for value, limit in zip(point / self.output_stride, limits, strict=True):
            cell = int(np.floor(value + 0.5))
            if 0 <= cell <= limit or value > -0.6 and value < limit + 0.6:
                margin = abs(value - np.floor(value) - 0.5) * self.output_stride
                self.margins.cell_px = min(self.margins.cell_px, float(margin))
            nearest.append(min(max(cell, 0), limit))
        return nearest[1], nearest[0]

    def _claimed(self, poses: list[FloatPose], k: int, point: np.ndarray) -> bool:
        """Whether a pose found before has its keypoint k within the suppression radius."""
        for pose in poses:
            distance = float(np.hypot(*(pose.keypoints[k] - point)))
            self.margins.radius_px = min(self.margins.radius_px, abs(distance - self.nms_radius_px))
            if distance <= self.nms_radius_px:
                return True
        return False

    def _follow(
        self,
        root: int,
        position: np.ndarray,
        scores: np.ndarray,
        short_offset: np.ndarray,
        displacement_fwd: np.ndarray,
        displacement_bwd: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """All keypoints of the person whose root is given: up the tree along backward displacements, then down."""
        placed: dict[int, np.ndarray] = {root: position}
        point_scores = np.zeros(len(scores))
        upwards = [(e, child, parent, displacement_bwd) for e, (parent, child) in enumerate(self.edges)][::-1]
        downwards = [(e, parent, child, displacement_fwd) for e, (parent, child) in enumerate(self.edges)]
        for e, source, target, displacement in upwards + downwards:
            if source not in placed or target in placed:
                continue
            point = placed[source] + self._vector(displacement, e, *self._nearest(placed[source], scores.shape))
            for _ in range(self.refinement_steps):
                row, column = self._nearest(point, scores.shape)
                point = self._cell(row, column) + self._vector(short_offset, target, row, column)
            placed[target] = point
            row, column = self._nearest(point, scores.shape)
            point_scores[target] = scores[target, row, column]
        return np.stack([placed[k] for k in range(len(scores))]), point_scores
