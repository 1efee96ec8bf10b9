"""Shows on the terminal how far `flash.py` is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from common.text import printable, runnable
from host_tools.flashing import Ui


class Show:
    """Prints steps with numbers and times; a progress bar on a terminal, plain lines in a pipe."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.count = 0
        self.clock: Callable[[], float] = time.monotonic
        self._started_s = time.monotonic()
        self._bar_started: tuple[str, float] | None = None
        self._bar_open = False
        self._shown_percent = -1

    def step(self, text: str) -> None:
        """Print the beginning of a new step."""
        self._close_bar()
        self.count += 1
        self._bar_started = None
        print(f"{time.monotonic() - self._started_s:6.1f} s  {self.count}. {printable(text)}", flush=True)

    def detail(self, text: str) -> None:
        """Print a line below the step."""
        self._close_bar()
        print(f"             {printable(runnable(text))}", flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how many bytes of all are done."""
        now = self.clock()
        if self._bar_started is None or self._bar_started[0] != what:
            self._bar_started = (what, now)
            self._shown_percent = -1
        percent = 100 * done // max(total, 1)
        rate = done / max(now - self._bar_started[1], 1e-3) / 1024
        text = f"             {printable(what)} {percent:3d} %  {done // 1024} of {total // 1024} KiB  {rate:.0f} KiB/s"
        if self.is_terminal:
            print(f"\r{text}   ", end="", flush=True)
            self._bar_open = done < total
            if done >= total:
                print()
        elif done >= total and self._shown_percent < 100:
            print(text, flush=True)
        self._shown_percent = percent

    def _close_bar(self) -> None:
        if self._bar_open:
            print()
            self._bar_open = False

    def ui(self) -> Ui:
        return Ui(self.step, self.detail, self.progress)
