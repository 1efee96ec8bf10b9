"""Draws what the decoder reads: heatmaps, short offsets and displacements of one frame, and its poses.

python -m sim run --build DIR PHOTO --tensors TENSORS
python -m benchmarks.decoder_picture --manifest DIR/posenet.json --tensors TENSORS --name PHOTO_STEM --png OUT.png
"""

from __future__ import annotations

import argparse
import colorsys
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.synthetic_heads import dequantize
from common.arrays import Bytes, Floats
from common.cli import guarded
from common.errors import UserError
from common.firmware_modules import firmware_module
from common.pose import Pose
from model_build.network import HEADS
from model_build.reference_decoder import sigmoid

ZOOM = 3
"""One pixel of the network's input is drawn this many pixels wide."""


def keypoint_colour(keypoint: int, count: int) -> tuple[int, int, int]:
    """A different hue for every keypoint."""
    red, green, blue = colorsys.hsv_to_rgb(keypoint / count, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def arrow(draw: ImageDraw.ImageDraw, start: Floats, end: Floats, colour: tuple[int, int, int], width: int = 1) -> None:
    """A line with a dot at its end; the points are in pixels of the network's input."""
    a, b = start * ZOOM, end * ZOOM
    draw.line([*map(float, a), *map(float, b)], fill=colour, width=width)
    draw.ellipse([b[0] - 2, b[1] - 2, b[0] + 2, b[1] + 2], fill=colour)


def panels(manifest: dict[str, Any], heads: list[Bytes], background: Image.Image | None = None) -> Image.Image:
    """Four panels: heatmaps, short offsets, forward displacements and poses. `heads` are uint8 CHW in HEADS order."""
    width, height = manifest["input"]["width"], manifest["input"]["height"]
    stride, count = manifest["output_stride"], len(manifest["keypoints"])
    heatmap, offset, forward, _ = dequantize(manifest, heads)
    scores = sigmoid(heatmap)
    size = (width * ZOOM, height * ZOOM)
    base = background.convert("RGB").resize(size) if background else Image.new("RGB", size)
    base = Image.blend(base, Image.new("RGB", size), 0.6)
    pictures = [_with_glow(base, scores, stride)] + [base.copy() for _ in range(3)]
    offsets, displacements, poses = (ImageDraw.Draw(picture) for picture in pictures[1:])
    for k, y, x in np.argwhere(scores >= 0.5):
        cell = np.array([x, y], dtype=np.float64) * stride
        target = cell + (offset[count + k, y, x], offset[k, y, x])
        arrow(offsets, cell, target, keypoint_colour(k, count))
    decoder = firmware_module("decoder").Decoder(manifest)
    for pose in decoder.multi([head.tobytes() for head in heads]):
        points = Pose.from_integers(pose).keypoints
        for e, (parent, child) in enumerate(manifest["edges"]):
            nearest = np.floor(points[parent] / stride + 0.5).astype(int)
            column, row = np.clip(nearest, 0, (scores.shape[2] - 1, scores.shape[1] - 1))
            vector = np.array([forward[len(manifest["edges"]) + e, row, column], forward[e, row, column]])
            arrow(displacements, points[parent], points[parent] + vector, keypoint_colour(child, count), 2)
            arrow(poses, points[parent], points[child], keypoint_colour(child, count), 3)
    return _sheet(pictures)


def _with_glow(base: Image.Image, scores: Floats, stride: int) -> Image.Image:
    """Each cell is a square around its centre, which lies at cell · stride; the best keypoint gives the colour."""
    count, rows, columns = scores.shape
    glow = np.zeros((rows, columns, 3))
    for k in range(count):
        glow = np.maximum(glow, scores[k][:, :, None] * np.array(keypoint_colour(k, count)))
    side = stride * ZOOM
    cells = Image.fromarray(glow.astype(np.uint8)).resize((columns * side, rows * side), Image.Resampling.NEAREST)
    shifted = Image.new("RGB", base.size)
    shifted.paste(cells, (-side // 2, -side // 2))
    return Image.fromarray(np.maximum(np.asarray(base), np.asarray(shifted)))


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width + 6, 2 * height + 6 + 40), "white")
    draw = ImageDraw.Draw(sheet)
    titles = (
        "heatmaps: score of every cell", "short offsets: cell to keypoint, score >= 0.5",
        "displacements fwd: keypoint to child", "poses, after 2 refinements",
    )  # fmt: skip
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        x, y = i % 2 * (width + 6), i // 2 * (height + 26)
        draw.text((x + 6, y + 4), title, fill="black")
        sheet.paste(picture, (x, y + 20))
    return sheet


def main() -> int:
    """Draw what the decoder reads in one frame."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="posenet.json of the build")
    parser.add_argument("--tensors", type=Path, required=True, help="folder that `python -m sim run --tensors` wrote")
    parser.add_argument("--name", required=True, help="the picture's name there, without ending")
    parser.add_argument("--photo", action="store_true", help="draw over the input picture rather than black")
    parser.add_argument("--png", type=Path, required=True)
    args = parser.parse_args()
    try:
        manifest = json.loads(args.manifest.read_text(encoding="utf-8"))
        heads = [np.load(args.tensors / f"{args.name}.{head}.npy") for head in HEADS]
        photo = None
        if args.photo:
            photo = Image.fromarray(np.load(args.tensors / f"{args.name}.input.npy").transpose(1, 2, 0))
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; `python -m sim run --tensors` writes these files") from None
    panels(manifest, heads, photo).save(args.png)
    print(args.png)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
