"""Shows live poses from a board in the terminal or on a local web page, records them, and replays a record."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import parse_size, positive, tcp_port
from common.errors import FormatError
from common.pictures import CAMERA_SIZE, png, rescaled_width
from common.pose_lines import GREATEST_PX, LineCounters, PoseLine, parse_line
from common.skeleton import EDGES
from common.text import printable
from common.transport import CONSOLE_BAUD
from host_tools.board_link import protocol
from host_tools.board_session import add_board_arguments, open_board, open_transport, say
from host_tools.diff import unpack_poses
from host_tools.live_page import LivePage
from host_tools.monitor import Recorder, read_lines, read_record, replay, sketch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `host_tools monitor`."""
    add_board_arguments(parser)
    parser.add_argument("--build", type=Path, metavar="DIR", help="build folder for --board sim")
    parser.add_argument("--pictures", action="store_true", help="fetch each frame's picture too, over the link (slow)")
    parser.add_argument(
        "--line-baud", type=int, default=CONSOLE_BAUD, help="rate of the pose lines (default %(default)s)"
    )
    parser.add_argument(
        "--size", default="{}x{}".format(*CAMERA_SIZE), metavar="WxH", help="size of the field (default: %(default)s)"
    )
    parser.add_argument("--web", type=tcp_port, metavar="PORT", nargs="?", const=0, help="show a local web page")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep all lines, for --replay")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="show a record instead of a board")
    parser.add_argument("--speed", type=float, default=1.0, help="speed of the replay; 0: all at once (default: 1)")
    parser.add_argument("--frames", type=positive, metavar="N", help="end after N frames")


def run(arguments: argparse.Namespace) -> int:
    """Show until Ctrl-C, the end of the record, or --frames."""
    size = parse_size(arguments.size)
    with contextlib.ExitStack() as stack:
        page = None
        if arguments.web is not None:
            baud = arguments.baud if arguments.pictures else arguments.line_baud
            page = LivePage("PoseNet on the board", EDGES, arguments.web, baud)
            stack.callback(page.close)
            say(f"web page: {page.url}")
        view = View(size, page, sys.stdout)
        recorder = None
        if arguments.record:
            arguments.record.parent.mkdir(parents=True, exist_ok=True)
            recorder = Recorder(stack.enter_context(arguments.record.open("w", encoding="utf-8")))
        if arguments.pictures and not arguments.replay:
            watch_pictures(arguments, view, recorder)
        else:
            watch_lines(_lines(arguments, stack), view, recorder, arguments.frames)
        view.end()
    return 0


def _lines(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[str]:
    if arguments.replay:
        yield from replay(read_record(arguments.replay), arguments.speed)
        return
    transport = stack.enter_context(open_transport(arguments, arguments.build, live=True))
    transport.set_baud(arguments.line_baud)
    yield from read_lines(transport, hint=say)


def watch_lines(lines: Iterator[str], view: View, recorder: Recorder | None, frames: int | None) -> None:
    """Count, show and record pose lines; other lines are shown as the board's text."""
    for line in lines:
        if recorder:
            recorder.add(line)
        try:
            found = parse_line(line)
        except FormatError:
            view.counters.crc_errors += 1
            continue
        if found is None:
            view.words(line)
            continue
        view.counters.take(found)
        view.show(found)
        if frames is not None and view.counters.frames >= frames:
            return


def watch_pictures(arguments: argparse.Namespace, view: View, recorder: Recorder | None) -> None:
    """Show frame by frame over the link: poses with the picture in which they were found."""
    with open_board(arguments, arguments.build) as link:
        width, height = link.board["size"]
        view.size = tuple(link.board["field"])
        start_s = time.monotonic()
        for number in range(1, (arguments.frames or sys.maxsize) + 1):
            report = link.run(["camera", "poses"])
            data = link.get(protocol.PLANES, 3 * width * height)
            multi, _ = unpack_poses(link.get(protocol.POSES, report["poses_bytes"]), len(link.board["keypoints"]))
            planes = np.frombuffer(data, np.uint8).reshape(3, height, width)
            picture = png(rescaled_width(np.ascontiguousarray(planes.transpose(1, 2, 0)), view.size[0]))
            found = PoseLine(number, int(1000 * (time.monotonic() - start_s)), tuple(_from_integers(multi)), True)
            if recorder:
                recorder.add(line_text(found))
            view.counters.crc_errors = link.line_figures()["errors"]
            view.counters.take(found)
            view.show(found, picture)


def _from_integers(poses: Any) -> Iterator[dict[str, Any]]:
    """The decoder's integers in the form of firmware/lines.py."""
    for number, pose in enumerate(poses.tolist(), 1):
        triples = (pose[i : i + 3] for i in range(1, len(pose), 3))
        points = [[_pixel(x), _pixel(y), score * 100 >> 15] for x, y, score in triples]
        yield {"id": number, "score": pose[0] * 100 >> 15, "keypoints": points}


def _pixel(value_q8: int) -> int:
    return min(max((value_q8 + 128) >> 8, -GREATEST_PX), GREATEST_PX)


def line_text(line: PoseLine) -> str:
    """A pose line as the board would have sent it."""
    poses = [dict(pose) for pose in line.poses]
    latency = {} if line.latency_ms is None else {"latency": line.latency_ms}
    facts = {"seq": line.seq, "ms": line.board_ms, **latency, "poses": poses}
    return json.dumps(facts, separators=(",", ":"))


class View:
    """Shows frames. On a terminal the sketch is redrawn in place; in a pipe there is one line per frame."""

    def __init__(self, size: tuple[int, int], page: LivePage | None, out: Any):
        self.size = size
        self.page = page
        self.out = out
        self.counters = LineCounters()
        self._drawn_lines = 0

    def figures(self) -> dict[str, Any]:
        """The counters that are shown."""
        counters = self.counters
        return {
            "fps": round(counters.fps, 1),
            "latency ms": "–" if counters.latency_ms is None else counters.latency_ms,
            "people": len(counters.last.poses) if counters.last else 0,
            "frames": counters.frames,
            "dropped": counters.dropped,
            "CRC errors": counters.crc_errors,
            "restarts": counters.restarts,
        }

    def show(self, line: PoseLine, picture: bytes | None = None) -> None:
        """Show one frame."""
        figures = "  ".join(f"{name} {value}" for name, value in self.figures().items())
        if self.out.isatty():
            rows = [figures, *sketch(line, *self.size)]
            up = f"\x1b[{self._drawn_lines}A" if self._drawn_lines else ""
            self.out.write(up + "".join(f"\x1b[K{row}\n" for row in rows))
            self._drawn_lines = len(rows)
        else:
            scores = " ".join(f"#{pose['id']} {pose['score']} %" for pose in line.poses)
            self.out.write(f"seq {line.seq}  {figures}  {scores}\n")
        self.out.flush()
        if self.page:
            self.page.show(self.size, line.poses, self.figures(), picture)

    def words(self, line: str) -> None:
        """Show a line of the board that is not a pose line."""
        if line.strip():
            if self.page:
                self.page.say(line)
            if not self.out.isatty():
                self.out.write(f"board: {printable(line)}\n")

    def end(self) -> None:
        """Print a last line that sums up."""
        self.out.write("  ".join(f"{name} {value}" for name, value in self.figures().items()) + "\n")
