"""Rendered scenes with people who move: the simulated camera's default picture, and training data.

A scene is drawn from a seed alone: one to three articulated figures with their own bodies, clothes, skin and
movements (walking, waving, squatting, …), clutter behind them, sometimes something in front, light and camera
noise. The same seed, time and size always give the same bytes, and the 17 keypoints are known exactly.

Figures are skeletons in three dimensions (x to the right, y down, z towards the camera), posed by joint
angles, projected with a weak perspective and drawn part by part, farthest first. Lengths are in units of the
frame's height, horizontal positions in units of its width, so that a scene looks the same at every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from common.arrays import Bytes, Flags, Floats, Integers, Numbers, Picture

DATA_VERSION = 1
"""Counts up whenever a seed's pixels or keypoints change; trained weights record what they saw."""

DEPTH_SHADE = 0.32
"""How much darker the far side of a figure is than the near one."""

NOT_IN_FRAME, HIDDEN, VISIBLE = 0, 1, 2
"""Visibility of a keypoint, with COCO's numbers."""

Vector = tuple[float, float, float]
Colour = tuple[int, int, int]
SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS


@dataclass(frozen=True)
class Person:
    """Ground truth of one figure in one frame.

    keypoints_px: float32 (17, 2), x and y in pixels, the centre of the top left pixel being (0, 0); order as
    in PoseNet (nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right).
    visibility: uint8 (17,), NOT_IN_FRAME, HIDDEN (in the frame, covered by something) or VISIBLE.
    """

    keypoints_px: Floats
    visibility: Integers


# Joint angles of a pose, in radians: one float array with these indices; arms and legs as (left, right).
YAW, LEAN, SIDE, TWIST, HEAD_YAW, HEAD_PITCH = range(6)
ARM_FLEX, ARM_OUT, ELBOW, ELBOW_UP = (6, 10), (7, 11), (8, 12), (9, 13)
LEG_FLEX, LEG_OUT, KNEE = (14, 17), (15, 18), (16, 19)
ANGLES = 20

_LOWEST = np.array([0, -0.1, -0.15, -0.25, -0.5, -0.2] + [-0.5, 0.05, 0.0, 0.0] * 2 + [-0.25, 0.02, 0.0] * 2)
_HIGHEST = np.array([0, 0.35, 0.15, 0.25, 0.5, 0.25] + [1.9, 1.7, 2.1, 1.5] * 2 + [0.7, 0.35, 0.9] * 2)


@dataclass(frozen=True)
class Body:
    """Lengths in units of the stature, colours RGB."""

    stature: float  # units of the frame's height
    head: float  # half the head's height
    neck: float
    torso: float
    shoulder: float  # half the distance between the shoulder joints
    hip: float  # half the distance between the hip joints
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    girth: float  # factor on all thicknesses
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    sleeve: float  # part of the arm that is covered: 0, 0.5 … 2 (to the wrist)
    trousers: float  # likewise for the leg
    skirt: bool
    stripes: int
    stripe: Colour
    long_hair: bool


def _rgb(rng: np.random.Generator, value_low: float = 0.15, saturation: float = 1.0) -> Colour:
    """A random colour of evenly spread hue."""
    hue = rng.random() * 6
    value = rng.uniform(value_low, 1.0)
    chroma = value * min(1.0, rng.random() * 1.1) * saturation
    rest = [max(0.0, min(1.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
    red, green, blue = (int(255 * (value - chroma + chroma * part)) for part in rest)
    return red, green, blue


def _mix(first: Colour, second: Colour, part: float) -> Colour:
    red, green, blue = (int(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


SKIN_TONES: tuple[Colour, ...] = (
    (250, 220, 196),
    (232, 184, 146),
    (198, 140, 100),
    (140, 88, 58),
    (82, 52, 38),
)
HAIR_TONES: tuple[Colour, ...] = ((24, 20, 18), (70, 44, 26), (120, 74, 36), (196, 156, 92), (150, 146, 142))


def _body(rng: np.random.Generator, stature: float) -> Body:
    tone = rng.random() * (len(SKIN_TONES) - 1)
    skin = _mix(SKIN_TONES[int(tone)], SKIN_TONES[int(tone) + 1], tone % 1)
    return Body(
        stature=stature,
        head=rng.uniform(0.064, 0.076),
        neck=rng.uniform(0.02, 0.035),
        torso=rng.uniform(0.275, 0.315),
        shoulder=rng.uniform(0.092, 0.122),
        hip=rng.uniform(0.058, 0.076),
        upper_arm=rng.uniform(0.15, 0.175),
        forearm=rng.uniform(0.135, 0.155),
        thigh=rng.uniform(0.22, 0.25),
        shin=rng.uniform(0.215, 0.245),
        girth=rng.uniform(0.85, 1.3),
        skin=skin,
        hair=HAIR_TONES[rng.integers(len(HAIR_TONES))],
        top=_rgb(rng),
        bottom=_rgb(rng, saturation=0.7),
        shoes=_rgb(rng, saturation=0.4),
        sleeve=float(rng.choice([0.0, 0.5, 0.6, 2.0, 2.0])),
        trousers=float(rng.choice([0.6, 0.8, 2.0, 2.0, 2.0, 2.0])),
        skirt=bool(rng.random() < 0.15),
        stripes=int(rng.choice([0, 0, 0, 2, 3, 4])),
        stripe=_rgb(rng),
        long_hair=bool(rng.random() < 0.3),
    )


Pose = Callable[[float], Floats]
"""time in seconds → joint angles, float (ANGLES,), radians"""


def _idle(rng: np.random.Generator) -> Pose:
    """Standing, arms near the sides, shifting a little."""
    base = np.zeros(ANGLES)
    for side in (0, 1):
        base[ARM_FLEX[side]] = rng.uniform(-0.2, 0.35)
        base[ARM_OUT[side]] = rng.uniform(0.06, 0.35)
        base[ELBOW[side]] = rng.uniform(0.05, 0.9)
        base[LEG_OUT[side]] = rng.uniform(0.02, 0.2)
    sway = rng.uniform(-1, 1, ANGLES) * 0.06
    speed = rng.uniform(0.8, 1.6)
    return lambda time_s: base + sway * math.sin(speed * time_s)


def _wave(rng: np.random.Generator) -> Pose:
    """One arm up, its forearm going to and fro."""
    base = _idle(rng)(0.0)
    side = int(rng.integers(2))
    base[ARM_FLEX[side]] = rng.uniform(0.0, 0.4)
    base[ARM_OUT[side]] = rng.uniform(1.3, 2.2)
    base[ELBOW_UP[side]] = 1.5
    speed, middle, swing = rng.uniform(4, 7), rng.uniform(0.7, 1.2), rng.uniform(0.3, 0.6)

    def pose(time_s: float) -> Floats:
        angles = base.copy()
        angles[ELBOW[side]] = middle + swing * math.sin(speed * time_s)
        return angles

    return pose


def _squat(rng: np.random.Generator) -> Pose:
    """Knees bending and stretching, arms coming forward."""
    base = _idle(rng)(0.0)
    speed, depth, arms = rng.uniform(1.2, 2.2), rng.uniform(0.7, 1.5), rng.uniform(0.3, 1.4)

    def pose(time_s: float) -> Floats:
        angles = base.copy()
        bent = (1 - math.cos(speed * time_s)) / 2
        angles[LEAN] += 0.3 * bent
        for side in (0, 1):
            angles[LEG_FLEX[side]] += depth * bent
            angles[KNEE[side]] += 1.8 * depth * bent
            angles[LEG_OUT[side]] += 0.25 * bent
            angles[ARM_FLEX[side]] += arms * bent
        return angles

    return pose


def _jacks(rng: np.random.Generator) -> Pose:
    """Arms and legs spreading and closing together."""
    base = _idle(rng)(0.0)
    speed, arms, legs = rng.uniform(2.0, 3.5), rng.uniform(1.2, 2.6), rng.uniform(0.1, 0.4)

    def pose(time_s: float) -> Floats:
        angles = base.copy()
        spread = (1 - math.cos(speed * time_s)) / 2
        for side in (0, 1):
            angles[ARM_OUT[side]] += arms * spread
            angles[ELBOW[side]] *= 0.5
            angles[ELBOW_UP[side]] = 1.0
            angles[LEG_OUT[side]] += legs * spread
        return angles

    return pose


def _free(rng: np.random.Generator) -> Pose:
    """Every joint wandering through its own range."""
    low = _LOWEST + rng.random(ANGLES) * (_HIGHEST - _LOWEST)
    high = _LOWEST + rng.random(ANGLES) * (_HIGHEST - _LOWEST)
    speed, phase = rng.uniform(0.4, 1.5, ANGLES), rng.uniform(0, 2 * math.pi, ANGLES)
    return lambda time_s: low + (high - low) * (0.5 + 0.5 * np.sin(speed * time_s + phase))


def _walk(rng: np.random.Generator) -> Pose:
    """Legs and arms swinging against each other."""
    base = _idle(rng)(0.0)
    speed, stride, swing = rng.uniform(3.5, 5.5), rng.uniform(0.3, 0.55), rng.uniform(0.2, 0.6)

    def pose(time_s: float) -> Floats:
        angles = base.copy()
        for side, phase in ((0, 0.0), (1, math.pi)):
            beat = math.sin(speed * time_s + phase)
            angles[LEG_FLEX[side]] += stride * beat
            angles[LEG_OUT[side]] = 0.03
            angles[KNEE[side]] = 0.1 + 0.9 * stride * (1 + math.sin(speed * time_s + phase - 1.3))
            angles[ARM_FLEX[side]] -= swing * beat
        angles[LEAN] += 0.05
        return angles

    return pose


ACTIVITIES = (_idle, _wave, _squat, _jacks, _free, _free)
ACTIVITY_S = 5.0
BLEND_S = 0.8


@dataclass
class Figure:
    """One person: a body, where it stands, and what it does over time."""

    body: Body
    x: float  # units of the frame's width
    ground: float  # y of the soles, units of the frame's height
    yaw: float  # 0 faces the camera; positive turns to the figure's left (the picture's right)
    walk_x: float  # amplitude of walking to and fro, 0 for those who stay, units of the frame's width
    walk_speed: float  # radians a second
    phase_s: float
    poses: list[Pose] = field(default_factory=list)

    def angles(self, time_s: float) -> Floats:
        """Joint angles at a time; activities follow one another and are blended at the seams."""
        time_s += self.phase_s
        index, within_s = divmod(time_s, ACTIVITY_S)
        angles = self.poses[int(index) % len(self.poses)](time_s)
        if within_s > ACTIVITY_S - BLEND_S:
            part = (within_s - (ACTIVITY_S - BLEND_S)) / BLEND_S
            part = part * part * (3 - 2 * part)
            angles = angles + part * (self.poses[int(index + 1) % len(self.poses)](time_s) - angles)
        angles[YAW] += self.yaw
        if self.walk_x:
            # Turn towards where the walk goes, smoothly at the ends.
            angles[YAW] = 1.25 * math.tanh(2.5 * math.cos(self.walk_speed * time_s))
        return angles

    def x_at(self, time_s: float) -> float:
        return self.x + self.walk_x * math.sin(self.walk_speed * (time_s + self.phase_s))


def _figure(rng: np.random.Generator, slot: int, slots: int) -> Figure:
    close = rng.random() < 0.12 and slots < 3
    stature = rng.uniform(1.05, 1.5) if close else rng.uniform(0.52, 0.92)
    top = rng.uniform(0.03, 0.12) if close else rng.uniform(0.03, max(0.04, 0.96 - stature))
    facing = rng.random()
    if facing < 0.65:
        yaw = rng.uniform(-0.7, 0.7)
    elif facing < 0.85:
        yaw = rng.uniform(0.7, 1.5) * rng.choice([-1, 1])
    else:
        yaw = math.pi + rng.uniform(-0.6, 0.6)
    walks = rng.random() < 0.3
    figure = Figure(
        body=_body(rng, stature),
        x=(slot + 0.5 + rng.uniform(-0.3, 0.3)) / slots,
        ground=top + stature,
        yaw=float(yaw),
        walk_x=rng.uniform(0.1, 0.35) if walks else 0.0,
        walk_speed=rng.uniform(0.3, 0.7),
        phase_s=rng.uniform(0, 60),
    )
    if walks:
        figure.x = 0.5 + 0.5 * (figure.x - 0.5)
        figure.poses = [_walk(rng)]
    else:
        order = rng.permutation(len(ACTIVITIES))
        figure.poses = [ACTIVITIES[i](rng) for i in order]
    return figure


# What a pixel of the label picture shows: 16 × (figure + 1) + part; OCCLUDER is anything in front.
OCCLUDER = 1
TRUNK, NECK, HEAD, UPPER_ARM, FOREARM, THIGH, SHIN = 1, 2, 3, (4, 5), (6, 7), (8, 9), (10, 11)
_SHOWS: tuple[tuple[int, ...], ...] = (
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
class _Shape:
    """A filled convex polygon: int32 (n, 1, 2) in subpixels, its distance, colour and label."""

    z: float
    points: NDArray[np.int32]
    colour: Colour
    part: int


@dataclass
class _Posed:
    """A figure at a time and size: what to draw, and its keypoints."""

    shapes: list[_Shape]
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


def _add(a: Vector, b: Vector, factor: float = 1.0) -> Vector:
    return a[0] + b[0] * factor, a[1] + b[1] * factor, a[2] + b[2] * factor


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Vector) -> Vector:
    length = math.sqrt(_dot(a, a)) or 1.0
    return a[0] / length, a[1] / length, a[2] / length


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _in_axes(v: Vector, x: Vector, y: Vector, z: Vector) -> Vector:
    return _add(_add((x[0] * v[0], x[1] * v[0], x[2] * v[0]), y, v[1]), z, v[2])


def _limb(side: int, flex: float, out: float, bend: float, towards: Vector) -> tuple[Vector, Vector]:
    """Unit directions of the upper and the lower bone in the trunk's axes; 0, 0, 0 hangs straight down.

    `towards` is roughly where the lower bone bends to.
    """
    sign = 1.0 if side == 0 else -1.0
    upper = (sign * math.sin(out) * math.cos(flex), math.cos(out) * math.cos(flex), math.sin(flex))
    aside = _unit(_add(towards, upper, -_dot(towards, upper)))
    lower = _add(tuple(c * math.cos(bend) for c in upper), aside, math.sin(bend))  # type: ignore[arg-type]
    return upper, lower


def _skeleton(body: Body, angles: Floats) -> tuple[dict[str, Vector], tuple[Vector, Vector, Vector]]:
    """Joints in statures from the middle of the hips, and the head's axes (left, down, forward)."""
    a = angles.tolist()
    cos_yaw, sin_yaw = math.cos(a[YAW]), math.sin(a[YAW])

    def turn(v: Vector) -> Vector:
        return v[0] * cos_yaw + v[2] * sin_yaw, v[1], v[2] * cos_yaw - v[0] * sin_yaw

    left = (1.0, 0.0, 0.0)
    down = (0.0, 1.0, 0.0)
    forward = (0.0, 0.0, 1.0)
    trunk_down = _unit((math.sin(a[SIDE]), math.cos(a[LEAN]), -math.sin(a[LEAN])))
    trunk_left = (math.cos(a[TWIST]), 0.0, -math.sin(a[TWIST]))
    trunk_left = _unit(_add(trunk_left, trunk_down, -_dot(trunk_left, trunk_down)))
    trunk_forward = _cross(trunk_left, trunk_down)
    joints: dict[str, Vector] = {}
    neck = (-trunk_down[0] * body.torso, -trunk_down[1] * body.torso, -trunk_down[2] * body.torso)
    joints["neck"] = neck
    for side, name, sign in ((0, "left", 1.0), (1, "right", -1.0)):
        shoulder = _add(neck, trunk_left, sign * body.shoulder)
        up = a[ELBOW_UP[side]]
        towards = (-0.35 * sign, -math.sin(up), math.cos(up))
        upper, lower = _limb(side, a[ARM_FLEX[side]], a[ARM_OUT[side]], a[ELBOW[side]], towards)
        elbow = _add(shoulder, _in_axes(upper, trunk_left, trunk_down, trunk_forward), body.upper_arm)
        lower = _in_axes(lower, trunk_left, trunk_down, trunk_forward)
        joints[name + "Shoulder"] = shoulder
        joints[name + "Elbow"] = elbow
        joints[name + "Wrist"] = _add(elbow, lower, body.forearm)
        joints[name + "Hand"] = _add(elbow, lower, body.forearm + 0.035)
        hip = _add((0.0, 0.0, 0.0), left, sign * body.hip)
        upper, lower = _limb(side, a[LEG_FLEX[side]], a[LEG_OUT[side]], a[KNEE[side]], (0.0, 0.0, -1.0))
        knee = _add(hip, upper, body.thigh)
        ankle = _add(knee, lower, body.shin)
        joints[name + "Hip"] = hip
        joints[name + "Knee"] = knee
        joints[name + "Ankle"] = ankle
        joints[name + "Heel"] = _add(ankle, down, 0.025)
        joints[name + "Toe"] = _add(_add(joints[name + "Heel"], forward, 0.07), left, 0.02 * sign)
    head_yaw, head_pitch = a[HEAD_YAW], a[HEAD_PITCH]
    head_forward = _unit(
        _add(
            _in_axes((math.sin(head_yaw), 0.0, math.cos(head_yaw)), trunk_left, trunk_down, trunk_forward),
            trunk_down,
            math.sin(head_pitch),
        )
    )
    head_left = _unit(_cross(trunk_down, head_forward))
    head_down = _cross(head_forward, head_left)
    joints["head"] = _add(neck, head_down, -(body.neck + 0.035 + body.head))
    return {name: turn(v) for name, v in joints.items()}, (
        turn(head_left),
        turn(head_down),
        turn(head_forward),
    )


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


def _pose_figure(figure: Figure, time_s: float, width: int, height: int, depth_shade: float) -> _Posed:
    """Everything to draw of one figure, and its keypoints, at a time and frame size."""
    body = figure.body
    joints, (head_left, head_down, head_forward) = _skeleton(body, figure.angles(time_s))
    scale = body.stature * height
    soles = max(joints["leftHeel"][1], joints["rightHeel"][1]) + 0.012
    root_x, root_y = figure.x_at(time_s) * width, figure.ground * height - soles * scale

    def project(v: Vector) -> tuple[float, float, float]:
        zoom = scale / (1.0 - 0.18 * v[2])
        return root_x + v[0] * zoom, root_y + v[1] * zoom, v[2]

    at = {name: project(v) for name, v in joints.items()}
    features = {
        name: project(_add(joints["head"], _in_axes(v, head_left, head_down, head_forward), body.head))
        for name, v in _FEATURES.items()
    }
    facing = {name: _in_axes(v, head_left, head_down, head_forward)[2] for name, v in _FEATURES.items()}

    thick = body.girth * scale
    capsules: list[tuple[float, float, float, float, float, float]] = []
    looks: list[tuple[float, Colour, int]] = []

    def limb(a: str, b: str, r0: float, r1: float, colour: Colour, part: int, near: float, until: float = 1.0) -> None:
        (x0, y0, z0), (x1, y1, z1) = at[a], at[b]
        # The far side gets less light: tells left from right in profile, and an arm from the shirt behind it.
        shade = min(1.0, max(0.0, 0.5 + (z0 + z1) * 2))
        colour = _mix(colour, (0, 0, 0), depth_shade * (1 - shade))
        x1, y1, r1 = x0 + (x1 - x0) * until, y0 + (y1 - y0) * until, r0 + (r1 - r0) * until
        capsules.append((x0, y0, r0 * thick, x1, y1, r1 * thick))
        looks.append(((z0 + z1) / 2 + near, colour, part))
        if r0 > 0.02:
            # A lit stripe along the upper left gives the limb its roundness.
            shift = -0.35 * r0 * thick
            capsules.append(
                (
                    x0 + shift,
                    y0 + shift * 0.4,
                    0.4 * r0 * thick,
                    x1 + shift,
                    y1 + shift * 0.4,
                    0.4 * r1 * thick,
                )
            )
            looks.append(((z0 + z1) / 2 + near + 1e-4, _mix(colour, (255, 255, 255), 0.14), part))

    for side, name in ((0, "left"), (1, "right")):
        thigh, shin = (
            (body.bottom if body.trousers >= 1 else body.skin),
            (body.bottom if body.trousers >= 2 else body.skin),
        )
        limb(name + "Heel", name + "Toe", 0.02, 0.016, body.shoes, SHIN[side], 0.002)
        limb(name + "Knee", name + "Ankle", 0.036, 0.023, shin, SHIN[side], 0.0)
        limb(name + "Hip", name + "Knee", 0.056, 0.038, thigh, THIGH[side], 0.001)
        if body.trousers < 1:
            limb(name + "Hip", name + "Knee", 0.062, 0.05, body.bottom, THIGH[side], 0.002, body.trousers)
        upper, lower = (
            (body.top if body.sleeve >= 1 else body.skin),
            (body.top if body.sleeve >= 2 else body.skin),
        )
        limb(name + "Shoulder", name + "Elbow", 0.033, 0.027, upper, UPPER_ARM[side], 0.01)
        if 0 < body.sleeve < 1:
            limb(
                name + "Shoulder",
                name + "Elbow",
                0.038,
                0.034,
                body.top,
                UPPER_ARM[side],
                0.0105,
                body.sleeve,
            )
        limb(name + "Elbow", name + "Wrist", 0.027, 0.02, lower, FOREARM[side], 0.012)
        limb(name + "Wrist", name + "Hand", 0.022, 0.018, body.skin, FOREARM[side], 0.013)
    limb("neck", "head", 0.026, 0.024, body.skin, NECK, -0.01)
    shapes = [
        _Shape(z, points, colour, part)
        for points, (z, colour, part) in zip(_fixed(_capsules(np.array(capsules))), looks, strict=True)
    ]
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
    return _Posed(shapes, points, away, (root_x, figure.ground * height), scale)


def _trunk(body: Body, at: dict[str, Vector], thick: float) -> list[_Shape]:
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
    shapes = [_Shape(z + 0.003, pelvis, body.bottom, TRUNK), _Shape(z + 0.004, shirt, body.top, TRUNK)]
    if body.skirt:
        middle = [_add(at[s + "Hip"], _add(at[s + "Knee"], at[s + "Hip"], -1.0), 0.7) for s in ("left", "right")]
        skirt = hull([(left_hip, 0.05), (right_hip, 0.05), (middle[0], 0.06), (middle[1], 0.06)])
        shapes.append(_Shape(z + 0.0035, skirt, body.bottom, TRUNK))
    for index in range(body.stripes):
        part = (index + 0.7) / (body.stripes + 0.4)
        ends = [_add(top, _add(hip, top, -1.0), part) for top, hip in ((left, left_hip), (right, right_hip))]
        width = 0.16 * math.dist(left[:2], left_hip[:2]) / body.stripes
        line = _capsules(np.array([[*ends[0][:2], width, *ends[1][:2], width]]))[0]
        shapes.append(_Shape(z + 0.0045, _fixed(line), body.stripe, TRUNK))
    return shapes


def _head(
    body: Body,
    centre: Vector,
    features: dict[str, Vector],
    facing: dict[str, float],
    forward: Vector,
    scale: float,
) -> list[_Shape]:
    """Hair, face shifted to where the head looks, ears, eyes, nose and mouth."""
    radius = body.head * scale
    circle = np.stack([np.cos(_CIRCLE) * 0.8, np.sin(_CIRCLE)], axis=1)

    def ellipse(at: tuple[float, ...], size: float) -> NDArray[np.int32]:
        return _fixed(np.array(at[:2]) + size * radius * circle)

    z = centre[2] + 0.02
    dark = _mix(body.skin, (0, 0, 0), 0.75)
    back = (centre[0] - forward[0] * 0.2 * radius, centre[1] - 0.14 * radius)
    front = (centre[0] + forward[0] * 0.22 * radius, centre[1] + 0.1 * radius)
    hair = _Shape(z, ellipse(back, 1.06), body.hair, HEAD)
    face = _Shape(z + 1e-4, ellipse(front, 0.86), body.skin, HEAD)
    if forward[2] < -0.15:
        hair.z, face.z = face.z, hair.z
    shapes = [hair, face]
    if body.long_hair:
        low = (back[0], back[1] + 0.7 * radius)
        shapes.append(_Shape(z - 0.03 if forward[2] > -0.15 else z + 2e-4, ellipse(low, 0.95), body.hair, HEAD))
    for name, size, colour in (
        ("leftEar", 0.2, _mix(body.skin, (120, 40, 30), 0.25)),
        ("rightEar", 0.2, _mix(body.skin, (120, 40, 30), 0.25)),
        ("leftEye", 0.15, dark),
        ("rightEye", 0.15, dark),
        ("nose", 0.14, _mix(body.skin, (150, 60, 40), 0.4)),
        ("mouth", 0.16, (150, 50, 50)),
    ):
        if facing[name] > (-0.3 if "Ear" in name else 0.05):
            shapes.append(_Shape(z + 3e-4 + 1e-5 * facing[name], ellipse(features[name], size), colour, HEAD))
    return shapes


@dataclass(frozen=True)
class _Clutter:
    """A thing of the room: kind, place and size in frame units, colour."""

    kind: int
    x: float
    y: float
    width: float
    height: float
    angle: float
    colour: Colour


@lru_cache(maxsize=32)
def _noise_tile(side: int, level: int) -> NDArray[np.int16]:
    """Camera noise, int16 (side, side, 3); a frame takes a window of it at a place of its own."""
    rng = np.random.default_rng([level, 77])
    return np.asarray(np.rint(rng.standard_normal((side, side, 3), dtype=np.float32) * level), np.int16)


class Scene:
    """One to three people in a room, all from one seed; see the module's text.

    A scene keeps no state but caches: frames may be asked for in any order of time.
    """

    def __init__(self, seed: int, people: int | None = None, flat_light: bool = False):
        """`people`: 1 … 3, or None to leave that to the seed too; `flat_light`: the far side as bright as the near."""
        rng = np.random.default_rng([seed, DATA_VERSION])
        count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
        count = count if people is None else people
        self.seed = seed
        self._depth_shade = 0.0 if flat_light else DEPTH_SHADE
        self.figures = [_figure(rng, slot, count) for slot in range(count)]
        # The smaller stands farther away and is drawn first.
        self.figures.sort(key=lambda figure: figure.body.stature)
        self._wall = _rgb(rng, 0.3, 0.6), _rgb(rng, 0.3, 0.6)
        self._floor = _rgb(rng, 0.2, 0.5)
        self._horizon = rng.uniform(0.45, 0.8)
        self._clutter = [self._thing(rng) for _ in range(int(rng.integers(2, 16)))]
        self._stains = rng.uniform(0, 14), rng.uniform(0, 8)  # coarse and fine, in colour
        self._grain = rng.uniform(0, 20), rng.uniform(0, 18)  # likewise, in brightness
        self._occluders = []
        if rng.random() < 0.25:
            height = rng.uniform(0.1, 0.3)
            self._occluders.append(
                _Clutter(
                    int(rng.integers(2)),
                    rng.random(),
                    1.02 - height / 2,
                    rng.uniform(0.1, 0.4),
                    height,
                    0.0,
                    _rgb(rng),
                )
            )
        self._gain = rng.uniform(0.55, 1.2) * np.array(
            [1 + rng.uniform(-0.12, 0.12), 1.0, 1 + rng.uniform(-0.12, 0.12)]
        )
        self._light_slope = rng.uniform(-0.35, 0.35, 2)
        self._blur = int(rng.choice([0, 0, 3, 3, 5], p=[0.3, 0.2, 0.2, 0.2, 0.1]))
        self._noise = int(rng.integers(0, 9))
        self._still: dict[tuple[int, int], tuple[Bytes, Bytes]] = {}
        self._posed: tuple[tuple[float, int, int], list[_Posed]] | None = None

    @staticmethod
    def _thing(rng: np.random.Generator) -> _Clutter:
        kind = int(rng.integers(5))
        slim = kind == 4
        return _Clutter(
            kind,
            rng.random(),
            rng.uniform(0, 1.0),
            rng.uniform(0.01, 0.06) if slim else rng.uniform(0.03, 0.35),
            rng.uniform(0.04, 0.6 if slim else 0.5),
            rng.uniform(-0.5, 0.5),
            _rgb(rng, 0.1, 0.9),
        )

    def frame(self, time_s: float, width: int, height: int) -> Picture:
        """The camera's picture: uint8 (height, width, 3), RGB."""
        background, light = self._still_parts(width, height)
        canvas: Numbers = background.copy()
        for posed in self._pose(time_s, width, height):
            x, y = posed.ground_px
            size = posed.stature_px
            cv2.ellipse(
                canvas,
                (int(x), int(y)),
                (int(0.16 * size) + 1, int(0.025 * size) + 1),
                0,
                0,
                360,
                _mix(self._floor, (0, 0, 0), 0.35),
                cv2.FILLED,
            )
            for shape in posed.shapes:
                cv2.fillConvexPoly(canvas, shape.points, shape.colour, cv2.LINE_AA, SUBPIXEL_BITS)
        for thing in self._occluders:
            _draw_thing(canvas, thing, thing.colour)
        if self._blur:
            canvas = cv2.GaussianBlur(canvas, (self._blur, self._blur), 0)
        canvas = cv2.multiply(canvas, light, scale=1 / 128)
        if self._noise:
            tile = _noise_tile(-(-(max(width, height) + 64) // 256) * 256, self._noise)
            x, y = np.random.default_rng([self.seed, round(time_s * 1000)]).integers(0, 65, 2)
            canvas = cv2.add(canvas, tile[y : y + height, x : x + width], dtype=cv2.CV_8U)
        return np.asarray(canvas, np.uint8)

    def people(self, time_s: float, width: int, height: int) -> list[Person]:
        """Ground truth of the frame of the same time and size, farthest figure first."""
        posed_figures = self._pose(time_s, width, height)
        labels = np.zeros((height, width), np.uint8)
        for index, posed in enumerate(posed_figures):
            for shape in posed.shapes:
                label = (16 * (index + 1) + shape.part,)
                cv2.fillConvexPoly(labels, shape.points, label, cv2.LINE_8, SUBPIXEL_BITS)
        for thing in self._occluders:
            _draw_thing(labels, thing, (OCCLUDER, 0, 0))
        people = []
        for index, posed in enumerate(posed_figures):
            visibility = np.zeros(17, np.uint8)
            for k, (x, y) in enumerate(posed.keypoints_px.tolist()):
                column, row = math.floor(x + 0.5), math.floor(y + 0.5)
                if 0 <= column < width and 0 <= row < height:
                    figure, part = divmod(int(labels[row, column]), 16)
                    seen = figure == index + 1 and part in _SHOWS[k] and not posed.faces_away[k]
                    visibility[k] = VISIBLE if seen else HIDDEN
            people.append(Person(posed.keypoints_px, visibility))
        return people

    def _pose(self, time_s: float, width: int, height: int) -> list[_Posed]:
        key = (time_s, width, height)
        if self._posed is None or self._posed[0] != key:
            self._posed = (
                key,
                [_pose_figure(figure, time_s, width, height, self._depth_shade) for figure in self.figures],
            )
        return self._posed[1]

    def _still_parts(self, width: int, height: int) -> tuple[Bytes, Bytes]:
        """Background without light, and the light (128 = as it is), both uint8 (height, width, 3)."""
        if (width, height) not in self._still:
            self._still[width, height] = self._background(width, height), self._light(width, height)
        return self._still[width, height]

    def _background(self, width: int, height: int) -> Bytes:
        rng = np.random.default_rng([self.seed, 5])
        above, below = (np.array(colour, np.float32) for colour in self._wall)
        horizon = int(self._horizon * height)
        column = np.linspace(above, below, height, dtype=np.float32)
        column[horizon:] = self._floor
        canvas: Bytes = np.ascontiguousarray(np.broadcast_to(column[:, None].astype(np.uint8), (height, width, 3)))
        for thing in self._clutter:
            _draw_thing(canvas, thing, thing.colour)
        for stain, grain, (columns, rows) in zip(self._stains, self._grain, ((11, 8), (67, 50)), strict=True):
            texture = rng.standard_normal((rows, columns, 3), dtype=np.float32) * stain
            texture += rng.standard_normal((rows, columns, 1), dtype=np.float32) * grain
            texture = np.asarray(cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR))
            canvas = np.asarray(cv2.add(canvas, texture, dtype=cv2.CV_8U), np.uint8)
        return canvas

    def _light(self, width: int, height: int) -> Bytes:
        across = 1 + self._light_slope[0] * np.linspace(-1, 1, width)[None, :, None]
        along = 1 + self._light_slope[1] * np.linspace(-1, 1, height)[:, None, None]
        return np.asarray(np.clip(128 * across * along * self._gain, 20, 255), np.uint8)


def _draw_thing(canvas: Bytes, thing: _Clutter, colour: Colour) -> None:
    """Box, framed box, ellipse, triangle or slanting bar."""
    rows, columns = canvas.shape[:2]
    x, y = thing.x * columns, thing.y * rows
    half_w, half_h = thing.width * rows / 2, thing.height * rows / 2
    if thing.kind in (0, 1):
        corners = (int(x - half_w), int(y - half_h)), (int(x + half_w), int(y + half_h))
        cv2.rectangle(canvas, *corners, colour, cv2.FILLED)
        if thing.kind == 1 and canvas.ndim == 3:
            cv2.rectangle(canvas, *corners, _mix(colour, (20, 20, 20), 0.6), max(1, rows // 96))
    elif thing.kind == 2:
        cv2.ellipse(canvas, (int(x), int(y)), (int(half_w), int(half_h)), thing.angle * 60, 0, 360, colour, -1)
    else:
        cos, sin = math.cos(thing.angle), math.sin(thing.angle)
        shape = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if thing.kind == 4 else [(0, -1), (1, 1), (-1, 1)]
        points = [(x + u * half_w * cos - v * half_h * sin, y + u * half_w * sin + v * half_h * cos) for u, v in shape]
        cv2.fillConvexPoly(canvas, _fixed(np.array(points)), colour, cv2.LINE_8, SUBPIXEL_BITS)
