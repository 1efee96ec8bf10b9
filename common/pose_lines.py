"""Pose lines of a board: what firmware/lines.py sends. The text is not trusted.

A line is {"seq":…,"ms":…,"latency":…,"poses":[{"id":…,"score":…,"keypoints":[[x, y, score],…]}]}, on UART1 with '*' and
the CRC-32 (eight hex digits) of all before it.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from common.errors import FormatError

LONGEST_LINE_BYTES = 16_384
GREATEST = (1 << 31) - 1
GREATEST_PX = 32_767


@dataclass(frozen=True)
class PoseLine:
    """One frame's poses: keypoints [x px, y px, score percent] in the order of posenet.json."""

    seq: int
    board_ms: int
    poses: tuple[dict[str, Any], ...]
    checked: bool
    latency_ms: int | None = None
    """The previous picture took at most this long from light to LCD; None if the board does not tell."""


FPS_WINDOW_MS = 1000


@dataclass
class LineCounters:
    """Counts lines that arrived and frames that did not, all by the board's clock; docs/firmware.md explains each
    figure."""

    frames: int = 0
    dropped: int = 0
    crc_errors: int = 0
    restarts: int = 0
    last: PoseLine | None = None
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=1000))

    def take(self, line: PoseLine) -> None:
        """Count a valid line; a gap in the numbers means dropped frames, a step back means a restarted board."""
        if self.last is not None:
            step = line.seq - self.last.seq
            if step <= 0:
                self.restarts += 1
                self._recent.clear()
            else:
                self.dropped += step - 1
        self.frames += 1
        self.last = line
        self._recent.append(line.board_ms)
        while line.board_ms - self._recent[0] > FPS_WINDOW_MS:
            self._recent.popleft()

    @property
    def fps(self) -> float:
        """Frames per second by the board's clock."""
        span_ms = self._recent[-1] - self._recent[0] if len(self._recent) > 1 else 0
        return 1000 * (len(self._recent) - 1) / span_ms if span_ms > 0 else 0.0

    @property
    def latency_ms(self) -> int | None:
        """The latency that the newest line tells, in ms; None if it tells none."""
        return self.last.latency_ms if self.last else None


class LineSplitter:
    """Makes lines of bytes as they arrive. Of what ends no line it keeps the last LONGEST_LINE_BYTES."""

    def __init__(self) -> None:
        self.rest = b""

    def lines(self, data: bytes) -> list[str]:
        """The lines that end in `data`, without their ends."""
        *whole, rest = (self.rest + data).split(b"\n")
        self.rest = rest[-LONGEST_LINE_BYTES:]
        return [line.decode("utf-8", "replace").rstrip("\r") for line in whole]


def parse_line(line: str) -> PoseLine | None:
    """A pose line; None if it is something else; FormatError if it is a damaged pose line.

    All numbers in the result are integers in the ranges that the firmware can produce.
    """
    text, star, crc = line.strip().rpartition("*")
    if not star:
        text = line.strip()
    if not text.startswith('{"seq"'):
        return None
    if star and crc.lower() != f"{zlib.crc32(text.encode('utf-8', 'replace')):08x}":
        raise FormatError("a pose line's CRC does not match")
    if len(text) > LONGEST_LINE_BYTES:
        raise FormatError(f"a pose line has {len(text)} characters; the firmware's have at most {LONGEST_LINE_BYTES}")
    try:
        data = json.loads(text)
        poses = tuple(_pose(pose) for pose in _list(data["poses"]))
        latency_ms = _number(data["latency"], 0) if "latency" in data else None
        return PoseLine(_number(data["seq"], 0), _number(data["ms"], 0), poses, bool(star), latency_ms)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"a pose line cannot be read: {error}") from None


def poses_in(line: str) -> list[dict[str, Any]] | None:
    """Poses of a pose line; None for a damaged one and for any other line."""
    try:
        found = parse_line(line)
    except FormatError:
        return None
    return None if found is None else list(found.poses)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


def _number(value: Any, least: int, greatest: int = GREATEST) -> int:
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} instead of an integer")
    if not least <= value <= greatest:
        raise ValueError(f"a number outside {least}…{greatest}")
    return value


def _pose(pose: Any) -> dict[str, Any]:
    points = []
    for point in _list(pose["keypoints"]):
        x, y, score = _list(point)
        points.append([*(_number(at, -GREATEST_PX, GREATEST_PX) for at in (x, y)), _number(score, 0, 100)])
    return {"id": _number(pose["id"], 0), "score": _number(pose["score"], 0, 100), "keypoints": points}
