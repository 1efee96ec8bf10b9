"""Records and replays a board's pose lines (common/pose_lines.py). A record is one JSON object per line: {"t": seconds
since the start, "line": the line as received}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from common.drawing import FAINT_PERCENT
from common.errors import FormatError, UserError
from common.pose_lines import LineSplitter, PoseLine
from common.skeleton import EDGES
from common.transport import Transport


def read_lines(
    transport: Transport, idle_s: float = 10.0, hint: Callable[[str], None] = lambda text: None
) -> Iterator[str]:
    """Lines as they come, until LineLostError. `hint` is called once if nothing comes for `idle_s` seconds."""
    splitter = LineSplitter()
    heard_s = transport.now()
    hinted = False
    while True:
        data = transport.read(0.2)
        if data:
            heard_s = transport.now()
        elif not hinted and transport.now() - heard_s > idle_s:
            hinted = True
            hint(
                'no lines yet; on the board, settings.json needs "repl": true for this port, '
                'or "uart": {} for the pins of UART1'
            )
        yield from splitter.lines(data)


class Recorder:
    """Writes a record line by line, so that nothing recorded is lost if the program ends."""

    def __init__(self, out: TextIO, now: Callable[[], float] = time.monotonic):
        self._out = out
        self._now = now
        self._start_s = now()

    def add(self, line: str) -> None:
        """Write a line to the record as it was received."""
        self._out.write(json.dumps({"t": round(self._now() - self._start_s, 3), "line": line}) + "\n")
        self._out.flush()


def read_record(path: Path) -> list[tuple[float, str]]:
    """(seconds, line) of a record; UserError if it is missing, FormatError if it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; `python -m host_tools monitor --record {path.resolve()}` makes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read as a record: {error}") from None
    entries = []
    for number, row in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(row)
            entries.append((float(entry["t"]), str(entry["line"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise FormatError(f'{path}, line {number}: not {{"t": seconds, "line": text}}; is it a record?') from None
    return entries


def replay(
    entries: list[tuple[float, str]], speed: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """The lines of a record at its own rate times `speed`; 0: all at once."""
    at_s = 0.0
    for t_s, line in entries:
        if speed > 0 and t_s > at_s:
            sleep((t_s - at_s) / speed)
            at_s = t_s
        yield line


def sketch(line: PoseLine, width_px: int, height_px: int, columns: int = 64) -> list[str]:
    """Skeletons in braille dots, 2 × 4 to a character cell; a rough likeness for a terminal."""
    rows = max(4, round(columns * height_px / width_px / 2))
    dots = [[0] * columns for _ in range(rows)]
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

    def put(x: float, y: float) -> None:
        column, row = int(x * columns * 2 / width_px), int(y * rows * 4 / height_px)
        if 0 <= column < 2 * columns and 0 <= row < 4 * rows:
            dots[row // 4][column // 2] |= bits[row % 4][column % 2]

    for pose in line.poses:
        points = pose["keypoints"]
        for i, j in EDGES:
            if max(i, j) < len(points) and min(points[i][2], points[j][2]) >= FAINT_PERCENT:
                steps = min(256, 1 + max(abs(points[i][0] - points[j][0]), abs(points[i][1] - points[j][1])))
                for k in range(steps + 1):
                    put(*(points[i][axis] + (points[j][axis] - points[i][axis]) * k / steps for axis in (0, 1)))
    return ["".join(chr(0x2800 + cell) for cell in row) for row in dots]
