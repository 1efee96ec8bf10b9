"""What all commands share: sizes, the folder of a build, and commands that are printed in messages."""

import ast
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.cli import dispatch, parse_size
from common.errors import UserError
from common.text import ROOT, runnable
from host_tools import payload
from host_tools.commands import monitor
from host_tools.flashing import Ui
from model_build.__main__ import COMMANDS
from model_build.commands import build, train_demo

NO_SIZES = ("", "big", "320", "x240", "320x", "0x240", "-320x240", "320x240x3", "32.0x240", "320x99999", "³20x240")


@pytest.mark.parametrize("text", NO_SIZES)
def test_a_text_that_is_no_size_is_refused(text):
    """Every command treats a wrong --size as a wrong call, which ends with exit code 2."""
    with pytest.raises(UserError, match="give WIDTHxHEIGHT in pixels, for example 320x240") as failure:
        parse_size(text)
    assert failure.value.exit_code == 2


def test_sizes_mean_the_same_everywhere():
    """Four commands once had rules of their own, which had drifted apart. Training also demands multiples of 16."""
    assert parse_size("320x240") == parse_size("320X240") == (320, 240)
    assert vars(monitor)["parse_size"] is vars(build)["parse_size"] is parse_size
    assert train_demo.scene_size("96x128") == (96, 128)
    for text in ("100x96", "16x16", "big"):
        with pytest.raises(UserError) as failure:
            train_demo.scene_size(text)
        assert failure.value.exit_code == 2


@pytest.mark.parametrize("name", ["posenet-075", "people-k210", "demo"])
def test_build_makes_the_folder_that_flash_looks_for(name, monkeypatch):
    """Without --size both commands mean the network's usual size. Otherwise flash.py would build a second time."""
    asked = []

    def build(name, width, height, out_dir, *_, **__):
        asked.append((name, width, height, out_dir.name))
        raise UserError("enough")

    monkeypatch.setattr("model_build.commands.build.build", build)
    monkeypatch.setattr(payload, "build", build)
    monkeypatch.setattr(payload, "ROOT", Path("/nonexistent"))
    assert dispatch("", "", COMMANDS, ["build", name]) == 1
    with pytest.raises(UserError, match="enough"):
        payload.build_folder(name, None, None, Ui())
    assert asked[0] == asked[1]


def test_commands_in_messages_work_as_printed_from_any_folder(tmp_path, monkeypatch):
    """A user copies a command from a message.

    Outside the checkout a bare `python -m host_tools` would find no module.
    """
    monkeypatch.chdir(ROOT)
    assert runnable("see `python -m sim run`") == "see `uv run --no-dev python -m sim run`"
    monkeypatch.chdir(tmp_path)
    text = runnable("no such port; `python -m host_tools ports` or `flash.py --list-boards`; `sudo apt`")
    assert text.endswith("`sudo apt`")
    commands = [part for part in text.split("`")[1::2] if part.startswith("uv ")]
    assert len(commands) == 2
    if shutil.which("uv") is None:
        pytest.skip("uv is absent")
    for command in commands:
        ran = subprocess.run(
            shlex.split(command),
            env=os.environ | {"UV_NO_SYNC": "1", "UV_OFFLINE": "1"},
            capture_output=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr


def shown_texts(path: Path) -> Iterator[str]:
    """The string constants of a module, without docstrings and without what argparse shows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        if isinstance(node, ast.Call):
            is_parser = isinstance(node.func, ast.Name | ast.Attribute) and ast.unparse(node.func).endswith(
                ("ArgumentParser", "add_argument", "dispatch")
            )
            if is_parser:
                left_out |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in left_out:
            left_out |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


def test_every_command_in_a_message_is_one_that_is_completed():
    """runnable() completes only commands in backticks; a command without them would not work as it is printed."""
    bare = re.compile(r"(?<!`)(?<!--no-dev )(python -m (host_tools|model_build|sim) [a-z]|flash\.py -)")
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for folder in ("common", "model_build", "sim", "host_tools", "flash.py")
        for path in ([ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py")))
        for text in shown_texts(path)
        if bare.search(text)
    ]
    assert found == []
