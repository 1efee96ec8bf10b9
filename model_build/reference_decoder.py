"""Multi-pose decoding in floating point, with which firmware/decoder.py is compared.

Written from the published method (PersonLab, arXiv 1803.08225, section 3.2; tfjs PoseNet's decodeMultiplePoses for
the parameters and the order of steps; vectors between cells by bilinear interpolation, as libcoral does), on
real-valued tensors, without the integer decoder's shortcuts.

`python -m benchmarks.decoder_agreement` compares the two on random scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.arrays import Floats
from common.decoder_options import DEFAULTS
from common.pose import Pose


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e^−x), elementwise."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))


def pose_score(scores: Floats) -> float:
    """Mean of the best five keypoint scores, float (K,), or of all where there are fewer keypoints."""
    return float(np.sort(scores)[-5:].mean())


def local_maxima(scores: Floats, threshold: float) -> list[tuple[float, int, int, int]]:
    """Candidates (score, keypoint, row, column), best first, ties by keypoint, row, column.

    scores: float (K, H, W). A candidate has at least the threshold and no greater score among its 8 neighbours.
    """
    keypoints, height, width = scores.shape
    padded = np.full((keypoints, height + 2, width + 2), -np.inf)
    padded[:, 1:-1, 1:-1] = scores
    around = np.max([padded[:, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)], axis=0)
    found = np.argwhere((scores >= threshold) & (scores >= around))
    return sorted(((float(scores[k, y, x]), int(k), int(y), int(x)) for k, y, x in found), key=lambda c: (-c[0], c[1:]))


class ReferenceDecoder:
    """PersonLab's fast greedy decoding on float tensors.

    output_stride in pixels of the input; edges: (parent, child) in the order of the displacement channels. The options
    are those of firmware/decoder.py with scores 0…1 in place of q15. vector_step_px: vectors are rounded to multiples
    of this, halves up, where they are read; 0 leaves them unrounded. nearest: vectors are those of the nearest cell,
    as in tfjs, instead of interpolated; for comparison. widening: pixels of the field for each of the input's in width
    (Manifest.widening); poses are in pixels of the field.
    """

    def __init__(
        self,
        output_stride: int,
        edges: Sequence[Sequence[int]],
        score_threshold: float = DEFAULTS.score_threshold,
        nms_radius_px: float = DEFAULTS.nms_radius_px,
        max_poses: int = DEFAULTS.max_poses,
        refinement_steps: int = DEFAULTS.refinement_steps,
        min_pose_score: float = DEFAULTS.min_pose_score,
        min_keypoints: int = DEFAULTS.min_keypoints,
        vector_step_px: float = 0.0,
        nearest: bool = False,
        widening: float = 1.0,
    ) -> None:
        self.widening = np.array([widening, 1.0])
        self.cell_px = output_stride * self.widening
        self.edges = [(int(a), int(b)) for a, b in edges]
        self.score_threshold = score_threshold
        self.nms_radius_px = nms_radius_px
        self.max_poses = max_poses
        self.refinement_steps = refinement_steps
        self.min_pose_score = min_pose_score
        self.min_keypoints = min_keypoints
        self.vector_step_px = vector_step_px
        self.nearest = nearest

    def single(self, heatmap: Floats, short_offset: Floats) -> list[Pose]:
        """Best cell per keypoint plus short offset. heatmap (K, H, W) logits, short_offset (2·K, H, W) pixels."""
        count, _, width = heatmap.shape
        best = heatmap.reshape(count, -1).argmax(axis=1)
        rows, columns = best // width, best % width
        k = np.arange(count)
        points = np.stack([columns, rows], axis=1) * self.cell_px
        points[:, 0] += short_offset[count + k, rows, columns] * self.widening[0]
        points[:, 1] += short_offset[k, rows, columns]
        scores = sigmoid(heatmap[k, rows, columns])
        pose = Pose(pose_score(scores), points, scores)
        return [pose] if self._counts(pose) else []

    def _counts(self, pose: Pose) -> bool:
        """Whether the pose's score, and enough of its keypoints' scores, are high enough to return it."""
        sure = int((pose.scores >= self.score_threshold).sum())
        return pose.score >= self.min_pose_score and sure >= min(self.min_keypoints, len(pose.scores))

    def multi(
        self, heatmap: Floats, short_offset: Floats, displacement_fwd: Floats, displacement_bwd: Floats
    ) -> list[Pose]:
        """Poses by falling score. Tensors are CHW: logits, and pixels of the input (y channels before x)."""
        scores = sigmoid(heatmap)
        poses: list[Pose] = []
        for _, k, row, column in local_maxima(scores, self.score_threshold):
            if len(poses) == self.max_poses:
                break
            root = self._cell(row, column) + self._vector(short_offset, k, row, column)
            if self._claimed(poses, k, root):
                continue
            points, point_scores = self._follow(k, root, scores, short_offset, displacement_fwd, displacement_bwd)
            point_scores[k] = scores[k, row, column]
            free = [not self._claimed(poses, i, point) for i, point in enumerate(points)]
            poses.append(Pose(pose_score(point_scores * free), points, point_scores))
        return sorted((p for p in poses if self._counts(p)), key=lambda p: -p.score)

    def _cell(self, row: int, column: int) -> Floats:
        return np.array([column, row], dtype=np.float64) * self.cell_px

    def _vector(self, vectors: Floats, index: int, row: int, column: int) -> Floats:
        """(x, y) of the index-th vector of a field, at a cell."""
        return self._rounded(self._pair(vectors, index)[:, row, column])

    def _vector_at(self, vectors: Floats, index: int, point: Floats) -> Floats:
        """(x, y) of the index-th vector of a field at a point, interpolated from the four cells around it."""
        if self.nearest:
            return self._vector(vectors, index, *self._nearest(point, vectors.shape))
        field = self._pair(vectors, index)
        (x, y), (columns, rows) = self._inside(point, field.shape) / self.cell_px, field.shape[:0:-1]
        column, row = int(x), int(y)
        beside, below = min(column + 1, columns - 1), min(row + 1, rows - 1)
        x, y = x - column, y - row
        above = field[:, row, column] * (1 - x) + field[:, row, beside] * x
        under = field[:, below, column] * (1 - x) + field[:, below, beside] * x
        return self._rounded(above * (1 - y) + under * y)

    def _pair(self, vectors: Floats, index: int) -> Floats:
        """The index-th vector's components as (2, H, W), x and y; y is in the first half of the field's channels."""
        half = len(vectors) // 2
        pair: Floats = vectors[[half + index, index]].astype(np.float64) * self.widening[:, None, None]
        return pair

    def _rounded(self, vector: Floats) -> Floats:
        step = self.vector_step_px
        return np.floor(vector / step + 0.5) * step if step else vector

    def _inside(self, point: Floats, shape: tuple[int, ...]) -> Floats:
        """Where a correction starts: at the point, or at the nearest point between the map's outermost cells."""
        if self.nearest:
            return self._cell(*self._nearest(point, shape))
        return np.clip(point, 0, (np.array(shape[:0:-1]) - 1) * self.cell_px)

    def _nearest(self, point: Floats, shape: tuple[int, ...]) -> tuple[int, int]:
        """Row and column of the cell nearest to a point; halves go to the greater; clamped to the map."""
        limits = shape[2] - 1, shape[1] - 1
        nearest = []
        for value, limit in zip(point / self.cell_px, limits, strict=True):
            nearest.append(min(max(int(np.floor(value + 0.5)), 0), limit))
        return nearest[1], nearest[0]

    def _claimed(self, poses: list[Pose], k: int, point: Floats) -> bool:
        """Whether a pose found before has its keypoint k within the suppression radius."""
        return any(((pose.keypoints[k] - point) ** 2).sum() <= self.nms_radius_px**2 for pose in poses)

    def _follow(
        self,
        root: int,
        position: Floats,
        scores: Floats,
        short_offset: Floats,
        displacement_fwd: Floats,
        displacement_bwd: Floats,
    ) -> tuple[Floats, Floats]:
        """All keypoints of the person whose root is given: up the tree along backward displacements, then down."""
        placed: dict[int, Floats] = {root: position}
        point_scores = np.zeros(len(scores))
        upwards = [(e, child, parent, displacement_bwd) for e, (parent, child) in enumerate(self.edges)][::-1]
        downwards = [(e, parent, child, displacement_fwd) for e, (parent, child) in enumerate(self.edges)]
        for e, source, target, displacement in upwards + downwards:
            if source not in placed or target in placed:
                continue
            point = placed[source] + self._vector_at(displacement, e, placed[source])
            for _ in range(self.refinement_steps):
                point = self._inside(point, scores.shape) + self._vector_at(short_offset, target, point)
            placed[target] = point
            row, column = self._nearest(point, scores.shape)
            point_scores[target] = scores[target, row, column]
        return np.stack([placed[k] for k in range(len(scores))]), point_scores
