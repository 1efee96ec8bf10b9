"""What the simulated camera looks at: pictures, a folder, a video, a webcam, or the rendered scene."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from sim.boards.devices import Camera, FunctionCamera, PicturesCamera, VideoCamera

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
SCENE_FRAME_S = 0.1
"""Scene time from one camera frame to the next."""


def scene_camera(seed: int = 7) -> Camera:
    """The rendered scene: people who move, the same for the same seed."""
    from model_build.scene import Scene

    scene = Scene(seed)
    return FunctionCamera(lambda count, width, height: scene.frame(count * SCENE_FRAME_S, width, height))


def open_camera(source: str | Path | None, hold: int = 1) -> Camera:
    """Camera from `scene`, `scene:SEED`, `webcam:N`, a picture, a folder of pictures or a video; UserError else.

    Each picture of a folder is held for `hold` frames.
    """
    from common.pictures import load_picture

    text = str(source) if source is not None else "scene"
    if text == "scene" or text.startswith("scene:"):
        try:
            return scene_camera(int(text.partition(":")[2] or 7))
        except ValueError:
            raise UserError(f"{text}: the scene's seed is a number, as in scene:7", exit_code=2) from None
    if text.startswith("webcam:"):
        return _webcam(text)
    path = Path(text)
    if path.is_dir():
        names = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
        if not names:
            raise UserError(f"{path} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}); give another folder")
        return PicturesCamera([load_picture(name) for name in names], hold=hold)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        from common.videos import open_video

        open_video(path).release()
        return VideoCamera(path)
    return PicturesCamera([load_picture(path)])


def _webcam(text: str) -> Camera:
    number = text.partition(":")[2] or "0"
    if not number.isdigit():
        raise UserError(f"{text}: the webcam's number is missing, as in webcam:0", exit_code=2)
    camera = VideoCamera(Path(f"/dev/video{number}"))
    if camera.frame(64, 64) is None:
        raise UserError(f"{text}: no camera answers at /dev/video{number}; use scene, a photo or a video")
    return camera


def scene_sources() -> list[str]:
    """What can be chosen without naming a file: scenes, and webcams that are there."""
    webcams = sorted(Path("/dev").glob("video[0-9]"))
    return ["scene:7", "scene:1", "scene:3"] + [f"webcam:{path.name[5:]}" for path in webcams]
