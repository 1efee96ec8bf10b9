"""On computers without MicroPython, CPython plays its part, and the board's program gives the same integers."""

from __future__ import annotations

import signal

import pytest

from benchmarks.scripted_network import devices, flash_dir, person
from benchmarks.showcase import run_until
from sim.boards.vm import INTERPRETER, MicroPythonVm, micropython_folder
from tests.conftest import absent


def pose_lines(folder) -> list[str]:
    """The pose lines of the second and third frame; one person waves and another stands."""
    people = [person(100, 120), person(230, 130, left_wrist=(0.1, -0.2))]
    with MicroPythonVm(flash_dir(folder, repl=True, smooth=False), devices(lambda frame: people)) as vm:
        said = run_until(vm, lambda said: said.count("seq") >= 4)
    lines = [line.split('"poses"')[1] for line in said.splitlines() if line.startswith("{")]
    assert len(lines) >= 3, said
    return lines[1:3]


def test_cpython_gives_micropythons_pose_lines(tmp_path, monkeypatch):
    """The whole program runs in both interpreters over the same stand-ins, and the lines must agree to the byte."""
    if micropython_folder() is None:
        absent("micropython", "a MicroPython to compare with")
    first = pose_lines(tmp_path / "micropython")
    monkeypatch.setenv(INTERPRETER, "cpython")
    assert micropython_folder() is None
    assert pose_lines(tmp_path / "cpython") == first


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_ctrl_c_ends_a_loop_that_asks_for_nothing(tmp_path, monkeypatch, handler):
    """Where no signal reaches the board's process, an interrupt must still end a busy loop.

    On Windows a process gets no signal, so the wish to interrupt goes through memory. A shell that starts us in the
    background ignores SIGINT for us and every process that we start.
    """
    monkeypatch.setenv(INTERPRETER, "cpython")
    (tmp_path / "main.py").write_text("print('loops')\nwhile True:\n    pass\n")
    before = signal.signal(signal.SIGINT, handler)
    try:
        with MicroPythonVm(tmp_path, devices(lambda frame: [])) as vm:
            run_until(vm, lambda said: "loops" in said)
            vm.write(b"\x03")
            assert "KeyboardInterrupt" in vm.output()
            assert vm.poll() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_of_the_computer_is_imported(tmp_path, monkeypatch):
    """Modules come only from /flash. A program that lacks a module on the board must fail here too."""
    monkeypatch.setenv(INTERPRETER, "cpython")
    (tmp_path / "main.py").write_text("import numpy\n")
    with MicroPythonVm(tmp_path, devices(lambda frame: [])) as vm:
        assert "ImportError: No module named 'numpy'" in vm.output()
