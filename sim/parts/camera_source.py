"""The sources of the simulated camera's pictures: pictures, a folder, a video, a webcam, or the rendered scene."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from common.arrays import Picture
from common.errors import UserError
from common.pictures import PICTURE_SUFFIXES, letterbox, load_picture, pictures_in, turn
from common.videos import VIDEO_SUFFIXES, open_video
from model_build.scene import Scene
from sim.parts.board import Camera

WEBCAM_REMEDIES = {
    "win32": "close other programs that use it, and let desktop apps use the camera (Settings, Privacy, Camera)",
    "darwin": "let your terminal use it (System Settings, Privacy & Security, Camera)",
}
"""sys.platform → the usual reason why no webcam answers there."""
PHOTO = Path(__file__).with_name("astronaut.jpg")
"""A photo of a person that is always available: Eileen Collins, NASA (https://flic.kr/p/r9qvLn), in the public domain;
scikit-image's `data.astronaut()`, reduced in size."""
SCENE_FRAME_S = 0.1
"""The scene's time advances by this much from one camera frame to the next."""


@dataclass
class PicturesCamera:
    """Shows pictures one after another, each for `hold` frames, again and again; they are letterboxed once per size."""

    pictures: Sequence[Picture]
    hold: int = 1
    count: int = 0
    _fitted: dict[tuple[int, int, int], Picture] = field(default_factory=dict)

    def frame(self, width: int, height: int) -> Picture | None:
        """The next frame."""
        if not self.pictures:
            return None
        index = self.count // self.hold % len(self.pictures)
        self.count += 1
        key = (index, width, height)
        if key not in self._fitted:
            self._fitted[key] = letterbox(self.pictures[index], width, height)[0]
        return self._fitted[key]


@dataclass
class FunctionCamera:
    """Frames from a function of frame number, width and height."""

    render: Callable[[int, int, int], Picture | None]
    count: int = 0

    def frame(self, width: int, height: int) -> Picture | None:
        """The next frame."""
        picture = self.render(self.count, width, height)
        self.count += 1
        return picture


class VideoCamera:
    """Frames of a video file (again and again) or of the webcam with this number, by OpenCV, letterboxed."""

    def __init__(self, source: Path | int):
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))

    def frame(self, width: int, height: int) -> Picture | None:
        """The next frame; None if the file gives none at all."""
        for _ in range(2):
            good, picture = self._capture.read()
            if good:
                return letterbox(np.ascontiguousarray(picture[..., ::-1]), width, height)[0]
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        return None


@dataclass
class TurnedCamera:
    """A camera that is mounted turned clockwise by `mount` degrees, seen from behind it."""

    upright: Camera
    mount: int

    def frame(self, width: int, height: int) -> Picture | None:
        """The next frame, in this size and as the turned camera gives it."""
        picture = self.upright.frame(*((height, width) if self.mount % 180 else (width, height)))
        return None if picture is None else turn(picture, self.mount)


def scene_camera(seed: int = 7) -> Camera:
    """The rendered scene of people who move; equal seeds give equal scenes."""
    scene = Scene(seed)
    return FunctionCamera(lambda count, width, height: scene.frame(count * SCENE_FRAME_S, width, height))


def open_camera(source: str | Path | None, hold: int = 1) -> Camera:
    """Camera from `scene`, `scene:SEED`, `photo`, `webcam:N`, a picture, a folder or a video; UserError for anything
    else.

    Each picture of a folder is held for `hold` frames.
    """
    text = str(source) if source is not None else "scene"
    if text == "scene" or text.startswith("scene:"):
        try:
            return scene_camera(int(text.partition(":")[2] or 7))
        except ValueError:
            raise UserError(f"{text}: the scene's seed must be a number, as in scene:7", exit_code=2) from None
    if text == "photo":
        return PicturesCamera([load_picture(PHOTO)])
    if text.startswith("webcam:"):
        return _webcam(text)
    path = Path(text)
    if path.is_dir():
        names = pictures_in(path)
        if not names:
            raise UserError(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}); give another folder")
        return PicturesCamera([load_picture(name) for name in names], hold=hold)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        open_video(path).release()
        return VideoCamera(path)
    return PicturesCamera([load_picture(path)])


def _webcam(text: str) -> Camera:
    number = text.partition(":")[2] or "0"
    if not number.isdigit():
        raise UserError(f"{text}: the webcam's number is missing, as in webcam:0", exit_code=2)
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)  # Otherwise OpenCV would print its own message about a missing camera.
    try:
        camera = VideoCamera(int(number))
        answers = camera.frame(64, 64) is not None
    finally:
        cv2.setLogLevel(level)
    if not answers:
        why = WEBCAM_REMEDIES.get(
            sys.platform, f"look for /dev/video{number} and whether you may read it (group video)"
        )
        raise UserError(f"{text}: no camera answers; {why}; or use scene, a photo or a video")
    return camera


def scene_sources() -> list[str]:
    """The sources that need no file: scenes and webcams. On systems where webcams are not files, the first is
    offered."""
    webcams = [path.name[5:] for path in sorted(Path("/dev").glob("video[0-9]"))]
    if sys.platform in WEBCAM_REMEDIES:
        webcams = ["0"]
    return ["scene:7", "scene:1", "scene:3", "photo"] + [f"webcam:{number}" for number in webcams]
