"""Pose lines are counted rightly whatever is lost, records can be replayed, and captures repeat bit for bit."""

from __future__ import annotations

import io
import json
import urllib.error
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.cli import dispatch
from common.errors import FormatError
from common.pose_lines import LineCounters, PoseLine, parse_line
from common.skeleton import EDGES
from host_tools.__main__ import COMMANDS
from host_tools.live_page import LivePage
from host_tools.monitor import read_lines, read_record, replay, sketch
from tests.support.board_web import get
from tests.support.quiet_line import QuietLine
from tests.support.refusals import unless_refused


def text_of(seq, ms=0, poses=(), crc=True):
    line = json.dumps({"seq": seq, "ms": ms, "poses": list(poses)}, separators=(",", ":"))
    return f"{line}*{zlib.crc32(line.encode()):08x}" if crc else line


def run(*words):
    return dispatch("python -m host_tools", "", COMMANDS, [str(word) for word in words])


def test_the_boards_own_lines_are_read():
    """The host's parser must read what firmware/lines.py writes, with and without a CRC."""
    from types import SimpleNamespace

    from common.firmware_modules import firmware_module

    points = [v for k in range(17) for v in (k * 256, k * 512 + 128, 32767)]
    pose = SimpleNamespace(id=2, score=91, data=[30000, *points])
    for crc in (True, False):
        line = firmware_module("lines").format_line(7, 1234, [pose], 118, crc)
        found = parse_line(line + "\r\n")
        assert found is not None
        assert (found.seq, found.board_ms, found.latency_ms, found.checked) == (7, 1234, 118, crc)
        assert found.poses[0]["keypoints"][3] == [3, 7, 99] and found.poses[0]["id"] == 2


@given(st.text(max_size=200))
def test_any_text_is_no_pose_line_or_a_format_error(text):
    """A console says anything, and nothing but a FormatError may come out."""
    for line in (text, '{"seq"' + text, '{"seq":1,"ms":2,"poses":' + text + "}"):
        found = unless_refused(parse_line, line)
        assert found is None or isinstance(found, PoseLine)


@given(st.data())
def test_a_changed_byte_is_noticed(data):
    """A damaged line must never be shown as a pose; the CRC-32 at its end prevents that."""
    good = text_of(12, 34, [{"id": 1, "score": 50, "keypoints": [[1, 2, 3]]}])
    at = data.draw(st.integers(0, len(good) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != good[at]))
    damaged = good[:at] + letter + good[at + 1 :]
    found = unless_refused(parse_line, damaged)
    # A change in the first characters makes it a line of another kind. Capital letters in the CRC change nothing.
    assert found is None or damaged.lower() == good.lower()


def test_counters_count_gaps_restarts_and_speed():
    """Frames 1, 2 and 5 at 100 ms each, then a board that restarted, with counts known by hand."""
    counters = LineCounters()
    for seq, ms in ((1, 1000), (2, 1100), (5, 1400)):
        counters.take(PoseLine(seq, ms, (), True))
    assert (counters.frames, counters.dropped, counters.restarts) == (3, 2, 0)
    assert counters.fps == pytest.approx(5.0)
    counters.take(PoseLine(1, 900, (), True))
    assert (counters.dropped, counters.restarts, counters.fps) == (2, 1, 0.0)


class Pieces(QuietLine):
    """A line that gives these pieces and then goes away."""

    def __init__(self, pieces):
        super().__init__()
        self.pieces = list(pieces)

    def read(self, timeout_s):
        from common.transport import LineLostError

        self.time_s += timeout_s
        if not self.pieces:
            raise LineLostError("test", "unplugged")
        return self.pieces.pop(0)


def test_lines_come_whole_however_they_are_cut():
    """Reads end anywhere in a line. If nothing comes there is a hint, and an error when the cable is unplugged."""
    hints: list[str] = []
    pieces = [b"on", b"e\r\ntw", b"o\nthree\n", *[b""] * 60, b"four\n"]
    found = []
    with pytest.raises(Exception, match="went away"):
        for line in read_lines(Pieces(pieces), hint=hints.append):
            found.append(line)
    assert found == ["one", "two", "three", "four"]
    assert len(hints) == 1 and '"repl": true' in hints[0]


def test_a_record_replays_at_its_own_pace(tmp_path):
    """Speed 2 halves the pauses, and a file that is no record is named with the line that is wrong."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": 0.5, "line": "a"}\n{"t": 2.5, "line": "b"}\n')
    pauses: list[float] = []
    assert list(replay(read_record(path), 2, pauses.append)) == ["a", "b"]
    assert pauses == [0.25, 1.0]
    path.write_text('{"t": 0.5, "line": "a"}\nnonsense\n')
    with pytest.raises(FormatError, match="line 2"):
        read_record(path)


def test_monitor_records_a_board_and_replays_it(build, tmp_path, capsys):
    """Five frames of a simulated board are shown and recorded, and the file shows the same five again."""
    record = tmp_path / "record.jsonl"
    assert run("monitor", "--board", "sim", "--build", build, "--frames", 5, "--record", record) == 0
    live = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seq ")]
    assert len(live) == 5 and all("dropped 0" in line for line in live)
    assert run("monitor", "--replay", record, "--speed", 0) == 0
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seq ")]
    assert again == live


def test_a_capture_repeats_in_the_simulator_bit_for_bit(build, tmp_path):
    """`sim run` on the picture that the KPU saw must give the board's own heads to the last bit."""
    from sim.__main__ import COMMANDS as SIM_COMMANDS

    out, again = tmp_path / "capture", tmp_path / "again"
    assert run("capture", "--board", "sim", "--build", build, "--out", out, "--frames", 2) == 0
    words = ["run", "--build", build, out / "frame-0001.png", out / "frame-0002.png", "--tensors", again]
    assert dispatch("python -m sim", "", SIM_COMMANDS, [str(word) for word in words]) == 0
    for name in ("input", "heatmap", "short_offset", "displacement_fwd", "displacement_bwd"):
        for frame in ("frame-0001", "frame-0002"):
            board, host = np.load(out / f"{frame}.{name}.npy"), np.load(again / f"{frame}.{name}.npy")
            assert board.dtype == host.dtype == np.uint8
            np.testing.assert_array_equal(board, host)
    assert json.loads((out / "frame-0001.json").read_text())["network"] == "small"


def test_sketch_puts_a_limb_where_it_is():
    """A line between shoulders in the top left quarter sets dots there and nowhere else."""
    points = [[0, 0, 0]] * 5 + [[10, 10, 90], [0, 0, 0], [70, 50, 90]] + [[0, 0, 0]] * 9
    rows = sketch(PoseLine(1, 0, ({"id": 1, "score": 90, "keypoints": points},), True), 160, 120, 40)
    inked = [(x, y) for y, row in enumerate(rows) for x, letter in enumerate(row) if letter != "\u2800"]
    assert inked and all(x < 20 and y < len(rows) / 2 for x, y in inked)


def test_page_shows_the_newest_frame():
    """The monitor feeds the simulator's own page: figures, new words only, and the skeleton in its place."""
    page = LivePage("test", EDGES)
    try:
        points = [[0, 0, 0]] * 5 + [[10, 20, 90], [50, 20, 90]] + [[0, 0, 0]] * 10
        page.show((64, 48), [{"id": 1, "score": 90, "keypoints": points}], {"fps": 5, "dropped": 2})
        page.say("hello")
        assert b"/page.js" in get(page, "")
        state = json.loads(get(page, "state?from=0"))
        assert state["figures"]["rows"] == [["fps", "5"], ["dropped", "2"]]
        assert state["console"] == "hello\n" and state["lcd"] == 1
        assert json.loads(get(page, f"state?from={state['end']}"))["console"] == ""
        picture = np.array(Image.open(io.BytesIO(get(page, "lcd.png"))))
        assert picture.shape == (96, 128, 3)
        assert picture[41, 21].tolist() == [255, 255, 255] and picture[5, 100].tolist() == [0, 0, 0]
        with pytest.raises(urllib.error.HTTPError):
            get(page, "../secret")
    finally:
        page.close()
