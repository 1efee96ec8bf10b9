"""The pictures on which quantization measures its ranges."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.arrays import Bytes
from common.errors import UserError
from common.pictures import CAMERA_SIZE, PICTURE_SUFFIXES, letterbox, load_picture, pictures_in, rescaled_width, turn
from model_build.scene import Scene

SCENE_COUNT = 12
MAX_PICTURES = 64
MAX_VIEWS = 12


@dataclass(frozen=True)
class CalibrationSet:
    """Pictures in a fixed order, in their original sizes."""

    pictures: tuple[Bytes, ...]
    names: tuple[str, ...]
    origin: str
    """One line for people: what the pictures are."""

    def at(self, width: int, height: int, mount: int = 0, field_width: int = 0) -> Bytes:
        """uint8 (N, height, width, 3): each picture letterboxed as a camera with this mount sees it.

        field_width: as in Manifest.
        """
        widening = (field_width or width) / width
        return np.stack([letterbox(picture, width, height, mount, widening)[0] for picture in self.pictures])

    def views(
        self, width: int, height: int, mount: int = 0, most: int = MAX_VIEWS, field_width: int = 0
    ) -> list[Bytes]:
        """uint8 (height, width, 3) each: pictures unchanged, mirrored, darker, and mirrored and brighter, in turn.

        A few photos drive only few channels to their full range; the same photos mirrored and in other light drive more
        of them. If there are more than `most` pictures, an even selection is used; fewer are repeated in another form.
        """
        # Pictures are mirrored left to right before the camera's mount turns left and right into up and down.
        field = field_width or width, height
        pictures = self.at(*(field[::-1] if mount % 180 else field))
        count = min(most, 4 * len(pictures))
        views = []
        for index in range(count):
            again, place = divmod(index, len(pictures))
            picture = pictures[place if count > len(pictures) else index * len(pictures) // count]
            form = (index + again) % 4
            if form % 2:
                picture = picture[:, ::-1]
            if form == 2:
                picture = picture * 0.6
            elif form == 3:
                picture = np.clip(picture * 1.3 + 10, 0, 255)
            views.append(rescaled_width(np.ascontiguousarray(turn(picture, mount), np.uint8), width))
        return views


def choose(folder: Path | None = None) -> CalibrationSet:
    """The photos in `folder`, or those in MAIX_POSENET_DATA/photos, or rendered scenes: the first of these that there
    are."""
    if folder is not None:
        return from_folder(folder)
    data = os.environ.get("MAIX_POSENET_DATA")
    if data and (Path(data) / "photos").is_dir():
        return from_folder(Path(data) / "photos")
    return rendered()


def from_folder(folder: Path) -> CalibrationSet:
    """All pictures in a folder, in the order of their names; UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --calibration takes a folder of photos", exit_code=2)
    paths = pictures_in(folder)
    if not paths:
        kinds = ", ".join(PICTURE_SUFFIXES)
        raise UserError(f"{folder} holds no pictures ({kinds}); give a folder with 5 to 30 photos")
    # Calibration takes up to a second per picture, so a large collection is sampled evenly.
    step = -(-len(paths) // MAX_PICTURES)
    paths = paths[::step]
    return CalibrationSet(
        pictures=tuple(load_picture(path) for path in paths),
        names=tuple(path.name for path in paths),
        origin=f"{len(paths)} photo{'s' if len(paths) > 1 else ''} of {folder}",
    )


def rendered(count: int = SCENE_COUNT) -> CalibrationSet:
    """Rendered scenes with people: always available, but less like a camera's pictures than photos are."""
    pictures = [Scene(seed).frame(1.7 * seed, *CAMERA_SIZE) for seed in range(count)]
    return CalibrationSet(
        pictures=tuple(pictures),
        names=tuple(f"scene {seed}" for seed in range(count)),
        origin=f"{count} rendered scenes (photos from your camera's place are better: --calibration DIR)",
    )
