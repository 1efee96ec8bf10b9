"""What a board is to everything that drives one, be it simulated or emulated: supply, lines, bytes, clock, display.

Times are seconds. Whoever keeps the clock passes `now_s`, which never goes back; without it the board keeps its own,
`seconds`, which only `run_for` and bytes on the line move on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from common.arrays import Picture
from common.wiring import ResetPins


class Camera(Protocol):
    """Anything that gives frames: all that a sensor sees, in the size asked for."""

    def frame(self, width: int, height: int) -> Picture | None:
        """Uint8 (height, width, 3) RGB, or None when no frame comes (the sensor times out)."""


class Display(Protocol):
    """A board's display, seen from in front of it."""

    @property
    def frames(self) -> int:
        """Whole frames displayed so far."""

    def image(self) -> Picture:
        """Uint8 (h, w, 3) RGB as a person sees it."""

    def save(self, path: Path) -> None:
        """Write image() as a PNG."""

    def on_frame(self, listener: Callable[[Display], None]) -> None:
        """Call `listener(display)` after each whole frame."""


class Board(Protocol):
    """A board on a serial line."""

    name: str
    pins: ResetPins
    host_baud: int
    on_console: Callable[[bytes], None]

    @property
    def powered(self) -> bool:
        """Whether it has a supply."""

    @property
    def seconds(self) -> float:
        """The board's own clock."""

    @property
    def console_baud(self) -> float:
        """The rate at which it sends."""

    @property
    def has_output(self) -> bool:
        """Whether `take_output` would give anything now."""

    @property
    def lcd(self) -> Display:
        """Its display."""

    def set_camera(self, camera: Camera) -> None:
        """What its sensor sees from the next frame on."""

    def power_on(self, now_s: float | None = None) -> None:
        """Plug it in."""

    def power_off(self) -> None:
        """Pull the plug."""

    def press_reset(self, now_s: float | None = None, boot: bool = False) -> None:
        """The reset button, with the boot button held down or not."""

    def set_lines(self, dtr: bool, rts: bool, now_s: float | None = None) -> None:
        """DTR and RTS as the host sets them, True = asserted = low."""

    def set_host_baud(self, baud: int) -> None:
        """The other end's rate."""

    def receive(self, data: bytes, now_s: float | None = None) -> None:
        """Bytes from the host; `now_s` is when the last of them has arrived."""

    def take_output(self, now_s: float | None = None) -> bytes:
        """What has reached the host and was not taken yet."""

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let the board's own clock run; stops early when `until()` holds."""
