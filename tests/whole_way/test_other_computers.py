"""What Windows lacks is missing here too: modules of POSIX cannot be imported, and the console knows few characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "micropython_run", "nncase", "tensorflow")
# pyserial uses another of its own files on Windows.
START = (
    "import sys, runpy, serial, serial.tools.list_ports\n"
    f"sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
    "sys.argv = sys.argv[1:]\n"
    "if sys.argv[0] == 'flash.py':\n"
    "    runpy.run_path('flash.py', run_name='__main__')\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
)
COMMANDS = [
    ["flash.py", "--help"],
    ["flash.py", "--list-boards"],
    ["flash.py", "--board", "sim", "--model", "nowhere→", "--dry-run"],
    ["sim", "board", "--help"],
    ["sim", "run", "--help"],
    ["host_tools", "ports"],
    ["host_tools", "diff", "--help"],
    ["host_tools", "monitor", "--help"],
    ["model_build", "list"],
    ["model_build", "build", "--help"],
]


@pytest.mark.parametrize(("encoding", "command"), zip(["cp1252", "cp437", "ascii"] * 4, COMMANDS, strict=False))
def test_commands_work_with_a_poor_console_and_without_posix(encoding, command):
    """A character that the console lacks is replaced, and nobody sees a traceback because of it."""
    ended = subprocess.run(
        [sys.executable, "-c", START, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )
    assert b"Traceback" not in ended.stderr, ended.stderr.decode(encoding, "replace")
    assert ended.returncode in (0, 1, 2) and ended.stdout + ended.stderr
