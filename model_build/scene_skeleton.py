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


def skeleton(body: Body, angles: Floats) -> tuple[dict[str, Vector], tuple[Vector, Vector, Vector]]:
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
    trunk_left = _unit(add(trunk_left, trunk_down, -_dot(trunk_left, trunk_down)))
    trunk_forward = _cross(trunk_left, trunk_down)
    joints: dict[str, Vector] = {}
    neck = (-trunk_down[0] * body.torso, -trunk_down[1] * body.torso, -trunk_down[2] * body.torso)
    joints["neck"] = neck
    for side, name, sign in ((0, "left", 1.0), (1, "right", -1.0)):
        shoulder = add(neck, trunk_left, sign * body.shoulder)
        up = a[ELBOW_UP[side]]
        towards = (-0.35 * sign, -math.sin(up), math.cos(up))
        upper, lower = _limb(side, a[ARM_FLEX[side]], a[ARM_OUT[side]], a[ELBOW[side]], towards)
        elbow = add(shoulder, in_axes(upper, trunk_left, trunk_down, trunk_forward), body.upper_arm)
        lower = in_axes(lower, trunk_left, trunk_down, trunk_forward)
        joints[name + "Shoulder"] = shoulder
        joints[name + "Elbow"] = elbow
        joints[name + "Wrist"] = add(elbow, lower, body.forearm)
        joints[name + "Hand"] = add(elbow, lower, body.forearm + 0.035)
        hip = add((0.0, 0.0, 0.0), left, sign * body.hip)
        upper, lower = _limb(side, a[LEG_FLEX[side]], a[LEG_OUT[side]], a[KNEE[side]], (0.0, 0.0, -1.0))
        knee = add(hip, upper, body.thigh)
        ankle = add(knee, lower, body.shin)
        joints[name + "Hip"] = hip
        joints[name + "Knee"] = knee
        joints[name + "Ankle"] = ankle
        joints[name + "Heel"] = add(ankle, down, 0.025)
        joints[name + "Toe"] = add(add(joints[name + "Heel"], forward, 0.07), left, 0.02 * sign)
    head_yaw, head_pitch = a[HEAD_YAW], a[HEAD_PITCH]
    head_forward = _unit(
        add(
            in_axes((math.sin(head_yaw), 0.0, math.cos(head_yaw)), trunk_left, trunk_down, trunk_forward),
            trunk_down,
            math.sin(head_pitch),
        )
    )
    head_left = _unit(_cross(trunk_down, head_forward))
    head_down = _cross(head_forward, head_left)
    joints["head"] = add(neck, head_down, -(body.neck + 0.035 + body.head))
    return {name: turn(v) for name, v in joints.items()}, (
        turn(head_left),
        turn(head_down),
        turn(head_forward),
    )
