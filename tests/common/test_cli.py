"""What the commands share."""

from pathlib import Path

import pytest

from common.cli import dispatch, parse_size
from common.errors import UserError
from host_tools import payload
from host_tools.commands import monitor
from host_tools.flashing import Ui
from model_build.__main__ import COMMANDS
from model_build.commands import build, train_demo

NO_SIZES = ("", "big", "320", "x240", "320x", "0x240", "-320x240", "320x240x3", "32.0x240", "320x99999", "³20x240")


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size(text):
    """Every command takes a wrong --size for a wrong call: exit code 2."""
    with pytest.raises(UserError, match="give WIDTHxHEIGHT in pixels, for example 320x240") as failure:
        parse_size(text)
    assert failure.value.exit_code == 2


def test_sizes_mean_the_same_everywhere():
    """One rule: four of them had drifted apart. Training also wants multiples of 16, and that is a wrong call too."""
    assert parse_size("320x240") == parse_size("320X240") == (320, 240)
    assert monitor.parse_size is build.parse_size is parse_size
    assert train_demo.scene_size("96x128") == (96, 128)
    for text in ("100x96", "16x16", "big"):
        with pytest.raises(UserError) as failure:
            train_demo.scene_size(text)
        assert failure.value.exit_code == 2


@pytest.mark.parametrize("name", ["posenet-075", "people-k210", "demo"])
def test_build_makes_the_folder_that_flash_looks_for(name, monkeypatch):
    """Without a size both mean the network's usual one; else flash.py would build once more."""
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
