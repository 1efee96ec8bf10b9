"""The rendered scene as a video file that Chromium takes for its camera (.y4m, frames of I420).

python -m benchmarks.scene_video OUT.y4m [--seed 7] [--seconds 10] [--size 640x480]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2

from common.cli import guarded, parse_size
from common.files import atomic_path
from model_build.scene import Scene

FRAMES_PER_SECOND = 20


def write(path: Path, seed: int, seconds: float, size: tuple[int, int]) -> None:
    """Render the scene of `seed` into `path`."""
    scene = Scene(seed)
    width, height = size
    with atomic_path(path) as temporary, temporary.open("wb") as out:
        out.write(f"YUV4MPEG2 W{width} H{height} F{FRAMES_PER_SECOND}:1 Ip A1:1 C420jpeg\n".encode())
        for number in range(round(seconds * FRAMES_PER_SECOND)):
            picture = scene.frame(number / FRAMES_PER_SECOND, width, height)
            out.write(b"FRAME\n" + cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--size", default="640x480")
    arguments = parser.parse_args(argv)
    write(arguments.out, arguments.seed, arguments.seconds, parse_size(arguments.size))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
