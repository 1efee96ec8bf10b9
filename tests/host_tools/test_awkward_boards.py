"""Boards that another project, a user or a program left in an unusual state: what flash.py says and does."""

import shutil
import sys

import pytest

import flash
from benchmarks.synthetic_kmodel import write_build
from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR
from host_tools import m5stickv
from host_tools.board_session import install_files
from host_tools.flashing import Wanted
from sim.boards.devices import GC_HEAP_BYTES, SYSTEM_HEAP_BYTES
from tests.host_tools.test_flash_command import own_memory  # noqa: F401
from tests.host_tools.test_flashing import Bench, bench  # noqa: F401


@pytest.fixture
def run(tmp_path, capsys):
    """Runs flash.py --board sim on one board again and again; gives (exit code, stdout, stderr)."""
    build = write_build(tmp_path / "build")
    (tmp_path / "board" / "flash").mkdir(parents=True)
    install_files(build, tmp_path / "board" / "flash")  # What is copied is not tested here.

    def flash_it(*options):
        common = ["--board", "sim", "--images", "scene", "--frames", "1", "--model", str(build)]
        code = flash.main([*common, "--state", str(tmp_path / "board"), *options])
        return (code, *capsys.readouterr())

    flash_it.files = tmp_path / "board" / "flash"  # type: ignore[attr-defined]
    return flash_it


# -- MaixPy's heap -------------------------------------------------------------------------------------------


def test_a_heap_that_leaves_no_room_for_the_network_is_named(run):
    """Another project has set MaixPy's heap to 1.5 MB.

    MaixPy 0.6.2 would hang in KPU.load, so flash.py says it before.
    """
    (run.files / "freq.conf").write_text(str(SYSTEM_HEAP_BYTES + GC_HEAP_BYTES - 5000))
    code, _, error = run()
    assert code == 1 and error.count("\n") == 1
    assert "another project has set MaixPy's heap" in error and "flash.py --reset-heap" in error
    code, out, error = run("--reset-heap")
    assert code == 0 and f"to the usual {GC_HEAP_BYTES} bytes" in out and "1 frame(s)" in out, error
    code, out, _ = run("--reset-heap")
    assert code == 0 and f"it has the usual {GC_HEAP_BYTES} bytes" in out


def test_a_heap_too_small_for_our_modules_is_named(run):
    """The user gets a sentence that names the remedy, and not a MemoryError from somewhere on the board."""
    (run.files / "freq.conf").write_text(str(128 << 10))
    code, _, error = run()
    assert code == 1 and "too small for our programs" in error and "--reset-heap" in error
    assert run("--reset-heap")[0] == 0


# -- what the board says -------------------------------------------------------------------------------------

APPLICATION = """
import sys, utime
print("posenet: starts in 0 ms, Ctrl-C or the button gives the REPL")
while 1:
    try:
        raise OSError("Reset Failed")
    except OSError as error:
        print("posenet: No camera: No sensor answers.")
        sys.print_exception(error)
    utime.sleep_ms(300)
"""


def test_the_last_line_carries_the_boards_own_sentence(bench):  # noqa: F811
    """The application says why it cannot run and tries again. main.py has not stopped; a traceback explains less."""
    board = bench()
    flasher = board.flasher()
    flasher.run(Wanted([], {"main.py": APPLICATION.encode()}))
    with pytest.raises(UserError, match="the board says: No camera: No sensor answers") as caught:
        flasher.start(lambda line: False)
    assert "stopped" not in str(caught.value)


def test_what_kept_the_application_from_starting_is_said(bench):  # noqa: F811
    """main.py tries to start the application only once. Its reason is shown at once and not after a minute."""
    board = bench()
    flasher = board.flasher()
    flasher.run(Wanted([], {"main.py": b"print('posenet: did not start: ImportError: no app')\n"}))
    began = board.line.now()
    with pytest.raises(UserError, match="the board says: did not start: ImportError: no app"):
        flasher.start(lambda line: False)
    assert board.line.now() - began < 20


def test_a_boot_py_that_never_ends_is_named(bench):  # noqa: F811
    """While boot.py runs, main.py never starts, whatever it contains. The user must learn that it is boot.py."""
    board = bench()
    (board.flash_dir / "boot.py").write_bytes(b"import utime\nprint('my loop')\nwhile 1:\n utime.sleep_ms(10)\n")
    flasher = board.flasher()
    flasher.run(Wanted([], {"main.py": b"print('posenet: starts in 0 ms')\n"}))
    assert (board.flash_dir / "boot.py").exists()

    def wait_in_vain(line):
        if "my loop" in line:
            board.board.seconds += 60  # The board's clock, by which this is long enough.
        return False

    with pytest.raises(UserError, match="boot.py on the board does not end.*'my loop'.*rename"):
        flasher.start(wait_in_vain)


@pytest.mark.parametrize("maker", ["m5stickv", "lilygo", ""])
def test_main_runs_once_whoever_starts_it(bench, maker):  # noqa: F811
    """MaixPy executes main.py after boot.py, and on some boards our boot.py imports it. It must still run only once."""
    board = bench()
    for name in ("main.py", "boards.py", "maixpy_api.py"):
        shutil.copy(FIRMWARE_DIR / name, board.flash_dir)
    (board.flash_dir / "app.py").write_text("class App:\n def run(self):\n  print('the application')\n")
    if maker:
        (board.flash_dir / "boot.py").write_bytes(m5stickv.boot_program(maker))
    repl = board.flasher().repl
    assert repl.try_enter()
    repl.start_main()
    said = repl.read_until(b">>> ", 120)
    assert said is not None and said.count(b"the application") == 1, said


@pytest.mark.parametrize("said", ["posenet: starts in 500 ms", "a program that never ends"])
def test_a_soft_reset_leads_to_the_prompt_where_boot_py_starts_main(bench, said):  # noqa: F811
    """M5Stack's builds run boot.py at a soft reset too. Ours starts main.py, so diff once found no prompt."""
    board = bench()
    (board.flash_dir / "boot.py").write_bytes(m5stickv.boot_program())
    main = f"import utime\nprint({said!r})\nwhile 1:\n utime.sleep_ms(10)\n"
    (board.flash_dir / "main.py").write_text(main)
    repl = board.flasher().repl
    assert repl.try_enter()
    repl.soft_reset()
    assert repl._prepare()


@pytest.mark.parametrize("options", [[], ["--terminal"]])
def test_the_terminal_opens_even_when_something_failed(run, monkeypatch, options):
    """A failure is when somebody wants the terminal. The error is shown before it opens and again as the last line."""
    opened = []
    monkeypatch.setattr(flash, "terminal", lambda transport: opened.append(sys.stderr.flush()))
    (run.files / "freq.conf").write_text(str(128 << 10))
    code, _, error = run(*options)
    assert code == 1 and len(opened) == len(options) and error.count("too small") == 1 + len(options)
