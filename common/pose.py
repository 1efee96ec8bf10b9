"""A person's pose in its three forms: the decoder's integers, values on the host, the JSON of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from common.pictures import Letterbox

SCORE_ONE_Q15 = 32768
"""A score of 1 is this number in the decoder's integers."""
PIXEL_Q8 = 256
"""One pixel is this number in the decoder's integers."""


@dataclass(frozen=True)
class Pose:
    """One person. score 0…1; keypoints float64 (K, 2), x and y in pixels of the field; scores float64 (K,) 0…1."""

    score: float
    keypoints: Floats
    scores: Floats

    @classmethod
    def from_integers(cls, values: Iterable[int]) -> Pose:
        """From firmware/decoder.py's [score_q15, x0_q8, y0_q8, score0_q15, x1_q8, …]."""
        numbers = np.array(list(values), dtype=np.float64)
        points = numbers[1:].reshape(-1, 3)
        return cls(numbers[0] / SCORE_ONE_Q15, points[:, :2] / PIXEL_Q8, points[:, 2] / SCORE_ONE_Q15)

    def to_integers(self) -> NDArray[np.int32]:
        """The decoder's form, rounded: int32 (1 + 3·K,)."""
        points = np.column_stack((self.keypoints * PIXEL_Q8, self.scores * SCORE_ONE_Q15))
        return np.asarray(np.round([self.score * SCORE_ONE_Q15, *points.reshape(-1)]), np.int32)

    def scaled(self, factor: float) -> Pose:
        """The pose in a picture that is `factor` times as large."""
        return Pose(self.score, self.keypoints * factor, self.scores)

    def in_source(self, box: Letterbox) -> Pose:
        """This pose, which is in pixels of the field, in pixels of the source picture."""
        points = [box.to_source(float(x), float(y)) for x, y in self.keypoints]
        return Pose(self.score, np.array(points, np.float64).reshape(-1, 2), self.scores)


def integer_rows(poses: Sequence[Pose], keypoints: int) -> NDArray[np.int32]:
    """Poses in the decoder's form: int32 (n, 1 + 3·keypoints)."""
    return np.array([pose.to_integers() for pose in poses], dtype=np.int32).reshape(-1, 1 + 3 * keypoints)


def result(
    name: str, size: tuple[int, int], poses: Sequence[Pose], box: Letterbox, keypoints: Sequence[str], **more: Any
) -> dict[str, Any]:
    """One picture's entry. size: width and height of the source in pixels; `more` is added beside "image"."""
    entries = []
    for pose in sorted(poses, key=lambda pose: -pose.score):
        points = []
        in_source = pose.in_source(box)
        for keypoint, (x, y), score in zip(keypoints, in_source.keypoints, pose.scores, strict=True):
            points.append({"name": keypoint, "x": round(x, 2), "y": round(y, 2), "score": round(float(score), 4)})
        entries.append({"score": round(float(pose.score), 4), "keypoints": points})
    return {"image": name, **more, "size": list(size), "poses": entries}


def to_json(results: Sequence[dict[str, Any]]) -> str:
    """The JSON of results: one object for one picture, otherwise a list with one object per line."""
    if len(results) == 1 and "frame" not in results[0]:
        return json.dumps(results[0]) + "\n"
    return "[\n" + ",\n".join(json.dumps(entry) for entry in results) + "\n]\n"
