"""Every command ends in one line when the computer or the serial line refuses something, whatever it was doing."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flash
from benchmarks.synthetic_kmodel import write_build
from common import cli
from common.cli import dispatch
from common.transport import LineLostError, SerialTransport
from host_tools.__main__ import COMMANDS as HOST_TOOLS
from model_build.__main__ import COMMANDS as MODEL_BUILD
from sim.boards.simulated_session import SimulatedSession
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import scene_camera
from tests.host_tools.test_flash_command import make_build, own_memory  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build(tmp_path):
    return make_build(tmp_path / "build")


def one_line(capsys) -> str:
    error: str = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in error, error
    return last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trace", "/dev/null/trace.txt"], "--trace /dev/null: /dev/null is a file; give a folder"),
        (["--trace", "/dev/full"], "No space left on device; make room"),
        (["--state", "/dev/null/board"], "/dev/null/board"),
        (["--kfpkg", "/dev/null/out.kfpkg"], "/dev/null"),
        (["--lcd", "/dev/null/lcd"], "/dev/null/lcd"),
    ],
)
def test_flash_says_in_one_line_which_place_it_cannot_write(build, tmp_path, capsys, arguments, words):
    """flash.py meets a full disk, a folder that is a file, and a path that does not exist, and says so in one line."""
    state = ["--state", str(tmp_path / "board")] if "--state" not in arguments else []
    assert flash.main(["--board", "sim", "--images", "scene", "--model", str(build), *state, *arguments]) in (1, 2)
    assert words in one_line(capsys)


@pytest.mark.parametrize(
    ("commands", "arguments"),
    [
        (HOST_TOOLS, ["monitor", "--replay", "RECORD", "--speed", "0", "--record", "/dev/null/x"]),
        (HOST_TOOLS, ["monitor", "--replay", "RECORD", "--speed", "0", "--record", "/dev/full"]),
        (HOST_TOOLS, ["diff", "--board", "sim", "--build", "/dev/null/x", "x.png"]),
        (MODEL_BUILD, ["inspect", "KMODEL", "--html", "/dev/null/x.html"]),
        (MODEL_BUILD, ["inspect", "/dev/null/x"]),
    ],
)
def test_the_other_commands_say_it_in_one_line_too(build, tmp_path, capsys, commands, arguments):
    """All commands go through one function that turns errors into lines, so no command can forget to do it."""
    record = tmp_path / "record"
    record.write_text('{"t": 0, "line": "hello"}\n')
    known = {"RECORD": str(record), "KMODEL": str(build / "posenet.kmodel")}
    assert dispatch("x", "", commands, [known.get(word, word) for word in arguments]) in (1, 2)
    one_line(capsys)


def test_a_full_output_ends_in_one_line(tmp_path):
    """With `… > /dev/full` Python itself would print a second complaint while it ends."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "flash.py", "--list-boards"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device; make room there and run the same command again\n"


def test_what_the_system_says_is_kept():
    """The user needs the system's own words: both names of a failed renaming, or an error that has no number."""
    both = OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")
    assert str(cli.refusal(both)).startswith("a → b: Invalid")
    assert "timed out" in str(cli.refusal(TimeoutError("timed out")))


class Unplugged(BoardTransport):
    """A simulated board whose cable is pulled after this many writes."""

    def __init__(self, board, writes):
        self.left = writes
        super().__init__(board)

    def _use(self):
        if self.left <= 0:
            raise LineLostError(self.name, "device disconnected")

    def write(self, data):
        self.left -= 1
        self._use()
        super().write(data)

    def read(self, timeout_s):
        self._use()
        return super().read(timeout_s)

    def set_lines(self, dtr, rts):
        self._use()
        super().set_lines(dtr, rts)


FEW_CUTS = (0, 1 / 6, 1 / 2, 19 / 20)
"""Where the cable is pulled, as a part of all writes.

A busy machine may need a few writes less than the first run did, so the last cut is not at the very end.
"""


@pytest.mark.parametrize(
    ("arguments", "cuts"),
    [
        pytest.param([], FEW_CUTS, id="start"),
        pytest.param(["--erase", "kmodel", "--no-start"], FEW_CUTS[:2], id="erase"),
        pytest.param([], (1 / 200, 1 / 12, 1 / 3, 2 / 3, 5 / 6), id="start-more", marks=pytest.mark.slow),
        pytest.param(["--erase", "kmodel", "--no-start"], FEW_CUTS, id="erase-more", marks=pytest.mark.slow),
    ],
)
def test_a_cable_pulled_at_any_step_of_flashing_is_one_line(tmp_path, capsys, monkeypatch, arguments, cuts):
    """The cable is pulled while flash.py erases, compares, writes, copies or starts. Each ends in the same line."""
    build = write_build(tmp_path / "build")
    steps = set()
    transports = []

    def flash_until(writes):
        def open_line(options, show):
            session = SimulatedSession(options.state, scene_camera())
            transports.append(Unplugged(session.board, writes))
            return flash.Line(transports[-1], ("dan",), (1_500_000,), close=session.close)

        monkeypatch.setattr(flash, "open_line", open_line)
        monkeypatch.setattr(flash, "choose_port", lambda board, ports: None)
        state = tmp_path / f"board{writes}"
        code = flash.main(["--board", "dock", "--model", str(build), "--state", str(state), *arguments])
        out, error = capsys.readouterr()
        steps.add(re.sub(r"^[\d.]+ s ", "", out.strip().splitlines()[-1].strip()))
        return code, error

    assert flash_until(100_000)[0] == 0
    total = 100_000 - transports[0].left
    for cut in cuts:
        code, error = flash_until(int(cut * total))
        assert code == 1 and error.count("\n") == 1 and "went away (device disconnected); plug it in" in error
    assert len(steps) > 2, steps


@pytest.mark.parametrize(("arguments", "code"), [(["info"], 1), (["monitor"], 2), (["capture", "--out", "OUT"], 2)])
def test_the_other_commands_say_that_the_port_went_away(tmp_path, capsys, monkeypatch, arguments, code):
    """The port is a real one, a pseudo-terminal, whose other end closes while the command is running."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    ends, read = [master], SerialTransport.read

    def read_of_a_closed_end(transport, timeout_s):
        while ends:
            os.close(ends.pop())
        return read(transport, timeout_s)

    monkeypatch.setattr(SerialTransport, "read", read_of_a_closed_end)
    known = {"OUT": str(tmp_path / "out")}
    try:
        assert dispatch("x", "", HOST_TOOLS, [known.get(word, word) for word in arguments] + ["--port", name]) == code
    finally:
        os.close(slave)
    assert f"{name} went away" in one_line(capsys)


def test_every_error_of_the_ports_driver_is_a_lost_line():
    """pyserial's flush() lets termios.error through, which is no OSError and would end in a traceback."""
    import termios

    master, slave = os.openpty()
    transport = SerialTransport(os.ttyname(slave))

    def fail():
        raise termios.error(5, "Input/output error")

    transport._serial.flush = fail
    with pytest.raises(LineLostError, match="went away.*Input/output error"):
        transport.write(b"x")
    transport.close()
    os.close(master)
    os.close(slave)
