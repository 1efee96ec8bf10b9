"""What Windows lacks is missing here too: modules of POSIX cannot be imported, and the console knows few characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "micropython_run", "nncase", "tensorflow")
# pyserial uses another of its own files on Windows.
START = f"""
import json, runpy, serial, serial.tools.list_ports, sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
for sys.argv in json.loads(sys.argv[1]):
    try:
        if sys.argv[0] == "flash.py":
            runpy.run_path("flash.py", run_name="__main__")
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert ended.code in (0, 1, 2), ended.code
    for stream in (sys.stdout, sys.stderr):
        print("END", file=stream)
"""
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


@pytest.mark.parametrize(("number", "encoding"), enumerate(["cp1252", "cp437", "ascii"]))
def test_commands_work_with_a_poor_console_and_without_posix(number, encoding):
    """A character that the console lacks is replaced, and nobody sees a traceback because of it."""
    commands = COMMANDS[number::3]
    ended = subprocess.run(
        [sys.executable, "-c", START, json.dumps(commands)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=300,
    )
    out, errors = (stream.decode(encoding, "replace").split("END\n") for stream in (ended.stdout, ended.stderr))
    assert ended.returncode == 0 and len(out) == len(errors) == len(commands) + 1, errors
    assert "Traceback" not in "".join(errors), errors
    assert all(said + complained for said, complained in zip(out[:-1], errors[:-1], strict=True))
