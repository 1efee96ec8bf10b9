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
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from common.arrays import Bytes, Floats, Integers, Numbers, Picture
from model_build.scene_figure import make_figure, mix, random_colour
from model_build.scene_raster import OCCLUDER, SHOWS, SUBPIXEL_BITS, Posed, Thing, draw_thing, pose_figure

DATA_VERSION = 1
"""This number is increased whenever a seed's pixels or keypoints change; trained weights record the version they
saw."""

DEPTH_SHADE = 0.32
"""How much darker the far side of a figure is than the near one."""

NOT_IN_FRAME, HIDDEN, VISIBLE = 0, 1, 2
"""A keypoint's visibility is one of these, with COCO's numbers."""


@dataclass(frozen=True)
class Person:
    """Ground truth of one figure in one frame.

    keypoints_px: float32 (17, 2), x and y in pixels, the centre of the top left pixel being (0, 0); order as
    in PoseNet (nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right).
    visibility: uint8 (17,), NOT_IN_FRAME, HIDDEN (in the frame, covered by something) or VISIBLE.
    """

    keypoints_px: Floats
    visibility: Integers


def _lit(canvas: Numbers, light: Bytes) -> Bytes:
    """Canvas · light / 128, uint8, halves to the even neighbour: OpenCV's own scaled product rounds them differently
    on arm64 and on x86-64."""
    product = cv2.multiply(canvas, light, scale=1 / 128, dtype=cv2.CV_32F)
    np.rint(product, out=product)
    return np.minimum(product, 255, out=product).astype(np.uint8)


@lru_cache(maxsize=32)
def _noise_tile(side: int, level: int) -> NDArray[np.int16]:
    """Camera noise, int16 (side, side, 3); a frame takes a window of it at a place of its own."""
    rng = np.random.default_rng([level, 77])
    return np.asarray(np.rint(rng.standard_normal((side, side, 3), dtype=np.float32) * level), np.int16)


class Scene:
    """One to three people in a room, all from one seed; see the module's docstring.

    A scene keeps no state except caches, so frames may be requested in any order of time.
    """

    def __init__(self, seed: int, people: int | None = None, flat_light: bool = False):
        """`people`: 1 … 3, or None to let the seed decide; `flat_light`: the far side is as bright as the near one."""
        rng = np.random.default_rng([seed, DATA_VERSION])
        count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
        count = count if people is None else people
        self.seed = seed
        self._depth_shade = 0.0 if flat_light else DEPTH_SHADE
        self.figures = [make_figure(rng, slot, count) for slot in range(count)]
        # The smaller stands farther away and is drawn first.
        self.figures.sort(key=lambda figure: figure.body.stature)
        self._wall = random_colour(rng, 0.3, 0.6), random_colour(rng, 0.3, 0.6)
        self._floor = random_colour(rng, 0.2, 0.5)
        self._horizon = rng.uniform(0.45, 0.8)
        self._clutter = [self._thing(rng) for _ in range(int(rng.integers(2, 16)))]
        self._stains = rng.uniform(0, 14), rng.uniform(0, 8)  # coarse and fine, in colour
        self._grain = rng.uniform(0, 20), rng.uniform(0, 18)  # likewise, in brightness
        self._occluders = []
        if rng.random() < 0.25:
            height = rng.uniform(0.1, 0.3)
            self._occluders.append(
                Thing(
                    int(rng.integers(2)),
                    rng.random(),
                    1.02 - height / 2,
                    rng.uniform(0.1, 0.4),
                    height,
                    0.0,
                    random_colour(rng),
                )
            )
        self._gain = rng.uniform(0.55, 1.2) * np.array(
            [1 + rng.uniform(-0.12, 0.12), 1.0, 1 + rng.uniform(-0.12, 0.12)]
        )
        self._light_slope = rng.uniform(-0.35, 0.35, 2)
        self._blur = int(rng.choice([0, 0, 3, 3, 5], p=[0.3, 0.2, 0.2, 0.2, 0.1]))
        self._noise = int(rng.integers(0, 9))
        self._still: dict[tuple[int, int], tuple[Bytes, Bytes]] = {}
        self._posed: tuple[tuple[float, int, int], list[Posed]] | None = None

    @staticmethod
    def _thing(rng: np.random.Generator) -> Thing:
        kind = int(rng.integers(5))
        slim = kind == 4
        return Thing(
            kind,
            rng.random(),
            rng.uniform(0, 1.0),
            rng.uniform(0.01, 0.06) if slim else rng.uniform(0.03, 0.35),
            rng.uniform(0.04, 0.6 if slim else 0.5),
            rng.uniform(-0.5, 0.5),
            random_colour(rng, 0.1, 0.9),
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
                mix(self._floor, (0, 0, 0), 0.35),
                cv2.FILLED,
            )
            for shape in posed.shapes:
                cv2.fillConvexPoly(canvas, shape.points, shape.colour, cv2.LINE_AA, SUBPIXEL_BITS)
        for thing in self._occluders:
            draw_thing(canvas, thing, thing.colour)
        if self._blur:
            canvas = cv2.GaussianBlur(canvas, (self._blur, self._blur), 0)
        canvas = _lit(canvas, light)
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
            draw_thing(labels, thing, (OCCLUDER, 0, 0))
        people = []
        for index, posed in enumerate(posed_figures):
            visibility = np.zeros(17, np.uint8)
            for k, (x, y) in enumerate(posed.keypoints_px.tolist()):
                column, row = math.floor(x + 0.5), math.floor(y + 0.5)
                if 0 <= column < width and 0 <= row < height:
                    figure, part = divmod(int(labels[row, column]), 16)
                    seen = figure == index + 1 and part in SHOWS[k] and not posed.faces_away[k]
                    visibility[k] = VISIBLE if seen else HIDDEN
            people.append(Person(posed.keypoints_px, visibility))
        return people

    def _pose(self, time_s: float, width: int, height: int) -> list[Posed]:
        key = (time_s, width, height)
        if self._posed is None or self._posed[0] != key:
            self._posed = (
                key,
                [pose_figure(figure, time_s, width, height, self._depth_shade) for figure in self.figures],
            )
        return self._posed[1]

    def _still_parts(self, width: int, height: int) -> tuple[Bytes, Bytes]:
        """The background without light, and the light (128 = unchanged), both uint8 (height, width, 3)."""
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
            draw_thing(canvas, thing, thing.colour)
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
