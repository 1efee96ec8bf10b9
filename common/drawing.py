"""Skeletons on pictures: a colour per person, faint where the network is unsure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from common.arrays import Picture
from common.decoder_options import DEFAULTS
from common.firmware_modules import firmware_module

COLOURS = tuple(bright for bright, _, _ in firmware_module("drawing").COLORS)
"""These are the RGB colours of the first, second, … person, as the board draws them."""


SURE_PERCENT = round(100 * DEFAULTS.score_threshold)
FAINT_PERCENT = SURE_PERCENT // 2
"""Pose lines are drawn by these scores: a sure limb whole, a faint one thin."""


def draw_poses(
    picture: Picture,
    result: Mapping[str, Any],
    edges: Sequence[Sequence[int]],
    threshold: float = DEFAULTS.score_threshold,
) -> Picture:
    """A copy of uint8 (h, w, 3) RGB with the poses of its results entry drawn on it.

    A limb is drawn whole if its weaker end reaches the threshold, thin and dim if it reaches half of it, and otherwise
    left out.
    """
    image = np.ascontiguousarray(picture).copy()
    width = max(2, round(max(image.shape[:2]) / 200))
    for number, pose in enumerate(result["poses"]):
        colour = COLOURS[number % len(COLOURS)]
        dim = tuple(part * 2 // 5 for part in colour)
        points = pose["keypoints"]
        for parent, child in edges:
            score = min(points[parent]["score"], points[child]["score"])
            if score >= threshold / 2:
                start, end = _pixel(points[parent]), _pixel(points[child])
                sure = score >= threshold
                thickness = width if sure else max(1, width // 2)
                cv2.line(image, start, end, colour if sure else dim, thickness, cv2.LINE_AA)
        for point in points:
            if point["score"] >= threshold:
                cv2.circle(image, _pixel(point), width + 1, (255, 255, 255), -1, cv2.LINE_AA)
                cv2.circle(image, _pixel(point), width, colour, -1, cv2.LINE_AA)
    return image


def _pixel(point: Mapping[str, Any]) -> tuple[int, int]:
    """Round a point, and keep it near enough to the picture for OpenCV's fixed-point numbers."""
    return tuple(int(np.clip(round(point[axis]), -8000, 8000)) for axis in ("x", "y"))  # type: ignore[return-value]
