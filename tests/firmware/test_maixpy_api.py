"""Tests firmware/maixpy_api.py where MaixPy's builds differ, with stand-ins for MaixPy's modules."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from common.firmware_modules import firmware_module

maixpy_api = firmware_module("maixpy_api")


@pytest.mark.parametrize(
    ("options", "told"),
    [({}, True), ({"width": 480, "height": 320, "invert": 1}, False), ({"dir": 8}, False)],
)
def test_an_amigo_that_was_not_recognized_says_what_to_set(monkeypatch, options, told):
    """Without config.json nothing tells an Amigo TFT from an IPS one, so the user must be told what to set.

    Once an IPS one showed negatives and nothing said what to do. An Amigo is known by its LCD, the only one 480 pixels
    wide. Who has set a direction knows settings.json already and is not told.
    """
    done = []
    lcd = SimpleNamespace(
        init=lambda **given: done.append(given), width=lambda: 480, height=lambda: 320, direction=done.append
    )
    monkeypatch.setitem(sys.modules, "lcd", lcd)
    monkeypatch.setattr(maixpy_api, "ways", [])
    assert maixpy_api.start_lcd(options) == (480, 320)
    assert done == [{name: value for name, value in options.items() if name != "dir"}, options.get("dir", 40)]
    assert any("amigo_ips if the colours are negative" in way for way in maixpy_api.ways) == told


@pytest.mark.parametrize(("rotation", "direction"), [(0, 0x28), (1, 0x88), (2, 0xE8), (3, 0x48)])
def test_a_rotated_lcd_keeps_its_direction(monkeypatch, rotation, direction):
    """MaixPy's lcd.rotation() sets the direction that other LCDs have, so the Amigo's must be set again after it.

    Once an Amigo with --mount, or with "rotation" in settings.json, showed a mirror image with red and blue exchanged.
    """
    done: list[object] = []
    lcd = SimpleNamespace(
        init=lambda **given: None, width=lambda: 480, height=lambda: 320,
        direction=done.append, rotation=lambda value: done.append(("rotation", value)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "lcd", lcd)
    monkeypatch.setattr(maixpy_api, "ways", [])
    maixpy_api.start_lcd({"width": 480})
    maixpy_api.rotate_lcd(rotation)
    assert done == [40, ("rotation", rotation), direction]
    lcd.width = lambda: 320
    done.clear()
    maixpy_api.start_lcd({})
    maixpy_api.rotate_lcd(rotation)
    assert done == [("rotation", rotation)]
