"""People of a rendered scene: their bodies, what they wear, and how they move, all from one random generator.

Lengths of a body are in units of its stature. A movement is a function from time to joint angles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from common.arrays import Floats

Colour = tuple[int, int, int]

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


def random_colour(rng: np.random.Generator, value_low: float = 0.15, saturation: float = 1.0) -> Colour:
    """A random colour of evenly spread hue."""
    hue = rng.random() * 6
    value = rng.uniform(value_low, 1.0)
    chroma = value * min(1.0, rng.random() * 1.1) * saturation
    rest = [max(0.0, min(1.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
    red, green, blue = (int(255 * (value - chroma + chroma * part)) for part in rest)
    return red, green, blue


def mix(first: Colour, second: Colour, part: float) -> Colour:
    red, green, blue = (int(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


SKIN_TONES: tuple[Colour, ...] = ((250, 220, 196), (232, 184, 146), (198, 140, 100), (140, 88, 58), (82, 52, 38))
HAIR_TONES: tuple[Colour, ...] = ((24, 20, 18), (70, 44, 26), (120, 74, 36), (196, 156, 92), (150, 146, 142))


def make_body(rng: np.random.Generator, stature: float) -> Body:
    tone = rng.random() * (len(SKIN_TONES) - 1)
    skin = mix(SKIN_TONES[int(tone)], SKIN_TONES[int(tone) + 1], tone % 1)
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
        top=random_colour(rng),
        bottom=random_colour(rng, saturation=0.7),
        shoes=random_colour(rng, saturation=0.4),
        sleeve=float(rng.choice([0.0, 0.5, 0.6, 2.0, 2.0])),
        trousers=float(rng.choice([0.6, 0.8, 2.0, 2.0, 2.0, 2.0])),
        skirt=bool(rng.random() < 0.15),
        stripes=int(rng.choice([0, 0, 0, 2, 3, 4])),
        stripe=random_colour(rng),
        long_hair=bool(rng.random() < 0.3),
    )


Motion = Callable[[float], Floats]
"""time in seconds → joint angles, float (ANGLES,), radians"""


def _idle(rng: np.random.Generator) -> Motion:
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


def _wave(rng: np.random.Generator) -> Motion:
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


def _squat(rng: np.random.Generator) -> Motion:
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


def _jacks(rng: np.random.Generator) -> Motion:
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


def _free(rng: np.random.Generator) -> Motion:
    """Every joint wandering through its own range."""
    low = _LOWEST + rng.random(ANGLES) * (_HIGHEST - _LOWEST)
    high = _LOWEST + rng.random(ANGLES) * (_HIGHEST - _LOWEST)
    speed, phase = rng.uniform(0.4, 1.5, ANGLES), rng.uniform(0, 2 * math.pi, ANGLES)
    return lambda time_s: low + (high - low) * (0.5 + 0.5 * np.sin(speed * time_s + phase))


def walk(rng: np.random.Generator) -> Motion:
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
    walk_x: float  # amplitude of walking to and fro, 0 for a person who stays, units of the frame's width
    walk_speed: float  # radians a second
    phase_s: float
    motions: list[Motion] = field(default_factory=list)

    def angles(self, time_s: float) -> Floats:
        """Joint angles at a time; activities follow one another and are blended at the seams."""
        time_s += self.phase_s
        index, within_s = divmod(time_s, ACTIVITY_S)
        angles = self.motions[int(index) % len(self.motions)](time_s)
        if within_s > ACTIVITY_S - BLEND_S:
            part = (within_s - (ACTIVITY_S - BLEND_S)) / BLEND_S
            part = part * part * (3 - 2 * part)
            angles = angles + part * (self.motions[int(index + 1) % len(self.motions)](time_s) - angles)
        angles[YAW] += self.yaw
        if self.walk_x:
            # The figure faces the direction of its walk and turns smoothly at the ends.
            angles[YAW] = 1.25 * math.tanh(2.5 * math.cos(self.walk_speed * time_s))
        return angles

    def x_at(self, time_s: float) -> float:
        return self.x + self.walk_x * math.sin(self.walk_speed * (time_s + self.phase_s))


def make_figure(rng: np.random.Generator, slot: int, slots: int) -> Figure:
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
        body=make_body(rng, stature),
        x=(slot + 0.5 + rng.uniform(-0.3, 0.3)) / slots,
        ground=top + stature,
        yaw=float(yaw),
        walk_x=rng.uniform(0.1, 0.35) if walks else 0.0,
        walk_speed=rng.uniform(0.3, 0.7),
        phase_s=rng.uniform(0, 60),
    )
    if walks:
        figure.x = 0.5 + 0.5 * (figure.x - 0.5)
        figure.motions = [walk(rng)]
    else:
        order = rng.permutation(len(ACTIVITIES))
        figure.motions = [ACTIVITIES[i](rng) for i in order]
    return figure
