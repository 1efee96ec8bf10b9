"""Opens video files, or refuses them with the name of the codec that cannot be read here."""

from __future__ import annotations

import re
from pathlib import Path

import cv2

from common.errors import UserError

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
_SEARCHED_BYTES = 4 << 20
"""The codec's name is searched for in this many bytes at a file's beginning and end."""


def open_video(path: Path) -> cv2.VideoCapture:
    """A capture whose next frame is the first; UserError unless at least one frame can be decoded."""
    trial = cv2.VideoCapture(str(path))
    try:
        if trial.isOpened() and trial.grab():
            return cv2.VideoCapture(str(path))
        codec = codec_in_file(path) or _fourcc(trial)
    finally:
        trial.release()
    if codec is None:
        raise UserError(f"{path}: not a video that can be read; give MP4 or AVI, or pictures")
    raise UserError(
        f"{path}: its pictures are in the codec {codec}, which cannot be decoded here; convert it to H.264, for "
        f"example with `ffmpeg -i {path.name} -c:v libx264 -pix_fmt yuv420p out.mp4`"
    )


def codec_in_file(path: Path) -> str | None:
    """The codec that an MP4, MOV, AVI, Matroska or WebM file names for its pictures; None if none is found."""
    try:
        with path.open("rb") as file:
            data = file.read(_SEARCHED_BYTES)
            file.seek(0, 2)
            file.seek(max(_SEARCHED_BYTES, file.tell() - _SEARCHED_BYTES))
            data += file.read(_SEARCHED_BYTES)
    except OSError:
        return None
    for pattern in (
        rb"vmhd.*?stsd.{12}([A-Za-z0-9 ]{4})",  # MP4, MOV: first entry of the sample descriptions of a video track
        rb"strh.{4}vids([\x20-\x7e]{4})",  # AVI: stream header
        rb"\x86[\x84-\x94](V_[A-Z0-9/_]{2,20})",  # Matroska, WebM: CodecID
    ):
        found = re.search(pattern, data, re.DOTALL)
        if found:
            return found[1].decode("ascii").strip()
    return None


def _fourcc(capture: cv2.VideoCapture) -> str | None:
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    text = code.to_bytes(4, "little").decode("latin-1").strip("\0 ")
    return text if len(text) >= 3 and text.isascii() and text.isprintable() else None
