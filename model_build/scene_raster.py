"""Drawing a rendered scene: figures as filled polygons, farthest first, and the things of a room.

Every shape carries a label, so that the same shapes drawn as labels tell which keypoints are covered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.arrays import Bytes, Flags, Floats
from model_build.scene_figure import Body, Colour, Figure, mix
from model_build.scene_skeleton import Vector, add, in_axes, skeleton

SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS

# What a pixel of the label picture shows: 16 × (figure + 1) + part; OCCLUDER is anything in front.
OCCLUDER = 1
TRUNK, NECK, HEAD, UPPER_ARM, FOREARM, THIGH, SHIN = 1, 2, 3, (4, 5), (6, 7), (8, 9), (10, 11)
SHOWS: tuple[tuple[int, ...], ...] = (
    *((HEAD,),) * 5,
    *((TRUNK, NECK, UPPER_ARM[side]) for side in (0, 1)),
    *((UPPER_ARM[side], FOREARM[side]) for side in (0, 1)),
    *((FOREARM[side],) for side in (0, 1)),
    *((TRUNK, THIGH[side]) for side in (0, 1)),
    *((THIGH[side], SHIN[side]) for side in (0, 1)),
    *((SHIN[side],) for side in (0, 1)),
)
"""Per keypoint, the parts under which it counts as visible."""


@dataclass
class Shape:
    """A filled convex polygon: int32 (n, 1, 2) in subpixels, its distance, colour and label."""

    z: float
    points: NDArray[np.int32]
    colour: Colour
    part: int


@dataclass
class Posed:
    """A figure at a time and size: what to draw, and its keypoints."""

    shapes: list[Shape]
    keypoints_px: Floats
    faces_away: Flags  # bool (17,): features on the far side of the head
    ground_px: tuple[float, float]
    stature_px: float


_ARC = np.concatenate([np.linspace(0.5, 1.5, 7), np.linspace(-0.5, 0.5, 7)]) * math.pi
_CIRCLE = np.linspace(0, 2 * math.pi, 16, endpoint=False)


def _capsules(ends: Floats) -> Floats:
    """Rows (x0, y0, r0, x1, y1, r1) → polygons float (n, 14, 2) round both ends."""
    angle = np.arctan2(ends[:, 4] - ends[:, 1], ends[:, 3] - ends[:, 0])[:, None] + _ARC
    start = np.repeat(ends[:, None, :3], 7, axis=1)
    stop = np.repeat(ends[:, None, 3:], 7, axis=1)
    centre = np.concatenate([start, stop], axis=1)
    points: Floats = centre[:, :, :2] + centre[:, :, 2:] * np.stack([np.cos(angle), np.sin(angle)], axis=2)
    return points


def _fixed(points: Floats) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * SUBPIXELS), np.int32).reshape(*points.shape[:-2], -1, 1, 2)


# Features on the head, in half head heights: left, down, forward.
_FEATURES: dict[str, Vector] = {
    "nose": (0.0, 0.12, 0.92),
    "leftEye": (0.34, -0.16, 0.76),
    "rightEye": (-0.34, -0.16, 0.76),
    "leftEar": (0.78, 0.0, -0.02),
    "rightEar": (-0.78, 0.0, -0.02),
    "mouth": (0.0, 0.5, 0.74),
}
_JOINT_ORDER = [
    side + joint for joint in ("Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle") for side in ("left", "right")
]


class _Limbs:
    """Limbs between projected joints, as capsules in the order in which they were added."""

    def __init__(self, at: dict[str, Vector], thick: float, depth_shade: float):
        self.at, self.thick, self.depth_shade = at, thick, depth_shade
        self.capsules: list[tuple[float, float, float, float, float, float]] = []
        self.looks: list[tuple[float, Colour, int]] = []

    def add(
        self, a: str, b: str, r0: float, r1: float, colour: Colour, part: int, near: float, until: float = 1.0
    ) -> None:
        """A limb from joint a to joint b, or to the fraction `until` of the way, of radius r0 at a and r1 at b."""
        (x0, y0, z0), (x1, y1, z1) = self.at[a], self.at[b]
        # The far side gets less light: that tells left from right in profile, and an arm from the shirt behind it.
        shade = min(1.0, max(0.0, 0.5 + (z0 + z1) * 2))
        colour = mix(colour, (0, 0, 0), self.depth_shade * (1 - shade))
        x1, y1, r1 = x0 + (x1 - x0) * until, y0 + (y1 - y0) * until, r0 + (r1 - r0) * until
        z = (z0 + z1) / 2 + near
        self.capsules.append((x0, y0, r0 * self.thick, x1, y1, r1 * self.thick))
        self.looks.append((z, colour, part))
        if r0 > 0.02:
            # A lit stripe along the upper left makes the limb look round.
            dx = -0.35 * r0 * self.thick
            dy = dx * 0.4
            self.capsules.append((x0 + dx, y0 + dy, 0.4 * r0 * self.thick, x1 + dx, y1 + dy, 0.4 * r1 * self.thick))
            self.looks.append((z + 1e-4, mix(colour, (255, 255, 255), 0.14), part))

    def shapes(self) -> list[Shape]:
        polygons = _fixed(_capsules(np.array(self.capsules)))
        return [Shape(z, points, colour, part) for points, (z, colour, part) in zip(polygons, self.looks, strict=True)]


def _add_leg(limbs: _Limbs, body: Body, side: int, name: str) -> None:
    thigh = body.bottom if body.trousers >= 1 else body.skin
    shin = body.bottom if body.trousers >= 2 else body.skin
    limbs.add(name + "Heel", name + "Toe", 0.02, 0.016, body.shoes, SHIN[side], 0.002)
    limbs.add(name + "Knee", name + "Ankle", 0.036, 0.023, shin, SHIN[side], 0.0)
    limbs.add(name + "Hip", name + "Knee", 0.056, 0.038, thigh, THIGH[side], 0.001)
    if body.trousers < 1:
        limbs.add(name + "Hip", name + "Knee", 0.062, 0.05, body.bottom, THIGH[side], 0.002, body.trousers)


def _add_arm(limbs: _Limbs, body: Body, side: int, name: str) -> None:
    upper = body.top if body.sleeve >= 1 else body.skin
    lower = body.top if body.sleeve >= 2 else body.skin
    limbs.add(name + "Shoulder", name + "Elbow", 0.033, 0.027, upper, UPPER_ARM[side], 0.01)
    if 0 < body.sleeve < 1:
        limbs.add(name + "Shoulder", name + "Elbow", 0.038, 0.034, body.top, UPPER_ARM[side], 0.0105, body.sleeve)
    limbs.add(name + "Elbow", name + "Wrist", 0.027, 0.02, lower, FOREARM[side], 0.012)
    limbs.add(name + "Wrist", name + "Hand", 0.022, 0.018, body.skin, FOREARM[side], 0.013)


def pose_figure(figure: Figure, time_s: float, width: int, height: int, depth_shade: float) -> Posed:
    """Everything to draw of one figure, and its keypoints, at a time and frame size."""
    body = figure.body
    joints, (head_left, head_down, head_forward) = skeleton(body, figure.angles(time_s))
    scale = body.stature * height
    soles = max(joints["leftHeel"][1], joints["rightHeel"][1]) + 0.012
    root_x, root_y = figure.x_at(time_s) * width, figure.ground * height - soles * scale

    def project(v: Vector) -> tuple[float, float, float]:
        zoom = scale / (1.0 - 0.18 * v[2])
        return root_x + v[0] * zoom, root_y + v[1] * zoom, v[2]

    at = {name: project(v) for name, v in joints.items()}
    features = {
        name: project(add(joints["head"], in_axes(v, head_left, head_down, head_forward), body.head))
        for name, v in _FEATURES.items()
    }
    facing = {name: in_axes(v, head_left, head_down, head_forward)[2] for name, v in _FEATURES.items()}

    thick = body.girth * scale
    limbs = _Limbs(at, thick, depth_shade)
    for side, name in ((0, "left"), (1, "right")):
        _add_leg(limbs, body, side, name)
        _add_arm(limbs, body, side, name)
    limbs.add("neck", "head", 0.026, 0.024, body.skin, NECK, -0.01)
    shapes = limbs.shapes()
    shapes += _trunk(body, at, thick)
    shapes += _head(body, project(joints["head"]), features, facing, head_forward, scale)
    shapes.sort(key=lambda shape: shape.z)

    keypoints = [features[name] for name in ("nose", "leftEye", "rightEye", "leftEar", "rightEar")]
    keypoints += [at[name] for name in _JOINT_ORDER]
    away = np.zeros(17, bool)
    away[0] = facing["nose"] < 0.0
    away[1:3] = [facing["leftEye"] < 0.1, facing["rightEye"] < 0.1]
    away[3:5] = [facing["leftEar"] < -0.3, facing["rightEar"] < -0.3]
    points = np.array(keypoints, np.float32)[:, :2]
    return Posed(shapes, points, away, (root_x, figure.ground * height), scale)


def _trunk(body: Body, at: dict[str, Vector], thick: float) -> list[Shape]:
    """Shirt and hips as convex hulls of circles at the joints."""
    circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)

    def hull(circles: list[tuple[Vector, float]]) -> NDArray[np.int32]:
        points = np.concatenate([np.array(centre[:2]) + radius * thick * circle for centre, radius in circles])
        return np.asarray(cv2.convexHull(_fixed(points)), np.int32)

    left, right = at["leftShoulder"], at["rightShoulder"]
    left_hip, right_hip = at["leftHip"], at["rightHip"]
    z = (left[2] + right[2] + left_hip[2] + right_hip[2]) / 4
    pelvis = hull([(left_hip, 0.055), (right_hip, 0.055), (at["neck"], 0.0)])
    shirt = hull([(left, 0.036), (right, 0.036), (left_hip, 0.042), (right_hip, 0.042)])
    shapes = [Shape(z + 0.003, pelvis, body.bottom, TRUNK), Shape(z + 0.004, shirt, body.top, TRUNK)]
    if body.skirt:
        middle = [add(at[s + "Hip"], add(at[s + "Knee"], at[s + "Hip"], -1.0), 0.7) for s in ("left", "right")]
        skirt = hull([(left_hip, 0.05), (right_hip, 0.05), (middle[0], 0.06), (middle[1], 0.06)])
        shapes.append(Shape(z + 0.0035, skirt, body.bottom, TRUNK))
    for index in range(body.stripes):
        part = (index + 0.7) / (body.stripes + 0.4)
        ends = [add(top, add(hip, top, -1.0), part) for top, hip in ((left, left_hip), (right, right_hip))]
        width = 0.16 * math.dist(left[:2], left_hip[:2]) / body.stripes
        line = _capsules(np.array([[*ends[0][:2], width, *ends[1][:2], width]]))[0]
        shapes.append(Shape(z + 0.0045, _fixed(line), body.stripe, TRUNK))
    return shapes


def _head(
    body: Body, centre: Vector, features: dict[str, Vector], facing: dict[str, float], forward: Vector, scale: float
) -> list[Shape]:
    """Hair, face shifted to where the head looks, ears, eyes, nose and mouth."""
    radius = body.head * scale
    circle = np.stack([np.cos(_CIRCLE) * 0.8, np.sin(_CIRCLE)], axis=1)

    def ellipse(at: tuple[float, ...], size: float) -> NDArray[np.int32]:
        return _fixed(np.array(at[:2]) + size * radius * circle)

    z = centre[2] + 0.02
    dark = mix(body.skin, (0, 0, 0), 0.75)
    back = (centre[0] - forward[0] * 0.2 * radius, centre[1] - 0.14 * radius)
    front = (centre[0] + forward[0] * 0.22 * radius, centre[1] + 0.1 * radius)
    hair = Shape(z, ellipse(back, 1.06), body.hair, HEAD)
    face = Shape(z + 1e-4, ellipse(front, 0.86), body.skin, HEAD)
    if forward[2] < -0.15:
        hair.z, face.z = face.z, hair.z
    shapes = [hair, face]
    if body.long_hair:
        low = (back[0], back[1] + 0.7 * radius)
        shapes.append(Shape(z - 0.03 if forward[2] > -0.15 else z + 2e-4, ellipse(low, 0.95), body.hair, HEAD))
    for name, size, colour in (
        ("leftEar", 0.2, mix(body.skin, (120, 40, 30), 0.25)),
        ("rightEar", 0.2, mix(body.skin, (120, 40, 30), 0.25)),
        ("leftEye", 0.15, dark),
        ("rightEye", 0.15, dark),
        ("nose", 0.14, mix(body.skin, (150, 60, 40), 0.4)),
        ("mouth", 0.16, (150, 50, 50)),
    ):
        if facing[name] > (-0.3 if "Ear" in name else 0.05):
            shapes.append(Shape(z + 3e-4 + 1e-5 * facing[name], ellipse(features[name], size), colour, HEAD))
    return shapes


@dataclass(frozen=True)
class Thing:
    """A thing of the room: kind, place and size in frame units, colour."""

    kind: int
    x: float
    y: float
    width: float
    height: float
    angle: float
    colour: Colour


def draw_thing(canvas: Bytes, thing: Thing, colour: Colour) -> None:
    """Box, framed box, ellipse, triangle or slanting bar."""
    rows, columns = canvas.shape[:2]
    x, y = thing.x * columns, thing.y * rows
    half_w, half_h = thing.width * rows / 2, thing.height * rows / 2
    if thing.kind in (0, 1):
        corners = (int(x - half_w), int(y - half_h)), (int(x + half_w), int(y + half_h))
        cv2.rectangle(canvas, *corners, colour, cv2.FILLED)
        if thing.kind == 1 and canvas.ndim == 3:
            cv2.rectangle(canvas, *corners, mix(colour, (20, 20, 20), 0.6), max(1, rows // 96))
    elif thing.kind == 2:
        cv2.ellipse(canvas, (int(x), int(y)), (int(half_w), int(half_h)), thing.angle * 60, 0, 360, colour, -1)
    else:
        cos, sin = math.cos(thing.angle), math.sin(thing.angle)
        shape = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if thing.kind == 4 else [(0, -1), (1, 1), (-1, 1)]
        points = [(x + u * half_w * cos - v * half_h * sin, y + u * half_w * sin + v * half_h * cos) for u, v in shape]
        cv2.fillConvexPoly(canvas, _fixed(np.array(points)), colour, cv2.LINE_8, SUBPIXEL_BITS)
