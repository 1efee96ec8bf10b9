"""The board's framing, applied to pictures: the same policy, with a part of the picture in place of a sensor's window.

The policy itself is firmware/framing.py, in plain integers, the same file that runs on the board.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.firmware_modules import firmware_module
from common.pictures import GREY, Letterbox, letterbox, to_planes
from common.pose import Pose

UNITS = 50
"""The field is divided into this many steps; one is 16 x 12 px of an OV2640's SVGA array."""
LEAST_UNITS = 20
"""The smallest view has this many steps, 320 x 240 px of that array."""
MOST_LOOKS = 6
"""A still picture is looked at this many times at most."""

View = tuple[int, int, int]
Heads = Mapping[str, NDArray[Any]]


@dataclass
class Field:
    """Everything that a camera could see of an upright picture, uint8 (h, w, 3), for a network of width × height px.

    widening: see Manifest.widening.
    digital: views are enlarged from the whole frame, as on a board whose sensor cannot cut and scale. Otherwise they
    are cut from the picture itself, like a sensor's window.
    """

    picture: NDArray[np.uint8]
    width: int
    height: int
    digital: bool = False
    widening: float = 1.0
    whole: NDArray[np.uint8] = field(init=False)
    box: Letterbox = field(init=False)

    def __post_init__(self) -> None:
        self.whole, self.box = letterbox(self.picture, self.width, self.height, widening=self.widening)

    @property
    def field_width(self) -> int:
        """The width of the field to which poses refer, in pixels."""
        return round(self.width * self.widening)

    def frame(self, view: View, units: int = UNITS) -> NDArray[np.uint8]:
        """uint8 (height, width, 3): what the camera shows at a view (left, top, size) in units of the field."""
        left, top, size = view
        if size == units:
            return self.whole
        source = self.whole if self.digital else self.picture
        x_scale, scale = (1.0, 1.0) if self.digital else (self.box.x_scale, self.box.scale)
        shift = (0, 0) if self.digital else (self.box.left_px, self.box.top_px)
        zoom = units / size
        # A point p of the source lies at (p · scale + shift) in the input and zoom times as far from the view's corner.
        matrix = np.array(
            [
                [x_scale * zoom, 0, (shift[0] - left * self.width / units) * zoom],
                [0, scale * zoom, (shift[1] - top * self.height / units) * zoom],
            ]
        )
        matrix[:, 2] += (np.array([x_scale, scale]) * zoom - 1) / 2  # pixel centres at whole numbers
        if scale * zoom < 1:
            # A sensor averages the pixels that it combines.
            source = cv2.GaussianBlur(source, (0, 0), 0.35 / (scale * zoom))  # type: ignore[assignment]
        return cv2.warpAffine(  # type: ignore[return-value]
            source, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY)
        )


@dataclass(frozen=True)
class Looker:
    """A network and its integer decoder, looking at parts of a field."""

    heads: Callable[[NDArray[np.uint8]], Heads]
    decode: Callable[[Heads], list[Pose]]

    def look(self, seen: Field, view: View, framing: Any) -> list[SimpleNamespace]:
        """Poses in field coordinates; `.frame` has the form of firmware/decoder.py's poses."""
        framing.view = view
        poses = []
        for pose in self.decode(self.heads(to_planes(seen.frame(view)))):
            found = SimpleNamespace(frame=firmware_module("array").array("i", [int(v) for v in pose.to_integers()]))
            framing.to_field(found.frame)
            poses.append(found)
        return poses

    def framed(self, seen: Field) -> list[Pose]:
        """Poses of a still picture once the view has settled, in pixels of the picture."""
        framing = firmware_module("framing").Framing(
            seen.field_width, seen.height, UNITS, LEAST_UNITS, settle=1, patience=1, look_ms=1 << 29
        )
        poses = self.look(seen, framing.view, framing)
        for _ in range(MOST_LOOKS):
            if not framing.update(poses, 0):
                break
            closer = self.look(seen, framing.wanted, framing)
            if not closer:
                break  # Somebody who was seen in the whole field counts, even if the near view shows nobody.
            poses = closer
        return in_picture(poses, seen)


def in_picture(poses: Sequence[SimpleNamespace], seen: Field) -> list[Pose]:
    """The poses in pixels of the picture, best first."""
    return sorted((Pose.from_integers(pose.frame).in_source(seen.box) for pose in poses), key=lambda pose: -pose.score)
