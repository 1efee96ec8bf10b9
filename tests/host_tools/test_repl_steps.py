"""Single steps of the way to a board, on a line that nobody answers: how often, how long, and when it is given up."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from common.errors import UserError
from common.flash_parts import FlashPart
from common.wiring import WIRINGS
from host_tools import flashing, m5stickv
from host_tools.flashing import Flasher, Ui, Wanted
from host_tools.known_boards import ANY_BOARD, BOARDS
from host_tools.repl import BoardInfo, BoardRaisedError, RawRepl, ReplError
from tests.support.quiet_line import QuietLine

INFO = BoardInfo("v0.6.3-2", "Sipeed_M1", True, True, "/flash", (), 100_000, 0x100000)


def script(monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> tuple[RawRepl, list[str]]:
    """A REPL whose code has these outcomes in turn, the last one for ever: an error, or what makes the output of the
    question's number; and the code that it was given."""
    repl, asked = RawRepl(QuietLine()), []
    coming: Iterator[Any] = iter(outcomes)
    last = outcomes[-1]

    def execute(source: str, timeout_s: float) -> str:
        asked.append(source)
        if not source.startswith("_q("):
            return ""
        outcome = next(coming, last)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome(int(source.split(",")[0].removeprefix("_q("))))

    monkeypatch.setattr(repl, "_execute", execute)
    monkeypatch.setattr(repl, "_recover", lambda: asked.append("recover"))
    return repl, asked


def answer(text: str, length: int = 0, crc: int = 0) -> Callable[[int], str]:
    """An answer that is too long by `length` and whose CRC-32 is wrong by `crc`."""
    return lambda number: f"<# {number} {len(text) + length} {zlib.crc32(text.encode()) + crc} {text} #>"


def test_a_question_is_asked_six_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the line or the answers: out of step, another length, another CRC, no value, another
    question's answer."""
    for wrong in (answer("5", length=1), answer("5", crc=1), answer("f("), lambda number: answer("5")(number - 1)):
        repl, asked = script(monkeypatch, wrong)
        with pytest.raises(ReplError, match="^no good answer in 6 tries$"):
            repl.ask("_r = 5")
        assert len(asked) == 6 and len(set(asked)) == 6, "each with a number of its own"
    repl, asked = script(monkeypatch, ReplError("no OK"))
    with pytest.raises(ReplError, match="^no good answer in 6 tries$"):
        repl.ask("_r = 5")
    assert len(asked) == 12 and asked[1::2] == ["recover"] * 6
    repl, asked = script(monkeypatch, *[ReplError("no OK")] * 5, answer("(5, 'x')"))
    assert repl.ask("_r = 5, 'x'") == (5, "x")


def test_an_error_counts_when_the_board_says_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it may be damage on the line. Where it says another thing each time, the last is told."""
    one, other = BoardRaisedError("OSError: 1"), BoardRaisedError("OSError: 2")
    repl, asked = script(monkeypatch, one, answer("5"))
    assert repl.ask("_r = 5") == 5 and len(asked) == 2
    repl, asked = script(monkeypatch, one, other, other)
    with pytest.raises(BoardRaisedError, match="OSError: 2"):
        repl.ask("_r = 5")
    assert len(asked) == 3
    repl, asked = script(monkeypatch, *[one, other] * 3)
    with pytest.raises(ReplError, match="^OSError: 2$"):
        repl.ask("_r = 5")
    assert len(asked) == 6
    lost = BoardRaisedError("NameError: name '_q' isn't defined")
    repl, asked = script(monkeypatch, lost, answer("5"))
    assert repl.ask("_r = 5") == 5 and "def _q" in asked[1], "the prelude is sent again"


def test_ctrl_c_is_sent_for_four_seconds_while_something_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 0.125 s on this line; after 1.5 s of silence there is no MaixPy. Then three tries for
    the prompt."""

    class Line(QuietLine):
        def read(self, timeout_s: float) -> bytes:
            self.time_s += 0.0625
            return b"." if self.noisy else b""

        noisy = True

    line = Line()
    repl = RawRepl(line)
    tried: list[int] = []

    def try_enter(tries: int) -> bool:
        tried.append(tries)
        return True

    monkeypatch.setattr(repl, "try_enter", try_enter)
    assert repl.enter_after_reset() and repl.heard
    assert (line.written, line.time_s, tried) == (b"\x03" * 32, 4.0, [3])
    line.noisy, line.time_s, line.written = False, 0.0, b""
    assert not repl.enter_after_reset() and not repl.heard
    assert (line.written, line.time_s, tried) == (b"\x03" * 13, 1.625, [3])


def test_the_raw_prompt_is_looked_for_as_often_as_is_said() -> None:
    """Two Ctrl-C apart and a Ctrl-A, then 0.6 s for the banner."""
    line = QuietLine()
    assert not RawRepl(line).try_enter(2)
    assert line.written == b"\r\x03\x03\x01" * 2 and line.time_s == pytest.approx(2 * 0.7)
    line = QuietLine()
    assert not RawRepl(line).try_enter()
    assert line.written.count(b"\x01") == 6


def test_the_smallest_heap_and_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 bytes are enough. A heap above 512 KiB is refused where the network would fit without it."""
    flasher = Flasher(QuietLine())
    for sizes, says in (
        ((200_000, 0), None), ((199_999, 10), "has 199999 bytes, too small"), ((512 << 10, 0), None),
        (((512 << 10) + 1, 9), "leaves 9 where the network needs 10"), (((512 << 10) + 1, 10), None),
        (((512 << 10) + 1, -1), None), (((512 << 10) + 1, 0), "leaves 0 where"),
    ):  # fmt: skip
        monkeypatch.setattr(flasher.repl, "ask", lambda source, timeout_s=5.0, sizes=sizes: sizes)
        if says is None:
            flasher.check_heap(10)
        else:
            with pytest.raises(UserError, match=says):
                flasher.check_heap(10)


def test_builds_that_are_too_old_or_lack_the_kpu() -> None:
    """0.4.0 is the oldest; a version without a number is not judged, nor is any that will be replaced."""
    flasher = Flasher(QuietLine())
    for version in ("v0.4.0", "v0.4.0-3-gabc", "v1.0.0", "unknown"):
        flasher._check_build(replace(INFO, version=version), Wanted())
    for wrong, says in (({"version": "v0.3.9"}, "v0.3.9 is too old; 0.4.0"), ({"has_kpu": False}, "without the KPU")):
        with pytest.raises(UserError, match=says):
            flasher._check_build(replace(INFO, **wrong), Wanted())
        flasher._check_build(replace(INFO, **wrong), Wanted(firmware=FlashPart("maixpy", 0, b"x")))


def test_a_part_may_begin_where_maixpy_ends() -> None:
    flasher = Flasher(QuietLine())
    flasher._check_overlap(INFO, Wanted([FlashPart("kmodel", 0x100000, b"x")]))
    with pytest.raises(UserError, match="kmodel at 0x0FF000 would overwrite MaixPy, which reaches to 0x100000"):
        flasher._check_overlap(INFO, Wanted([FlashPart("kmodel", 0xFF000, b"x")]))


def test_each_kind_of_board_is_told_its_own_remedy() -> None:
    amigo = BOARDS["amigo"]
    flasher = Flasher(QuietLine(), board=amigo)
    assert flasher._remedy(None) == flasher._remedy(INFO) == amigo.maixpy_remedy
    # A build for several boards runs there, so the current one of them does too.
    assert Flasher(QuietLine())._remedy(INFO) == BOARDS["bit"].maixpy_remedy
    assert Flasher(QuietLine())._remedy(None) == ANY_BOARD.maixpy_remedy
    assert flasher._remedy(replace(INFO, is_m5stickv=True)) == m5stickv.REMEDY
    assert flasher._remedy(replace(INFO, is_twatch=True)) == flashing.LILYGO_REMEDY
    assert flasher._remedy(replace(INFO, is_canmv=True)) == flashing.CANMV_REMEDY + "FILE"


def test_a_build_that_cannot_read_its_flash_tells_of_kmodels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the KPU library loads: length and CRC-32; of other parts it is known only whether they were written."""
    flasher = Flasher(QuietLine())
    same, other = FlashPart("same", 0x300000, b"\x03\0\0\0."), FlashPart("other", 0x400000, b"\x03\0\0\0!")
    firmware = FlashPart("maixpy", 0, b"x")
    monkeypatch.setattr(flasher.repl, "loaded_crc32", lambda address: (5, zlib.crc32(same.data)))
    info = replace(INFO, has_flash_read=False)
    assert flasher.differing([same, other, firmware], info, written=True) == [other]
    assert flasher.differing([same, other, firmware], info, written=False) == [other, firmware]


def test_what_is_told_of_a_build() -> None:
    """That it cannot read its flash is told of a build with a KPU only: another one is refused anyway."""
    for has_kpu, has_flash_read, lines in ((True, True, 1), (True, False, 2), (False, False, 1), (False, True, 1)):
        said: list[str] = []
        flasher = Flasher(QuietLine(), ui=Ui(detail=said.append))
        flasher._show(replace(INFO, has_kpu=has_kpu, has_flash_read=has_flash_read))
        assert len(said) == lines and said[0] == (
            f"MaixPy v0.6.3-2, {'KPU' if has_kpu else 'no KPU'}, 97 KiB free in /flash"
        )


def test_what_restoring_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for waiting, says in ((True, "boot.py is what it was before"), (False, "no program of before waited")):
        said: list[str] = []
        flasher = Flasher(QuietLine(), ui=Ui(detail=said.append))
        monkeypatch.setattr(flasher, "look", lambda: INFO)
        monkeypatch.setattr(m5stickv, "restore", lambda repl, ours, waiting=waiting: waiting)
        flasher.restore(["main.py"])
        assert len(said) == 1 and says in said[0]


@pytest.mark.parametrize(
    ("rates", "used"),
    [((3, 2, 1), [(3, 2, 1), (2, 1), (1,)]), ((3, 2), [(3, 2), (2,), (2,)]), ((3,), [(3,), (3,), (3,)])],
)
def test_each_writing_after_a_wrong_reading_is_slower(
    monkeypatch: pytest.MonkeyPatch, rates: tuple[int, ...], used: list[tuple[int, ...]]
) -> None:
    """One rate less each time, but never none; after three wrong readings it is given up."""
    flasher = Flasher(QuietLine(), bauds=rates)
    part = FlashPart("kmodel", 0x300000, b"x")
    written: list[tuple[int, ...]] = []
    monkeypatch.setattr(flasher, "_write", lambda todo: written.append(tuple(flasher.isp.bauds)))
    monkeypatch.setattr(flasher, "reach_repl", lambda: True)
    monkeypatch.setattr(flasher.repl, "info", lambda: INFO)
    monkeypatch.setattr(flasher, "differing", lambda parts, info, written: [part])
    with pytest.raises(UserError, match="kmodel: what the board reads back is not what was written, 3 times"):
        flasher._write_and_verify([part], Wanted([part]))
    assert written == used and flasher.result.retries == 3


def test_nothing_to_write_is_nothing_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    flasher = Flasher(QuietLine())
    monkeypatch.setattr(flasher, "reach_repl", lambda: pytest.fail("the board is left alone"))
    flasher._write_and_verify([], Wanted())


def test_the_lines_rest_as_after_a_start() -> None:
    """Go with its old firmware runs with both lines asserted, the others with neither."""

    class Line(QuietLine):
        lines: tuple[bool, bool] | None = None

        def set_lines(self, dtr: bool, rts: bool) -> None:
            self.lines = dtr, rts

    for wiring, lines in (("dan", (False, False)), ("kd233", (False, False)), ("goD", (True, True)), ("manual", None)):
        line = Line()
        flashing.release(line, wiring)
        assert line.lines == lines and wiring in WIRINGS
    line = Line()
    flashing.release(line, "another")
    assert line.lines is None


def start(monkeypatch: pytest.MonkeyPatch, *lines: str, info: BoardInfo | None = INFO) -> str:
    """What `start` makes of a board that prints these lines and waits for one with "pose"; "" if that comes."""
    line = QuietLine()
    sent = [text.encode() + b"\r\n" for text in lines]
    quiet = line.read
    monkeypatch.setattr(line, "read", lambda timeout_s: sent.pop(0) if sent else quiet(timeout_s))
    flasher = Flasher(line)
    flasher.result.info = info
    monkeypatch.setattr(flasher.repl, "start_main", lambda: None)
    try:
        flasher.start(lambda text: text == "pose", 1.0)
    except UserError as error:
        return str(error)
    return ""


def test_what_the_first_lines_of_a_program_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception ends the wait, unless the application has said what is wrong; that counts if it is said twice."""
    assert start(monkeypatch, "hello", "pose") == ""
    assert "the last text from the board: 'hello'" in start(monkeypatch, "hello", " ")
    assert "the last text from the board: 'nothing'" in start(monkeypatch)
    assert start(monkeypatch, "ValueError: 1", "pose") == "", "no traceback before it"
    assert start(monkeypatch, "Traceback (most recent call last):", "x", "pose") == ""
    raised = start(monkeypatch, "Traceback (most recent call last):", "  File", "ValueError: 1")
    assert raised.startswith("main.py stopped on the board: ValueError: 1")
    told = ("posenet: camera: no sensor", "Traceback (most recent call last):", "OSError: 1")
    assert "the last text from the board: 'camera: no sensor'" in start(monkeypatch, *told)
    assert start(monkeypatch, told[0], "x", told[0]).startswith("the board says: camera: no sensor")
    assert start(monkeypatch, "posenet: did not start: why").startswith("the board says: did not start: why")
    assert start(monkeypatch, "posenet: ready", "posenet: ready", "other: a: b", "other: a: b", "pose") == ""
    own = replace(INFO, files=("boot.py", "main.py"))
    assert start(monkeypatch, "noise", info=own).startswith("boot.py on the board does not end")
    assert start(monkeypatch, "posenet: starts", info=own).startswith("no pose came within 1 s")
