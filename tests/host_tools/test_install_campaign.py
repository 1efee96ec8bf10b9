"""Copying scripts is cut off at every step. After every cut the board starts the old version or a new one, complete.

The code under test is the host's `RawRepl.install` and the very boot.py that it writes. CPython runs both over a file
system with SPIFFS' rules. A step is a message from the host, a file opened, half of a write, a whole one, a close, a
removal or a renaming. The example is MCUboot's simulator, which cuts the supply at every write to flash.
test_flashing.py shows that a simulated board and its serial line behave like this model.
"""

from __future__ import annotations

import binascii
import builtins
import contextlib
import dataclasses
import functools
import itertools
import random
import sys
import types
import zlib
from typing import Any

import pytest

from common.errors import UserError
from host_tools.repl import ANSWER_TIMEOUT_S, BoardInfo, BoardRaisedError, BoardRestartedError, RawRepl, ReplError
from host_tools.repl_programs import BOOT, BOOT_MARK, COPY, PRELUDE
from tests.support.quiet_line import QuietLine

OLD = {"main.py": b"import posenet  # 1\n", "posenet.py": b"old" * 30, "posenet.json": b"{}"}
NEW = {"main.py": b"import posenet  # 2\n", "posenet.py": b"new" * 50, "posenet.json": b"{}", "x.py": b"x = 2\n"}
NEWER = {"main.py": b"import posenet  # 3\n", "posenet.py": b"newer" * 50, "posenet.json": b"[]", "x.py": b"x = 2\n"}
USERS_BOOT = b"ran.append(1)\n"
INFO = BoardInfo("v0.6.2", "", True, True, "/flash", (), 1 << 20, 0)


@functools.cache
def compiled(source: str) -> types.CodeType:
    """The same few programs run thousands of times, so each is compiled only once."""
    return compile(source, "<board>", "exec")


def execute(source: str, names: dict[str, Any] | None = None) -> None:
    """What exec() does on the board."""
    caller = sys._getframe(1)
    names = caller.f_globals if names is None else names
    names.setdefault("__builtins__", caller.f_builtins)
    exec(compiled(source), names)


class Cut(BaseException):
    """Here the host was killed or the supply failed."""


class Pages(bytearray):
    """A file's data. Two names can stand for the same pages, which are `lost` once one of the names was removed."""

    lost = False


class File:
    """An open file of the model."""

    def __init__(self, board, name, mode):
        self.board, self.pages, self.at, self.text = board, board.files[name], 0, "b" not in mode
        board.open_files.add(self)

    def read(self, count=None):
        if self.pages.lost:
            raise OSError(5)
        data = bytes(self.pages)
        part = data[self.at :] if count is None else data[self.at : self.at + count]
        self.at += len(part)
        return part.decode() if self.text else part

    def write(self, data):
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            self.board.step()
            self.pages += part
        return len(data)

    def close(self):
        self.board.step()
        self.board.open_files.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Board:
    """/flash with SPIFFS' rules, and what MaixPy does with it when it starts. It is cut after `cut_after` steps.

    This is what the real SPIFFS does in the emulator: a removal that is cut off leaves a name without data, and a
    renaming leaves two names for the same data.
    """

    def __init__(self, files, cut_after=None):
        self.files = {name: Pages(data) for name, data in files.items()}
        self.steps = 0
        self.cut_after = cut_after
        self.ran = []
        self.open_files = set()

    def step(self):
        if self.steps == self.cut_after:
            raise Cut
        self.steps += 1

    def open(self, name, mode="r"):
        if len(self.open_files) >= 2:
            raise OSError(2)  # MaixPy's SPIFFS has two open files.
        if "w" in mode:
            self.step()
            if name in self.files:
                self.files[name].lost = True
            self.files[name] = Pages()
        elif name not in self.files:
            raise OSError(2)
        return File(self, name, mode)

    def remove(self, name):
        if name not in self.files:
            raise OSError(2)
        self.step()
        self.files[name].lost = True
        self.step()
        del self.files[name]

    def rename(self, old, new):
        if old not in self.files:
            raise OSError(2)
        if new in self.files:
            raise OSError(5)  # SPIFFS_ERR_CONFLICTING_NAME
        self.step()
        self.files[new] = self.files[old]
        self.step()
        del self.files[old]

    def contents(self):
        """The bytes of each name, or None if they cannot be read."""
        return {name: None if pages.lost else bytes(pages) for name, pages in self.files.items()}

    def namespace(self, **names):
        uos = types.SimpleNamespace(
            listdir=lambda: list(self.files), remove=self.remove, rename=self.rename, chdir=lambda folder: None
        )
        micropython = types.SimpleNamespace(kbd_intr=lambda character: None)
        gc = types.SimpleNamespace(collect=lambda: None)  # CPython's own takes long and finds no garbage here.
        self.modules = {"uos": uos, "gc": gc, "micropython": micropython, "ubinascii": binascii, "uzlib": zlib}

        def importer(name, *_):
            if name not in self.modules:
                raise ImportError(name)
            return self.modules[name]

        own = {"open": self.open, "__import__": importer, "exec": execute}
        return {"__builtins__": {**vars(builtins), **own}, **names}

    def start(self):
        """Power-on: MaixPy's _boot.py, which makes a main.py if there is none, then boot.py; main.py would run next."""
        self.open_files.clear()
        if "main.py" not in self.files:
            with self.open("main.py", "w") as file:
                file.write(b"print('Hello MaixPy')")
        if BOOT in self.files:
            source = (self.contents()[BOOT] or b"").decode()
            # An error in the user's program is only a message on the console; ours must not have one.
            with contextlib.nullcontext() if source.startswith(BOOT_MARK) else contextlib.suppress(Exception):
                execute(source, self.namespace(__name__="__main__", ran=self.ran))

    def copy(self, cut_after=None):
        other = Board({}, cut_after)
        twins = {}
        for name, pages in self.files.items():
            if id(pages) not in twins:
                twins[id(pages)] = Pages(pages)
                twins[id(pages)].lost = pages.lost
            other.files[name] = twins[id(pages)]
        return other


class Repl(RawRepl):
    """The host's side. Its questions reach the model without a line in between."""

    def __init__(self, board):
        super().__init__(QuietLine())
        self.board = board
        self.namespace = board.namespace()

        execute(PRELUDE, self.namespace)

    def ask(self, source, timeout_s=0):
        self.board.step()
        self.namespace["_r"] = None
        execute(source, self.namespace)
        return self.namespace["_r"]

    def soft_reset(self):
        self.board.open_files.clear()

    def _prepare(self):
        return True


def install(board, files):
    """Copy the files as flash.py does; return whether the copying came to its end."""
    try:
        Repl(board).install(files, INFO)
        return True
    except Cut:
        return False


class Speaking(Repl):
    """What goes wrong on the board is told as MaixPy tells it; what the host notes is kept."""

    def __init__(self, board):
        super().__init__(board)
        self.said: list[str] = []
        self.waits_s = set()
        self.note = self.said.append

    def ask(self, source, timeout_s=0):
        self.waits_s.add(timeout_s)
        try:
            return super().ask(source, timeout_s)
        except (OSError, NameError) as error:
            raise BoardRaisedError(f"{type(error).__name__}: {error}") from None


def test_pieces_of_a_file_are_counted_as_bytes_of_the_file():
    """Segments of 16 KiB, compressed where that helps and the board has uzlib; round trips of 1 KiB."""
    noise = random.Random(1).randbytes(16384)
    for has_uzlib, counts in ((True, [1024] * 16 + [16384, 100]), (False, [1024] * 32 + [100])):
        board = Board({})
        repl = Speaking(board)
        if not has_uzlib:
            board.modules.pop("uzlib")
        seen: list[int] = []
        repl.write_file("x", noise + bytes(16384 + 100), seen.append)
        assert seen == counts and board.contents() == {"x": noise + bytes(16384 + 100)}


def test_a_file_that_the_board_cannot_take_is_removed(monkeypatch):
    """No room; a board that has forgotten its variables is another matter; and so is a file that reads back wrong."""
    board = Board({})
    repl = Speaking(board)
    monkeypatch.setattr(File, "write", lambda self, data: 3)
    with pytest.raises(UserError, match=r"does not take x \(10 bytes\): OSError: 28"):
        repl.write_file("x", bytes(10))
    assert board.files == {} and not board.open_files
    monkeypatch.setattr(File, "write", lambda self, data: len(data))
    with pytest.raises(UserError, match="x reads back wrong"):
        repl.write_file("x", bytes(10))
    assert board.files == {}

    def reset(self, data):
        del repl.namespace["_w"]
        return len(data)

    monkeypatch.setattr(File, "write", reset)
    with pytest.raises(BoardRestartedError, match="was reset while x was written"):
        repl.write_file("x", bytes(10))


def test_what_a_run_leaves_and_says():
    """Only what differs is written; what lies aside and belongs to nothing is removed; an update that was cut off is
    finished first, and only that is said."""
    board = Board({**OLD, "gone.py.new": b"?"})
    repl = Speaking(board)
    assert repl.install(NEW, INFO) == ["main.py", "posenet.py", "x.py"]
    assert board.contents() == NEW and repl.said == []
    board.files["gone.py.new"] = Pages(b"?")
    assert repl.install(NEW, INFO) == [] and repl.said == [] and board.contents() == NEW
    cut = next(at for at in itertools.count() if BOOT in cut_board(at).files)
    board = cut_board(cut)
    repl = Speaking(board)
    assert repl.install(NEW, INFO) == [] and board.contents() == NEW
    assert repl.said == ["an update that was cut off is finished first"]


def cut_board(at):
    """The board after an update that was cut at that step."""
    board = Board(OLD, at)
    install(board, NEW)
    board.cut_after = None
    return board


def test_how_long_the_answers_are_awaited():
    """What reads or writes whole files has 20 s, what may copy all of them 60 s, and nothing else more than usual."""
    repl = Speaking(Board({**OLD, BOOT: USERS_BOOT}))
    repl.install(NEW, INFO)
    assert repl.waits_s == {0, ANSWER_TIMEOUT_S, 20, 60}, "0 where none is asked for"


def test_files_that_are_open_are_closed_by_a_soft_reset(monkeypatch):
    """SPIFFS has two open files and copying needs both of them. An SD card has no such limit."""
    for run_dir, opens, resets, says in (
        ("/flash", 0, 1, ""), ("/flash", 2, 1, ""), ("/flash", 2, 0, "leaves files open"), ("/sd", 0, 0, ""),
    ):  # fmt: skip
        board = Board(OLD)
        repl = Speaking(board)
        for _ in range(opens):
            board.open("main.py")
        if not resets:
            monkeypatch.setattr(repl, "soft_reset", lambda: None)
        with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
            repl.install(NEW, dataclasses.replace(INFO, run_dir=run_dir))
            assert board.contents() == NEW
        assert repl.said == (["a program left files open; a soft reset closes them"] if opens else [])
    board = Board(OLD)
    repl = Speaking(board)
    board.open("main.py"), board.open("main.py")
    monkeypatch.setattr(repl, "_prepare", lambda: False)
    with pytest.raises(ReplError, match="no answer after the soft reset"):
        repl.install(NEW, INFO)


def test_files_that_read_back_wrong_in_the_end_are_named(monkeypatch):
    """The copying itself went wrong, and nothing noticed it before."""
    repl = Speaking(Board(OLD))
    monkeypatch.setattr(repl, "_swap", lambda files: None)
    with pytest.raises(UserError, match="^main.py, posenet.py, x.py read back wrong from the board"):
        repl.install(NEW, INFO)


def starts_whole(board, versions, users_boot):
    """Start a copy of the board, which must then hold one of `versions` and must not have lost the user's boot.py."""
    board = board.copy()
    board.start()
    known = set().union(*versions)
    contents = board.contents()
    found = {name: data for name, data in contents.items() if name in known}
    assert found in list(versions), found
    if users_boot:
        kept = [data for name, data in contents.items() if name.startswith("boot.py.") and not name.endswith(".new")]
        assert USERS_BOOT in (contents.get(BOOT), *kept)
        assert board.ran == [1] or USERS_BOOT in kept
    else:
        assert contents.get(BOOT) is None
    return board


def complete(board, files, users_boot):
    """Copy without a cut; afterwards exactly the new files must be there."""
    assert install(board, files)
    expected = {**files, BOOT: USERS_BOOT} if users_boot else files
    assert board.contents() == expected


def steps_of(board, files):
    """The number of steps of a run without a cut."""
    board = board.copy()
    assert install(board, files)
    return board.steps


def campaign(users_boot, second_cuts):
    """Cut at every step, start or not, cut a second run for the same or another version, then let a third run finish.

    `second_cuts` gives the second cuts to try for a first cut and a number of steps. Returns the number of cuts.
    """
    before = {**OLD, BOOT: USERS_BOOT} if users_boot else OLD
    cuts = 0
    for first in range(steps_of(Board(before), NEW)):
        board = Board(before, first)
        assert not install(board, NEW)
        cuts += 1
        board.cut_after = None
        starts_whole(board, (OLD, NEW), users_boot)
        started = board.copy()
        started.start()
        # The start itself is cut at each of its steps.
        for at in range(started.steps):
            half = board.copy(at)
            with pytest.raises(Cut):
                half.start()
            cuts += 1
            half.cut_after = None
            complete(starts_whole(half, (OLD, NEW), users_boot), NEW, users_boot)
        for state in (board, started):
            for version in (NEW, NEWER):
                for second in second_cuts(first, steps_of(state, version)):
                    again = state.copy(second)
                    assert not install(again, version)
                    cuts += 1
                    again.cut_after = None
                    starts_whole(again, (OLD, NEW, version), users_boot)
                    complete(again, version, users_boot)
    return cuts


def tell(capsys, cuts):
    """Print the figure that docs/flashing.md quotes. A mixture of versions would have ended the test before."""
    with capsys.disabled():
        print(f"\n{cuts:,} cuts, 0 mixtures")


@pytest.mark.parametrize("users_boot", [False, True])
def test_no_cut_leaves_a_mixture_of_versions(users_boot, capsys):
    """Every single cut, and after each a few second cuts at changing places."""
    cuts = campaign(users_boot, lambda first, steps: range(first % 131, steps, 131))
    tell(capsys, cuts)
    assert cuts > 400, cuts


@pytest.mark.slow
@pytest.mark.parametrize("users_boot", [False, True])
def test_no_pair_of_cuts_leaves_a_mixture_of_versions(users_boot, capsys):
    """All pairs of cuts, which take minutes."""
    cuts = campaign(users_boot, lambda first, steps: range(steps))
    tell(capsys, cuts)
    assert cuts > 10_000, cuts


def test_a_damaged_new_file_replaces_nothing():
    """If one of the new files is not what boot.py was written for, all of them stay aside."""
    board = Board(OLD)
    steps = steps_of(board, NEW)
    damaged = 0
    for cut in range(steps):
        board = Board(OLD, cut)
        install(board, NEW)
        board.cut_after = None
        if (
            BOOT in board.files
            and "posenet.py.new" in board.files
            and board.files.get("main.py") == Pages(OLD["main.py"])
        ):
            board.files["posenet.py.new"] = Pages()
            starts_whole(board, (OLD,), False)
            damaged += 1
    assert damaged


def test_boot_py_itself_can_be_among_the_files():
    """A new boot.py replaces another one. Neither may be mistaken for the one that finishes an update."""
    old, new = {**OLD, BOOT: b"1\n"}, {**NEW, BOOT: b"2\n"}
    for cut in range(steps_of(Board(old), new)):
        board = Board(old, cut)
        assert not install(board, new)
        board.cut_after = None
        assert install(board, new)
        assert board.contents() == new


def test_an_earlier_releases_boot_py_is_known():
    """An earlier release was interrupted on this board, and its boot.py is ours too."""
    boot = (
        b"# Finishes an interrupted update of maix-posenet, then removes itself.\nimport uos\n"
        b"for n in ['x.py']:\n if n + '.new' in uos.listdir():\n  uos.rename(n + '.new', n)\n"
        b"if 'boot.py' in uos.listdir(): uos.remove('boot.py')\n"
    )
    board = Board({**OLD, BOOT: boot, "x.py.new": b"x = 1\n"})
    complete(board, NEW, users_boot=False)


@pytest.mark.parametrize("left_open", [1, 2])
def test_copying_works_when_a_stopped_program_left_files_open(left_open):
    """MaixPy's SPIFFS has two open files. With one of them held, none was left to copy to, and files looked missing.

    This was seen on stock MaixPy (tests/whole_way/test_firmware_on_maixpy.py).
    """
    board = Board(OLD)
    for name in list(OLD)[:left_open]:
        board.open(name)
    complete(board, NEW, users_boot=False)


def test_copying_closes_what_it_opened_when_it_fails():
    """If the card or flash refuses a new file, the next try must not have one open file less."""
    board = Board({**OLD, "a": b"1"})
    repl = Repl(board)
    execute(COPY, repl.namespace)
    board.open("main.py")
    with pytest.raises(OSError):
        repl.namespace["_c"]("a", "b")
    assert len(board.open_files) == 1
