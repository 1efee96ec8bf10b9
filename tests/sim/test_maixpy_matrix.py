"""benchmarks.maixpy_matrix says whether an LCD's picture is upright and has its right colours."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.maixpy_matrix import how_it_lies
from benchmarks.synthetic_kmodel import write_build
from common.pictures import letterbox, save_png
from model_build.build_folder import BuildFolder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lcd: lcd, "upright"),
        (lambda lcd: lcd[:, ::-1], "mirrored"),
        (lambda lcd: lcd[::-1, ::-1], "turned by 180°"),
        (lambda lcd: lcd[..., ::-1], "red and blue exchanged"),
        (lambda lcd: lcd[:, ::-1, ::-1], "mirrored, red and blue exchanged"),
        (lambda lcd: 255 - lcd, "negative"),
        (lambda lcd: lcd * 0, "dark"),
    ],
)
def test_what_is_wrong_with_a_display_is_named(tmp_path, change, words):
    """A photo in the middle of a black 480×320, as each fault would show it."""
    y, x = np.mgrid[0:60, 0:80]
    photo = np.stack([4 * y, 3 * x, 255 - 2 * x], axis=2).astype(np.uint8)
    save_png(photo, tmp_path / "photo.png")
    build = write_build(tmp_path / "build")
    size = BuildFolder(build).load_manifest()
    lcd = np.zeros((320, 480, 3), np.uint8)
    top, left = (320 - size.height) // 2, (480 - size.width) // 2
    lcd[top : top + size.height, left : left + size.width] = letterbox(photo, size.width, size.height)[0]
    assert how_it_lies(change(lcd), tmp_path / "photo.png", build) == words
