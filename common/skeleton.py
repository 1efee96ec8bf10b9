"""The skeleton: names of the keypoints, and the edges between them along which poses are followed."""

from __future__ import annotations

from dataclasses import dataclass

KEYPOINTS: tuple[str, ...] = (
    "nose", "leftEye", "rightEye", "leftEar", "rightEar", "leftShoulder", "rightShoulder", "leftElbow",
    "rightElbow", "leftWrist", "rightWrist", "leftHip", "rightHip", "leftKnee", "rightKnee", "leftAnkle",
    "rightAnkle",
)  # fmt: skip
"""PoseNet's keypoints in the order of its heatmap channels."""

_POSE_CHAIN = (
    ("nose", "leftEye"), ("leftEye", "leftEar"), ("nose", "rightEye"), ("rightEye", "rightEar"),
    ("nose", "leftShoulder"), ("leftShoulder", "leftElbow"), ("leftElbow", "leftWrist"),
    ("leftShoulder", "leftHip"), ("leftHip", "leftKnee"), ("leftKnee", "leftAnkle"),
    ("nose", "rightShoulder"), ("rightShoulder", "rightElbow"), ("rightElbow", "rightWrist"),
    ("rightShoulder", "rightHip"), ("rightHip", "rightKnee"), ("rightKnee", "rightAnkle"),
)  # fmt: skip

EDGES: tuple[tuple[int, int], ...] = tuple((KEYPOINTS.index(a), KEYPOINTS.index(b)) for a, b in _POSE_CHAIN)
"""(parent, child) keypoint indices, in the order of the displacement channels (poseChain of tfjs PoseNet)."""


def mirrored_name(name: str) -> str:
    """leftEye for rightEye, and the other way round; others are their own."""
    for here, there in (("left", "right"), ("right", "left")):
        if name.startswith(here):
            return there + name[len(here) :]
    return name


MIRRORED = [KEYPOINTS.index(mirrored_name(name)) for name in KEYPOINTS]
"""In a mirrored picture, keypoint k is found where keypoint MIRRORED[k] was."""


@dataclass(frozen=True)
class Skeleton:
    """Names of the keypoints and (parent, child) edges between them; PoseNet's unless a network has others."""

    keypoints: tuple[str, ...] = KEYPOINTS
    edges: tuple[tuple[int, int], ...] = EDGES
