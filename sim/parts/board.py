"""The interface of a board, simulated or emulated, to everything that drives one: power, lines, bytes, clock, display.

Times are in seconds. A caller that keeps the clock passes `now_s`, which never goes back. Without it the board keeps
its own clock, `seconds`, which only `run_for` and bytes on the line advance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from common.arrays import Picture
from common.wiring import ResetPins


class Camera(Protocol):
    """Gives frames that show everything the sensor sees, in the requested size."""

    def frame(self, width: int, height: int) -> Picture | None:
        """Uint8 (height, width, 3) RGB, or None if no frame comes (the sensor times out)."""


class Display(Protocol):
    """A board's display, seen from in front of it."""

    @property
    def frames(self) -> int:
        """The number of whole frames displayed so far."""

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
        """Whether the board has power."""

    @property
    def seconds(self) -> float:
        """The time by the board's own clock."""

    @property
    def console_baud(self) -> float:
        """The baud rate at which the board sends."""

    @property
    def has_output(self) -> bool:
        """Whether `take_output` would return anything now."""

    @property
    def lcd(self) -> Display:
        """The board's display."""

    def set_camera(self, camera: Camera) -> None:
        """Connect another camera to the board, from the next frame on."""

    def power_on(self, now_s: float | None = None) -> None:
        """Give the board power."""

    def power_off(self) -> None:
        """Take the board's power away."""

    def press_reset(self, now_s: float | None = None, boot: bool = False) -> None:
        """Press the reset button, with the boot button held down or not."""

    def set_lines(self, dtr: bool, rts: bool, now_s: float | None = None) -> None:
        """Set DTR and RTS as the host does; True is asserted, which is low."""

    def set_host_baud(self, baud: int) -> None:
        """Tell the board the baud rate of the other end."""

    def receive(self, data: bytes, now_s: float | None = None) -> None:
        """Send bytes to the board; the last of them arrives at `now_s`."""

    def take_output(self, now_s: float | None = None) -> bytes:
        """Take the bytes that have reached the host."""

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let the board's own clock run; stops early if `until()` becomes true."""
