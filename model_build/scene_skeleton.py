"""The skeleton of a figure: its joints in three dimensions, from body and joint angles.

x runs to the right of the picture, y down, z towards the camera.
"""

from __future__ import annotations

import math

from common.arrays import Floats
from model_build.scene_figure import (
    ARM_FLEX,
    ARM_OUT,
    ELBOW,
    ELBOW_UP,
    HEAD_PITCH,
    HEAD_YAW,
    KNEE,
    LEAN,
    LEG_FLEX,
    LEG_OUT,
    SIDE,
    TWIST,
    YAW,
    Body,
)  # fmt: skip

Vector = tuple[float, float, float]
Axes = tuple[Vector, Vector, Vector]
"""Unit vectors: left, down, forward."""
_LEFT, _DOWN, _FORWARD = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def add(a: Vector, b: Vector, factor: float = 1.0) -> Vector:
    return a[0] + b[0] * factor, a[1] + b[1] * factor, a[2] + b[2] * factor


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Vector) -> Vector:
    length = math.sqrt(_dot(a, a)) or 1.0
    return a[0] / length, a[1] / length, a[2] / length


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def in_axes(v: Vector, x: Vector, y: Vector, z: Vector) -> Vector:
    return add(add((x[0] * v[0], x[1] * v[0], x[2] * v[0]), y, v[1]), z, v[2])


def _limb(side: int, flex: float, out: float, bend: float, towards: Vector) -> tuple[Vector, Vector]:
    """Unit directions of the upper and the lower bone in the trunk's axes; 0, 0, 0 hangs straight down.

    `towards` is roughly where the lower bone bends to.
    """
    sign = 1.0 if side == 0 else -1.0
    upper = (sign * math.sin(out) * math.cos(flex), math.cos(out) * math.cos(flex), math.sin(flex))
    aside = _unit(add(towards, upper, -_dot(towards, upper)))
    lower = add(tuple(c * math.cos(bend) for c in upper), aside, math.sin(bend))  # type: ignore[arg-type]
    return upper, lower


def skeleton(body: Body, angles: Floats) -> tuple[dict[str, Vector], Axes]:
    """Joints in statures from the middle of the hips, and the head's axes (left, down, forward)."""
    a = angles.tolist()
    trunk = _trunk_axes(a)
    neck = (-trunk[1][0] * body.torso, -trunk[1][1] * body.torso, -trunk[1][2] * body.torso)
    joints: dict[str, Vector] = {"neck": neck}
    for side, name, sign in ((0, "left", 1.0), (1, "right", -1.0)):
        for part, at in (_arm(body, a, side, sign, neck, trunk) | _leg(body, a, side, sign)).items():
            joints[name + part] = at
    head = _head_axes(a, trunk)
    joints["head"] = add(neck, head[1], -(body.neck + 0.035 + body.head))
    cos_yaw, sin_yaw = math.cos(a[YAW]), math.sin(a[YAW])

    def turn(v: Vector) -> Vector:
        return v[0] * cos_yaw + v[2] * sin_yaw, v[1], v[2] * cos_yaw - v[0] * sin_yaw

    return {name: turn(v) for name, v in joints.items()}, (turn(head[0]), turn(head[1]), turn(head[2]))


def _trunk_axes(a: list[float]) -> Axes:
    down = _unit((math.sin(a[SIDE]), math.cos(a[LEAN]), -math.sin(a[LEAN])))
    left = (math.cos(a[TWIST]), 0.0, -math.sin(a[TWIST]))
    left = _unit(add(left, down, -_dot(left, down)))
    return left, down, _cross(left, down)


def _head_axes(a: list[float], trunk: Axes) -> Axes:
    ahead = in_axes((math.sin(a[HEAD_YAW]), 0.0, math.cos(a[HEAD_YAW])), *trunk)
    forward = _unit(add(ahead, trunk[1], math.sin(a[HEAD_PITCH])))
    left = _unit(_cross(trunk[1], forward))
    return left, _cross(forward, left), forward


def _arm(body: Body, a: list[float], side: int, sign: float, neck: Vector, trunk: Axes) -> dict[str, Vector]:
    shoulder = add(neck, trunk[0], sign * body.shoulder)
    up = a[ELBOW_UP[side]]
    towards = (-0.35 * sign, -math.sin(up), math.cos(up))
    upper, lower = _limb(side, a[ARM_FLEX[side]], a[ARM_OUT[side]], a[ELBOW[side]], towards)
    elbow = add(shoulder, in_axes(upper, *trunk), body.upper_arm)
    lower = in_axes(lower, *trunk)
    wrist, hand = add(elbow, lower, body.forearm), add(elbow, lower, body.forearm + 0.035)
    return {"Shoulder": shoulder, "Elbow": elbow, "Wrist": wrist, "Hand": hand}


def _leg(body: Body, a: list[float], side: int, sign: float) -> dict[str, Vector]:
    hip = add((0.0, 0.0, 0.0), _LEFT, sign * body.hip)
    upper, lower = _limb(side, a[LEG_FLEX[side]], a[LEG_OUT[side]], a[KNEE[side]], (0.0, 0.0, -1.0))
    knee = add(hip, upper, body.thigh)
    ankle = add(knee, lower, body.shin)
    heel = add(ankle, _DOWN, 0.025)
    toe = add(add(heel, _FORWARD, 0.07), _LEFT, 0.02 * sign)
    return {"Hip": hip, "Knee": knee, "Ankle": ankle, "Heel": heel, "Toe": toe}
