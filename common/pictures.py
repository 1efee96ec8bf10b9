"""Pictures: loading them, letterboxing them into a network's input, and mapping results back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import UserError
from common.files import atomic_path

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")
CAMERA_SIZE = (320, 240)
"""Width and height in pixels of the largest frame, QVGA, that MaixPy's camera gives to the KPU."""
GREY = 128
"""The letterbox border has this value, which is the network's zero: its input is (x − 128)/128."""

LARGEST_PX = 100_000_000
"""Larger picture files are refused: no camera gives them, and memory would not hold them."""


def load_picture(path: Path) -> NDArray[np.uint8]:
    """Read any picture file as uint8 (h, w, 3) RGB, turned upright by its EXIF data; UserError if it is not one.

    16-bit grey is scaled to 8 bits; pixels whose value for white is not known (floats, 32-bit integers) are refused.
    """
    try:
        with Image.open(path) as file:
            if file.width * file.height > LARGEST_PX:
                raise UserError(
                    f"{path} unpacks to {file.width}x{file.height} pixels; give one of at most {LARGEST_PX // 10**6} "
                    f"megapixels"
                )
            return np.asarray(_eight_bits(ImageOps.exif_transpose(file), file.format, path).convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        size = path.stat().st_size
        raise UserError(f"{path}: not a picture that can be read ({size} bytes); give a JPEG or PNG") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: damaged or unreadable picture ({error}); give an undamaged JPEG or PNG") from None


def _eight_bits(picture: Image.Image, form: str | None, path: Path) -> Image.Image:
    """The picture in a mode that Pillow converts to RGB proportionally; other modes it would clip to white or black."""
    # Pillow keeps 16-bit grey of PGM, and of PNG before version 11, in 32-bit integers.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and form in ("PPM", "PNG")):
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode in ("F", "I"):
        kind = "floating-point numbers" if picture.mode == "F" else "32-bit integers"
        raise UserError(f"{path}: its pixels are {kind}, whose value for white is not known; save it with 8 or 16 bits")
    return picture


@dataclass(frozen=True)
class Letterbox:
    """Where a source picture lies in the network's input: turned by the mount, scaled, then moved by (left, top).

    Poses are in pixels of the field, which is `widening` times as wide as the input that shows it.
    """

    scale: float
    """One row of the source takes this many rows of the input."""
    x_scale: float
    """One column of the source takes this many columns of the input."""
    left_px: int
    top_px: int
    source_width_px: int
    source_height_px: int
    mount: int = 0
    """Degrees clockwise by which the camera is turned; the source picture is upright."""
    widening: float = 1.0
    """One column of the input shows this many columns of the field."""

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the field to source pixels, pixel centres at whole numbers in both."""
        x = (x / self.widening + 0.5 - self.left_px) / self.x_scale - 0.5
        y = (y + 0.5 - self.top_px) / self.scale - 0.5
        right, bottom = self.source_width_px - 1, self.source_height_px - 1
        return {0: (x, y), 90: (right - y, x), 180: (right - x, bottom - y), 270: (y, bottom - x)}[self.mount]


def turn(picture: NDArray[np.uint8], mount: int) -> NDArray[np.uint8]:
    """What a camera sees of an upright scene when it is turned clockwise by `mount` degrees."""
    return np.ascontiguousarray(np.rot90(picture, mount // 90)) if mount else picture


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def letterbox(
    picture: NDArray[np.uint8], width: int, height: int, mount: int = 0, widening: float = 1.0
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Fit uint8 (h, w, 3) into (height, width, 3), turned as a camera with this mount sees it, aspect kept, on grey
    128.

    Pictures are shrunk by area average and enlarged bilinearly. A picture of exactly this size is taken for a frame and
    returned unchanged. widening: other pictures are squeezed in width by this factor, as sensors do for such a network.
    """
    upright_height, upright_width = picture.shape[:2]
    picture = turn(picture, mount)
    source_height, source_width = picture.shape[:2]
    if (source_width, source_height) == (width, height):
        return picture, Letterbox(1.0, 1.0, 0, 0, upright_width, upright_height, mount, widening)
    scale = min(width * widening / source_width, height / source_height)
    x_scale = scale / widening
    inner_width = min(max(round(source_width * x_scale), 1), width)
    inner_height = min(max(round(source_height * scale), 1), height)
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    if (inner_width, inner_height) == (source_width, source_height):
        inner = picture
    else:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        inner = cv2.resize(picture, (inner_width, inner_height), interpolation=method).astype(np.uint8)
    canvas = np.full((height, width, 3), GREY, dtype=np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = inner
    return canvas, Letterbox(scale, x_scale, left, top, upright_width, upright_height, mount, widening)


def rescaled_width(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """uint8 (h, w, 3) squeezed by area average, or widened bilinearly, to (h, width, 3)."""
    height, width_now = picture.shape[:2]
    if width_now == width:
        return picture
    method = cv2.INTER_AREA if width < width_now else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=method).astype(np.uint8)


def to_planes(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Uint8 (h, w, 3) to contiguous (3, h, w): what the camera writes for the KPU."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 (h, w, 3) RGB, as PNG, compressed quickly rather than well."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture, uint8 (h, w, 3) RGB, as PNG, completely or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
