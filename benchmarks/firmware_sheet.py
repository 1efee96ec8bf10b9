"""Pictures of the firmware on every board profile and in every failure, for the documentation.

python -m benchmarks.firmware_sheet [--out docs/pictures] [--frames 30]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.showcase import FAILURES, profile_names, provoke, show_profile
from common.arrays import Bytes
from common.cli import guarded
from common.files import atomic_path

GAP_PX, TEXT_PX = 12, 22


def main() -> int:
    """Simulate all boards and failures, and write boards.png and failures.png."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), metavar="DIR", help="(docs/pictures)")
    parser.add_argument("--frames", type=int, default=30, metavar="N", help="frames before each picture (30)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boards = []
        for profile in profile_names():
            board, _ = show_profile(profile, folder / profile, args.frames, boxes=True)
            boards.append((profile, board.lcd.image()))
            print(f"{profile}: {board.lcd.size[0]}x{board.lcd.size[1]}, {board.lcd.frames} frames")
        board, _ = show_profile("m5stickv", folder / "crop", args.frames, fit="crop")
        boards.append(('m5stickv, "fit": "crop"', board.lcd.image()))
        failures = []
        for failure in FAILURES:
            _, said, picture = provoke(failure, folder / failure.name)
            if failure.name != "no-lcd":
                failures.append((failure.name, picture))
            print(f"{failure.name}: {'shown' if failure.says in said else 'NOT SHOWN'}")
    for file, pictures, columns in (("boards.png", boards, 3), ("failures.png", failures, 4)):
        _save(sheet(pictures, columns), args.out / file)
        print(args.out / file)
    return 0


def sheet(pictures: list[tuple[str, Bytes]], columns: int) -> Bytes:
    """Pictures in a grid on white, each with its name above: uint8 (h, w, 3)."""
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for _, picture in row) + TEXT_PX + GAP_PX for row in rows]
    width = max(sum(picture.shape[1] + GAP_PX for _, picture in row) for row in rows) + GAP_PX
    canvas = Image.new("RGB", (width, sum(heights) + GAP_PX), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    y = GAP_PX
    for row, height in zip(rows, heights, strict=True):
        x = GAP_PX
        for name, picture in row:
            pen.text((x, y + 4), name, fill=(0, 0, 0))
            canvas.paste(Image.fromarray(picture), (x, y + TEXT_PX))
            x += picture.shape[1] + GAP_PX
        y += height
    return np.asarray(canvas)


def _save(picture: Bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
