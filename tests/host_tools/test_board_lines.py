"""What a board says is not trusted: none of its lines ends a host program or reaches a terminal unchanged."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.cli import guarded
from common.errors import FormatError, UserError
from common.pose_lines import GREATEST, GREATEST_PX, parse_line, poses_in
from common.skeleton import EDGES
from common.text import printable
from host_tools.board_answers import FACTS, REPORT, read_answer
from host_tools.commands.monitor import View, watch_lines
from host_tools.live_page import LivePage
from sim.commands.board import ConsoleText
from tests.support.refusals import unless_refused

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["id", "score", "keypoints", "poses", "x"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
GOOD = {"id": 1, "score": 50, "keypoints": [[1, 2, 99]] * 17}


def line_of(**values) -> str:
    return json.dumps({"seq": 1, "ms": 2, "poses": [], **values}, separators=(",", ":"))


STRANGE = [
    '{"seq":1,"ms":2,"poses":' + "[" * 100_000,
    '{"seq":1,"ms":2,"poses":' + "[" * 3000 + "]" * 3000 + "}",
    '{"seq":1,"ms":2,"poses":' + '{"a":' * 3000 + "1" + "}" * 3000 + "}",
    line_of(poses=[{}]), line_of(poses=[{"id": 1}]), line_of(poses=[GOOD, None]), line_of(poses={"id": 1}),
    line_of(poses=[{**GOOD, "keypoints": 3}]), line_of(poses=[{**GOOD, "keypoints": {}}]),
    line_of(poses=[{**GOOD, "keypoints": [[1, 2]]}]), line_of(poses=[{**GOOD, "keypoints": ["123"]}]),
    line_of(poses=[{**GOOD, "keypoints": [[10**400, 0, 99]] * 17}]),
    line_of(poses=[{**GOOD, "keypoints": [[GREATEST_PX + 1, 0, 99]] * 17}]),
    line_of(poses=[{**GOOD, "keypoints": [[1.5, 0, 99]] * 17}]), line_of(poses=[{**GOOD, "score": 101}]),
    line_of(poses=[{**GOOD, "id": -1}]), line_of(poses=[{**GOOD, "id": True}]), line_of(poses=[{**GOOD, "id": "1"}]),
    line_of(seq=[1]), line_of(seq=None), line_of(ms="2"), line_of(seq=GREATEST + 1), line_of(seq=float("inf")),
    '{"seq":' + "9" * 10_000 + ',"ms":2,"poses":[]}', '{"seq":NaN,"ms":2,"poses":[]}', '{"seq"', '{"seq"}',
]  # fmt: skip


@pytest.mark.parametrize("line", STRANGE, ids=lambda line: line[:40])
def test_a_malformed_pose_line_is_one_kind_of_error(line):
    """Deep nesting, missing fields, numbers for lists and numbers beyond all bounds must not end the monitor."""
    with pytest.raises(FormatError):
        parse_line(line)
    assert poses_in(line) is None


def test_strange_lines_end_no_program():
    """The monitor counts them, its page and the simulated board's console continue, and good lines are still shown."""
    out = io.StringIO()
    page = LivePage("test", EDGES)
    try:
        view = View((320, 240), page, out)
        far = {**GOOD, "keypoints": [[-GREATEST_PX, GREATEST_PX, 100], [GREATEST_PX, -GREATEST_PX, 100]] * 8}
        good = [line_of(poses=[GOOD, far, {**GOOD, "keypoints": []}]), line_of(seq=GREATEST, ms=GREATEST)]
        watch_lines(iter([*STRANGE, *good]), view, None, None)
        assert view.counters.frames == 2 and view.counters.crc_errors == len(STRANGE)
        for data in ("\n".join(STRANGE).encode(), b"\xff\xfe" * 50_000, b"\n" + good[0].encode() + b"\n"):
            page.hear(data)
        assert len(page.state(0)["poses"]) == 3 and page.board.lcd_png().startswith(b"\x89PNG")
        json.dumps(page.state(0), allow_nan=False)
    finally:
        page.close()
    console = ConsoleText(show=False)
    console.take("\n".join([*STRANGE, *good, ""]).encode())
    assert console.pose_lines == 2


@given(st.binary(max_size=400), JSON, JSON, JSON)
@example(b"\xed\xa0\x80", "\ud800", 0, 0)
def test_any_line_is_survived(data, seq, ms, poses):
    """Every reader of lines continues after any bytes and any JSON, and what it keeps is within bounds."""
    line = json.dumps({"seq": seq, "ms": ms, "poses": poses}, separators=(",", ":"))
    console = ConsoleText(show=False)
    for text in (line, data.decode("latin-1"), line_of(poses=poses)):
        found = unless_refused(parse_line, text)
        for pose in found.poses if found else ():
            for x, y, score in pose["keypoints"]:
                assert abs(x) <= GREATEST_PX and abs(y) <= GREATEST_PX and 0 <= score <= 100
        console.take(text.encode("utf-8", "replace") + b"\n" + data)


@given(st.text(max_size=100))
@example("\x1b]0;title\x07\x1b[2J\x9b31m\r\u202e\u2028\ud800\x7f\0")
def test_a_terminal_gets_visible_characters_only(text):
    """A board must not rename a window, clear the screen, change the writing direction or send half a character."""
    shown = printable(text)
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
    assert printable(shown) == shown
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


ESCAPES = "\x1b]0;renamed\x07\x1b[2Jposenet: \x9b31mred\x1b[0m"


def test_escape_sequences_of_a_board_are_shown_not_obeyed(capsys):
    """Errors, remarks, progress, the monitor and the simulated board's console are all the ways to the terminal."""
    from host_tools.board_session import say
    from host_tools.commands.diff import progress_line
    from host_tools.show import Show

    def fails() -> int:
        raise UserError(f"the last text from the board: {ESCAPES}")

    assert guarded(fails) == 1
    say(ESCAPES)
    show = Show()
    show.step(ESCAPES)
    show.detail(ESCAPES)
    show.progress(ESCAPES, 1, 1)
    ConsoleText(show=True).take(ESCAPES.encode("latin-1") + b"\n")
    View((320, 240), None, monitor := io.StringIO()).words(ESCAPES)
    progress_line(monitor)("", ESCAPES)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err, monitor.getvalue()):
        assert "renamed" in text and "\x1b" not in text and "\x07" not in text and "\x9b" not in text


ANSWER = {
    "boot": "a1", "system": "v0.6.2", "network": "demo", "size": [256, 192], "field": [256, 192],
    "map": [16, 12], "channels": [17, 34], "keypoints": ["nose"], "edges": [[0, 1]],
    "kmodel": {"bytes": 1, "crc32": 0xFFFFFFFF}, "threshold": 50, "max_poses": 5,
    "line": {"frames": 1, "errors": 0, "resent": 0}, "baud": 115200,
}  # fmt: skip


@given(st.sampled_from(sorted(FACTS)), JSON)
@example("size", [256])
@example("size", [10**400, 192])
@example("keypoints", ["nose", 1])
@example("line", {"frames": "<script>", "errors": 0, "resent": 0})
def test_an_answer_of_another_form_is_one_error(name, value):
    """target.py's answers are checked in one place: no list for a number and no number out of bounds gets through."""
    assert read_answer(json.dumps(ANSWER).encode(), FACTS)["size"] == [256, 192]
    try:
        found = read_answer(json.dumps({**ANSWER, name: value}).encode(), FACTS)
    except FormatError as error:
        assert f"answer.{name}" in str(error)
    else:
        assert all(type(side) is int and 0 < side < 4096 for side in found["size"]) and len(found["size"]) == 2
        assert all(isinstance(text, str) for text in found["keypoints"])
        assert all(type(count) is int for count in found["line"].values() if name == "line" and count is not value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"us":{}}', b'{"us":[],"poses_bytes":1}',
        b'{"us":{"x":-1},"poses_bytes":1}', b'{"us":{"x":"1"},"poses_bytes":1}', b'{"us":{},"poses_bytes":9999999}',
        b'{"us":{},"poses_bytes":NaN}',
    ],
)  # fmt: skip
def test_a_report_of_another_form_is_one_error(data):
    """The report on times comes from the board too, so damage to it must end in one line."""
    with pytest.raises(FormatError):
        read_answer(data, REPORT)
    assert read_answer(b'{"us":{"x":12},"poses_bytes":8}', REPORT)["us"] == {"x": 12}
