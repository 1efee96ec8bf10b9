"""Poses of pictures as JSON: pixels of the source picture, scores 0…1, poses by falling score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from common.pictures import Letterbox
from sim.decoding import Pose


def result(
    name: str, size: tuple[int, int], poses: Sequence[Pose], box: Letterbox, keypoints: Sequence[str], **more: Any
) -> dict[str, Any]:
    """One picture's entry. size: width and height of the source in pixels; `more` is put beside "image"."""
    entries = []
    for pose in sorted(poses, key=lambda pose: -pose.score):
        points = []
        for keypoint, (x, y), score in zip(keypoints, pose.keypoints, pose.scores, strict=True):
            source_x, source_y = box.to_source(float(x), float(y))
            points.append(
                {"name": keypoint, "x": round(source_x, 2), "y": round(source_y, 2), "score": round(float(score), 4)}
            )
        entries.append({"score": round(float(pose.score), 4), "keypoints": points})
    return {"image": name, **more, "size": list(size), "poses": entries}


def to_json(results: Sequence[dict[str, Any]]) -> str:
    """One picture: its object. Several pictures, or a video: the list of theirs, one a line."""
    if len(results) == 1 and "frame" not in results[0]:
        return json.dumps(results[0]) + "\n"
    return "[\n" + ",\n".join(json.dumps(entry) for entry in results) + "\n]\n"
