"""Single steps of the way to a board, on a line that nobody answers: how often and how long each is tried."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from common.errors import UserError
from common.flash_parts import FlashPart
from common.wiring import WIRINGS
from host_tools import flashing, m5stickv
from host_tools import repl as repl_module
from host_tools.flashing import Flasher, Ui, Wanted
from host_tools.known_boards import ANY_BOARD, BOARDS
from host_tools.repl import BoardInfo, BoardRaisedError, RawRepl, ReplError
from tests.support.quiet_line import QuietLine, Talking

INFO = BoardInfo("v0.6.3-2", "Sipeed_M1", True, True, "/flash", (), 100_000, 0x100000)


def script(monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> tuple[RawRepl, list[str]]:
    """A REPL whose code has these outcomes in turn, and the list of the code that it was given.

    The last outcome is repeated for ever. An outcome is an error, or a function from a question's number to the output.
    """
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
    """An answer that claims to be longer by `length` and whose CRC-32 is wrong by `crc`."""
    return lambda number: f"<# {number} {len(text) + length} {zlib.crc32(text.encode()) + crc} {text} #>"


def test_a_question_is_asked_six_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """One damaged answer must not end a run, and a board that never answers well must not hold it up for ever."""
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
    """An error that comes once may be damage on the line. If each try gives another one, the last is reported."""
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
    repl, asked = script(monkeypatch, BoardRaisedError("NameError: name 'x' isn't defined"), answer("5"))
    assert repl.ask("_r = x") == 5 and len(asked) == 2, "there it is something else that is missing"


def test_ctrl_c_is_sent_for_four_seconds_while_something_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may take a while to stop, so as long as the board says something, MaixPy may still come.

    After 1.5 s of silence there is no MaixPy. Then the prompt is tried three times.
    """

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


def test_the_raw_prompt_is_looked_for_as_often_as_requested() -> None:
    """Each try sends two separate Ctrl-C and a Ctrl-A, and then waits 0.6 s for the banner."""
    line = QuietLine()
    assert not RawRepl(line).try_enter(2)
    assert line.written == b"\r\x03\x03\x01" * 2 and line.time_s == pytest.approx(2 * 0.7)
    line = QuietLine()
    assert not RawRepl(line).try_enter()
    assert line.written.count(b"\x01") == 6


def test_a_text_is_awaited_for_the_time_given() -> None:
    """A look takes 0.25 s on this line, so within a second there are four. What follows the text is kept."""

    class Line(Talking):
        def read(self, timeout_s: float) -> bytes:
            return super().read(0.25)

    repl = RawRepl(Line())
    assert repl.read_until(b"x", 1.0) is None and repl.transport.now() == 1.0 and not repl.heard
    repl = RawRepl(Line(b"a", b"bxc"))
    assert repl.read_until(b"x", 1.0) == b"abx" and repl.transport.now() == 0.0 and repl.heard
    assert repl.read_until(b"c", 0.0) == b"c" and repl.read_until(b"c", 0.0) is None


def test_a_soft_reset_interrupts_a_program_that_keeps_the_prompt_away() -> None:
    """Our boot.py gets one Ctrl-C as soon as it says that it waits. Other programs get one every 3 s, for 12 s."""
    others = [(3.0, b"\x03"), (6.0, b"\x03"), (9.0, b"\x03")]
    for texts, sent in (
        ([], [(0.0, b"\x04")]), ([b"soft reboot"], [(0.0, b"\x04"), *others]),
        ([b"soft reboot\r\nposenet: starts in 2"], [(0.0, b"\x04"), (0.1, b"\x03"), *others]),
    ):  # fmt: skip
        line = Talking(*texts)
        with pytest.raises(ReplError, match="no prompt after the soft reset"):
            RawRepl(line).soft_reset()
        assert line.sent == sent
        assert line.time_s == pytest.approx(11.9 if texts else 5.0)
    line = Talking(b"discarded", b"soft reboot", b"posenet: starts in 2", *[b""] * 6, repl_module.BANNER)
    RawRepl(line).soft_reset()
    assert line.sent == [(0.0, b"\x04")], "the prompt came by itself"


def test_main_is_started_by_at_most_three_ctrl_d() -> None:
    """A Ctrl-D may get lost on the way. A board that does not answer three of them is reported."""
    line = Talking()
    with pytest.raises(ReplError, match="no answer to Ctrl-D"):
        RawRepl(line).start_main()
    assert line.sent == [(t, b) for at in (0.0, 4.0, 8.0) for t, b in ((at, b"\x02"), (at + 1, b"\x04"))]
    line = Talking(b">>> ", b"soft reboot")
    RawRepl(line).start_main()
    assert line.sent == [(0.0, b"\x02"), (0.0, b"\x04")]


def test_a_restart_ends_at_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step needs a prompt, so a board that does not return to it must be reported here."""
    for comes_back in (True, False):
        repl, asked = script(monkeypatch, answer("5"))
        monkeypatch.setattr(repl, "enter_after_reset", lambda comes_back=comes_back: comes_back)
        with nullcontext() if comes_back else pytest.raises(ReplError, match="no prompt after a restart"):
            repl.restart()
        assert asked == ["import machine\nmachine.reset()"]


def test_code_goes_out_in_pieces_and_what_it_printed_comes_back() -> None:
    """The board's receive ring has 2048 bytes, so each 1024 bytes are followed by a pause.

    Of an exception the last line is reported, whether it has an end of line or not.
    """
    line = Talking(b"OK", b"5\n\x04", b"\x04>")
    assert RawRepl(line)._execute("x" * 2049, 1.0) == "5\n"
    assert [len(data) for _, data in line.sent] == [1024, 1024, 1, 1] and line.time_s == pytest.approx(0.01)
    for error in (b"Traceback\r\n  File\r\nOSError: 12\r\n", b"OSError: 12"):
        with pytest.raises(BoardRaisedError, match="^OSError: 12$"):
            RawRepl(Talking(b"OK\x04", error + b"\x04>"))._execute("x", 1.0)
    for pieces, says in (((), "no OK"), ((b"OK5",), "no end of output"), ((b"OK5\x04",), "no end of output")):
        with pytest.raises(ReplError, match=says):
            RawRepl(Talking(*pieces))._execute("x", 1.0)


def test_the_prelude_is_sent_up_to_six_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent until the board calculates right; a wrong result, an exception or silence are no prompt to rely on."""
    for outcome in (answer("41"), BoardRaisedError("MemoryError"), ReplError("no OK")):
        repl, asked = script(monkeypatch, outcome)
        assert not repl._prepare() and sum("def _q" in source for source in asked) == 6
        repl, asked = script(monkeypatch, outcome, outcome, answer("42"))
        assert repl._prepare()


def test_facts_of_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """MaixPy tells them as numbers and texts. The image at address 0 ends after its head and its SHA-256."""
    repl = RawRepl(QuietLine())
    head = b"\0" + (1000).to_bytes(4, "little")
    told = ("v0.6.3-2", "Sipeed_M1", 1, 0, "/flash", ["main.py"], 77, head, 0, 1, 0, "Amigo_IPS")
    monkeypatch.setattr(repl, "ask", lambda source, timeout_s: told)
    info = repl.info()
    assert info == BoardInfo(
        "v0.6.3-2", "Sipeed_M1", True, False, "/flash", ("main.py",), 77, 1037, False, True, False, "amigo_ips"
    )
    assert info.version_numbers == (0, 6, 3) and replace(info, version="unknown").version_numbers == ()


def test_a_kmodel_that_the_board_loads_is_told_by_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are its length and CRC-32, or nothing if it cannot be loaded.

    Any other answer means that the board is out of step.
    """
    repl = RawRepl(QuietLine())
    for told in ((5, 1), None):
        monkeypatch.setattr(repl, "ask", lambda source, timeout_s, told=told: told)
        assert repl.loaded_crc32(0x300000) == told
    monkeypatch.setattr(repl, "ask", lambda source, timeout_s: 5)
    with pytest.raises(ReplError, match="another kind"):
        repl.loaded_crc32(0x300000)


def test_the_board_has_time_to_read_its_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets 20 s and another 10 s for each megabyte to compute a CRC-32, and 30 s to load a kmodel."""
    repl = RawRepl(QuietLine())
    waits_s: list[float] = []
    told: Iterator[Any] = iter((5, None))

    def ask(source: str, timeout_s: float) -> object:
        waits_s.append(timeout_s)
        return next(told)

    monkeypatch.setattr(repl, "ask", ask)
    assert repl.flash_crc32(0x300000, 1_000_000) == 5 and repl.loaded_crc32(0x300000) is None
    assert waits_s == [30, 30]


def test_room_for_new_files_beside_the_old() -> None:
    """The room that is asked for must be exactly what the copying takes; one byte less is refused.

    A file needs the pages of its content and name, as far as they exceed the old file, and four pages for the copying.
    A file that an earlier run left aside counts as room.
    """
    repl, page = RawRepl(QuietLine()), 4096
    for old, aside, need in (
        (None, None, 6 * page + 10), ((4, 0), None, 6 * page + 6), ((99, 0), None, 6 * page),
        ((4, 0), (5, 0), 4 * page + 6),
    ):  # fmt: skip
        for free_bytes, says in ((need, nullcontext()), (need - 1, pytest.raises(UserError, match="bytes free, but"))):
            info = replace(INFO, free_bytes=free_bytes)
            with says:
                repl._check_room({"a": b"." * 10}, ["a"], {"a": old}, {"a.new": aside}, info)


def test_heaps_that_are_too_small_or_leave_no_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 bytes are enough. A heap above 512 KiB is refused if it takes the room that the network needs."""
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


def test_builds_that_are_too_old_or_lack_the_kpu_are_refused() -> None:
    """0.4.0 is the oldest. A version without a number is not judged, nor is a build that will be replaced."""
    flasher = Flasher(QuietLine())
    for version in ("v0.4.0", "v0.4.0-3-gabc", "v1.0.0", "unknown"):
        flasher._check_build(replace(INFO, version=version), Wanted())
    for wrong, says in (({"version": "v0.3.9"}, "v0.3.9 is too old; 0.4.0"), ({"has_kpu": False}, "without the KPU")):
        with pytest.raises(UserError, match=says):
            flasher._check_build(replace(INFO, **wrong), Wanted())
        flasher._check_build(replace(INFO, **wrong), Wanted(firmware=FlashPart("maixpy", 0, b"x")))


def test_a_part_may_begin_where_maixpy_ends() -> None:
    """One byte earlier, the part would overwrite MaixPy."""
    flasher = Flasher(QuietLine())
    flasher._check_overlap(INFO, Wanted([FlashPart("kmodel", 0x100000, b"x")]))
    with pytest.raises(UserError, match="kmodel at 0x0FF000 would overwrite MaixPy, which reaches to 0x100000"):
        flasher._check_overlap(INFO, Wanted([FlashPart("kmodel", 0xFF000, b"x")]))


@pytest.mark.parametrize("kind", ["is_m5stickv", "is_twatch"])
def test_a_build_for_other_boards_is_remarked_upon(kind: str) -> None:
    """MaixPy's own builds start on an M5StickV but leave its display dark.

    Once `--firmware maixpy-minimum` wrote one there without a remark.
    """
    said: list[str] = []
    flasher = Flasher(QuietLine(), ui=Ui(detail=said.append))
    own = {"is_m5stickv": b"M5StickV by M5Stack", "is_twatch": b"axp202"}[kind]
    info = replace(INFO, is_m5stickv=kind == "is_m5stickv", is_twatch=kind == "is_twatch")
    flasher._check_build(info, Wanted(firmware=FlashPart("own.bin", 0, own)))
    flasher._check_build(INFO, Wanted(firmware=FlashPart("any.bin", 0, b"any")))
    assert said == []
    flasher._check_build(info, Wanted(firmware=FlashPart("any.bin", 0, b"any")))
    assert said == [f"any.bin is not a build for this board: its LCD may stay dark; {flasher._remedy(info)}"]


def test_each_kind_of_board_is_told_its_own_remedy() -> None:
    """A build that is right for one kind of board leaves another one's display dark."""
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
    """Such a build can only load a kmodel, which gives its length and CRC-32.

    Of other parts the host knows only whether it has written them.
    """
    flasher = Flasher(QuietLine())
    same, other = FlashPart("same", 0x300000, b"\x03\0\0\0."), FlashPart("other", 0x400000, b"\x03\0\0\0!")
    firmware = FlashPart("maixpy", 0, b"x")
    monkeypatch.setattr(flasher.repl, "loaded_crc32", lambda address: (5, zlib.crc32(same.data)))
    info = replace(INFO, has_flash_read=False)
    assert flasher.differing([same, other, firmware], info, written=True) == [other]
    assert flasher.differing([same, other, firmware], info, written=False) == [other, firmware]


def test_a_build_that_cannot_read_its_flash_is_said_if_it_has_a_kpu() -> None:
    """A build without a KPU is refused anyway, so the remark would only confuse."""
    for has_kpu, has_flash_read, lines in ((True, True, 1), (True, False, 2), (False, False, 1), (False, True, 1)):
        said: list[str] = []
        flasher = Flasher(QuietLine(), ui=Ui(detail=said.append))
        flasher._show(replace(INFO, has_kpu=has_kpu, has_flash_read=has_flash_read, free_bytes=97 << 10))
        assert len(said) == lines and said[0] == (
            f"MaixPy v0.6.3-2, {'KPU' if has_kpu else 'no KPU'}, 97 KiB free in /flash"
        )


def resets_of(
    monkeypatch: pytest.MonkeyPatch, heard: tuple[bool, ...], has_lines: bool = True, wiring: str = "", **options: bool
) -> tuple[bool, list[str]]:
    """Let `reach_repl` try a board that never comes to the prompt and is heard after the resets that `heard` names.

    Returns whether it got there, and each look and each state of the lines.
    """
    done: list[str] = []

    class Line(QuietLine):
        def set_lines(self, dtr: bool, rts: bool) -> None:
            done.append(f"{dtr:d}{rts:d}")

    line = Line()
    line.has_lines = has_lines
    flasher = Flasher(line)
    flasher.isp.wiring = WIRINGS.get(wiring)
    coming = iter(heard)

    def enter_after_reset() -> bool:
        flasher.repl.heard = next(coming)
        done.append("after")
        return False

    monkeypatch.setattr(flasher.repl, "try_enter", lambda tries: done.append(f"enter {tries}"))
    monkeypatch.setattr(flasher.repl, "enter_after_reset", enter_after_reset)
    return flasher.reach_repl(**options), done


def test_how_often_a_board_is_reset_before_it_is_said_to_have_no_maixpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wiring is tried once, and all once more if anything was heard, because IDE mode ends at the second start.

    If the wiring is known, only that one is tried. If the line cannot reset, the prompt is awaited at once.
    """
    once = ["00", "01", "00", "after", "00", "10", "00", "after", "00", "10", "11", "after"]
    assert resets_of(monkeypatch, (False,) * 3) == (False, ["enter 2", *once])
    assert resets_of(monkeypatch, (True,) + (False,) * 5) == (False, ["enter 2", *once, *once])
    assert resets_of(monkeypatch, (True,) * 6) == (False, ["enter 2", *once, *once])
    assert resets_of(monkeypatch, (False,) * 3, reset_first=True) == (False, once)
    assert resets_of(monkeypatch, (True,) * 2, wiring="kd233") == (False, ["enter 2", *once[4:8] * 2])
    assert resets_of(monkeypatch, (True,), has_lines=False) == (False, ["enter 2", "after"])


def test_the_prompt_ends_the_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that is at its prompt must not be reset again."""
    flasher = Flasher(QuietLine())
    outcomes = iter((False, True))
    monkeypatch.setattr(flasher.repl, "try_enter", lambda tries: False)
    monkeypatch.setattr(flasher.repl, "enter_after_reset", lambda: next(outcomes))
    assert flasher.reach_repl() and not list(outcomes)
    monkeypatch.setattr(flasher.repl, "try_enter", lambda tries: True)
    assert flasher.reach_repl()


def test_a_step_is_done_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again as long as the board comes back to its prompt in between. Each failure counts as a repeat."""
    for comes_back, tries in ((True, 3), (False, 1)):
        flasher = Flasher(QuietLine())
        done: list[int] = []

        def body(done: list[int] = done) -> None:
            done.append(len(done))
            raise ReplError("no OK")

        monkeypatch.setattr(flasher, "reach_repl", lambda comes_back=comes_back: comes_back)
        with pytest.raises(UserError, match=r"stopped answering while trying \(no OK\)"):
            flasher._steadily("trying", body)
        assert len(done) == flasher.result.retries == tries
    assert Flasher(QuietLine())._steadily("trying", lambda: 5) == 5


def test_each_build_gets_the_files_that_it_starts() -> None:
    """M5Stack's build needs another address and a boot.py, LilyGO's needs a boot.py, and others start as they are.

    A set of files without our application is left unchanged. The build about to be written decides, not the one that
    runs.
    """
    manifest = b'{"kmodel": {"flash_address": 3145728}}'
    kmodel, other = FlashPart("kmodel", 0x300000, b"k"), FlashPart("other", 0x500000, b"o")
    wanted = Wanted([kmodel, other], {"posenet.json": manifest})
    flasher = Flasher(QuietLine())
    moved = flasher._for_build(wanted, True, False)
    assert [part.address_bytes for part in moved.parts] == [m5stickv.KMODEL_ADDRESS, 0x500000]
    assert moved.files["boot.py"] == m5stickv.boot_program()
    assert moved.files["posenet.json"] == b'{"kmodel": {"flash_address": 4194304}}'
    lilygo = flasher._for_build(wanted, False, True)
    assert lilygo.parts is wanted.parts
    assert lilygo.files == {"posenet.json": manifest, "boot.py": m5stickv.boot_program("lilygo")}
    assert flasher._for_build(wanted, False, False) is wanted
    files_only = Wanted([kmodel], {"main.py": b""})
    for build in ((True, False), (False, True)):
        assert flasher._for_build(files_only, *build) is files_only
    for image, like in ((b"..M5StickV by M5Stack", moved), (b"..axp202..", lilygo), (b"another", wanted)):
        firmware = FlashPart("maixpy", 0, image)
        for build in ((True, False), (False, True), (False, False)):
            made = flasher._for_build(replace(wanted, firmware=firmware), *build)
            assert made == replace(like, firmware=firmware)


def test_what_a_run_tells_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the parts that are there already, and boot.py only if one was set aside.

    The loader's repeats count too.
    """
    parts = [FlashPart("same", 0x300000, b"s"), FlashPart("new", 0x400000, b"n")]
    for names, is_set_aside, says in (
        (("main.py",), True, []), (("boot.py",), False, []),
        (("boot.py", "main.py"), True, ["the program in boot.py waits as boot_factory.py; back with --restore"]),
    ):  # fmt: skip
        said: list[str] = []
        flasher = Flasher(QuietLine(), ui=Ui(detail=said.append))
        flasher.isp.retries = 2
        copied: list[str] = []
        monkeypatch.setattr(flasher, "look", lambda: INFO)
        monkeypatch.setattr(flasher, "differing", lambda parts, info: parts[1:])
        monkeypatch.setattr(flasher, "_write_and_verify", lambda todo, wanted: None)
        monkeypatch.setattr(flasher, "_copy_files", copied.extend)
        monkeypatch.setattr(m5stickv, "set_aside", lambda repl, is_set_aside=is_set_aside: is_set_aside)
        result = flasher.run(Wanted(parts, dict.fromkeys(names, b"")))
        assert said[1:] == ["same at 0x300000: unchanged, skipped", *says]
        assert copied == list(names) and result.retries == 2
        assert (result.wiring, result.baud) == ("", 0), "the loader was not needed"


def test_what_is_told_of_copied_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to three files that were there already are named; more of them are only counted.

    The compressed pieces may come to more bytes than the files, but the progress stops at the files' total.
    """
    for same, written, says in (
        ("abc", "d", ["a, b, c: unchanged, skipped", "d: copied, read back right"]),
        ("abcd", "", ["4 files: unchanged, skipped"]), ("", "abcd", ["a, b, c, d: copied, read back right"]),
    ):  # fmt: skip
        said: list[str] = []
        seen: list[tuple[str, int, int]] = []
        flasher = Flasher(QuietLine(), ui=Ui(detail=said.append, progress=lambda *told, seen=seen: seen.append(told)))

        def install(files: Any, info: Any, progress: Callable[[int], None], written: str = written) -> list[str]:
            for count in (2, 2, 1):
                progress(count)
            return list(written)

        monkeypatch.setattr(flasher.repl, "info", lambda: INFO)
        monkeypatch.setattr(flasher.repl, "install", install)
        flasher._copy_files(dict.fromkeys(same + written, b"."))
        assert said == says and flasher.result.written_files == list(written)
        assert seen == [("copying", 2, 4), ("copying", 4, 4), ("copying", 4, 4)]


def test_a_heap_that_is_the_usual_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other heap is set to the usual one, which takes effect with a restart."""
    for set_bytes, does in ((512 << 10, []), (400_000, ["Maix.utils.gc_heap_size(524288)", "restart"])):
        flasher = Flasher(QuietLine())
        done: list[str] = []

        def ask(source: str, set_bytes: int = set_bytes, done: list[str] = done) -> int:
            done.append(source)
            return set_bytes

        monkeypatch.setattr(flasher.repl, "ask", ask)
        monkeypatch.setattr(flasher.repl, "restart", lambda done=done: done.append("restart"))
        flasher.reset_heap()
        assert done[1:] == does


def test_restoring_says_whether_there_was_something_to_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an earlier program the user must not believe that one is back."""
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
    """Each time the fastest rate is dropped until one is left. After three wrong readings the run ends."""
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


def test_the_maixpy_that_was_just_written_is_judged_as_one_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must have a KPU, and it is reported, but only once.

    The parts that were read back are counted; without flash_read these are only the kmodels.
    """
    parts = [FlashPart("maixpy", 0, b"x"), FlashPart("kmodel", 0x300000, b"\x03\0\0\0")]
    for before, has_flash_read, says in (
        (None, True, ["MaixPy v0.6.3-2, KPU, 97 KiB free in /flash", "2 part(s) read back right, length and CRC-32"]),
        (INFO, True, ["2 part(s) read back right, length and CRC-32"]),
        (INFO, False, ["1 part(s) read back right, length and CRC-32"]),
    ):  # fmt: skip
        said: list[str] = []
        flasher = Flasher(QuietLine(), ui=Ui(detail=said.append))
        flasher.result.info = before
        now = replace(INFO, has_flash_read=has_flash_read)
        monkeypatch.setattr(flasher, "_write", lambda todo: None)
        monkeypatch.setattr(flasher, "reach_repl", lambda: True)
        monkeypatch.setattr(flasher.repl, "info", lambda now=now: now)
        monkeypatch.setattr(flasher, "differing", lambda parts, info, written: [])
        flasher._write_and_verify(parts, Wanted(parts[1:], firmware=parts[0]))
        assert said == says and flasher.result.info == now
    flasher.result.info = None
    monkeypatch.setattr(flasher.repl, "info", lambda: replace(INFO, has_kpu=False))
    with pytest.raises(UserError, match="without the KPU"):
        flasher._write_and_verify(parts, Wanted(parts[1:], firmware=parts[0]))


def test_nothing_to_write_is_nothing_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that already holds everything must not be reset."""
    flasher = Flasher(QuietLine())
    monkeypatch.setattr(flasher, "reach_repl", lambda: pytest.fail("the board is left alone"))
    flasher._write_and_verify([], Wanted())


def test_the_lines_rest_as_after_a_start() -> None:
    """A Go with its old firmware runs with both lines asserted, the others with neither."""

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


def test_the_first_pose_is_awaited_for_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes 0.25 s on this line, so within a second there are four."""
    line = QuietLine()
    quiet = line.read
    monkeypatch.setattr(line, "read", lambda timeout_s: quiet(0.25))
    flasher = Flasher(line)
    monkeypatch.setattr(flasher.repl, "start_main", lambda: None)
    with pytest.raises(UserError, match="^no pose came within 1 s"):
        flasher.start(lambda text: True, 1.0)
    assert line.time_s == 1.0


def test_the_first_lines_of_a_program_decide_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception ends the wait. A reason that the application names is reported once it has been said twice."""
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
    lines = ["Traceback (most recent call last):", *["  File"] * 29, "ValueError: 1"]
    assert start(monkeypatch, *lines).startswith("main.py stopped"), "30 lines after it"
    assert start(monkeypatch, lines[0], "  File", *lines[1:], "pose") == "", "31 lines after it it is another matter"
    own = replace(INFO, files=("boot.py", "main.py"))
    assert start(monkeypatch, "noise", info=own).startswith("boot.py on the board does not end")
    assert start(monkeypatch, "posenet: starts", info=own).startswith("no pose came within 1 s")
