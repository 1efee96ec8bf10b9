"""Conditions that benchmarks.showcase.run_until can wait for."""

from __future__ import annotations

from collections.abc import Callable

from sim.boards.devices import Lcd


def says(text: str, times: int = 1, before: str = "") -> Callable[[str], bool]:
    """The board has printed `text` at least this many times, counting the output `before`."""
    return lambda said: (before + said).count(text) >= times


def shows(lcd: Lcd, frames: int) -> Callable[[str], bool]:
    """The LCD has received at least this many frames."""
    return lambda said: lcd.frames >= frames
