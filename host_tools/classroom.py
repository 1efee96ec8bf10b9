"""`flash.py --all`: flashes all boards at once, with a row and a bar for each; one that fails stops no other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from common.text import printable
from host_tools.page.station import Station
from host_tools.payload import Payload

BAR_CELLS = 20
LOOK_AGAIN_S = 0.2


def flash_all(stations: Sequence[Station], payload: Payload, out: Any) -> int:
    """Flash all boards and return how many failed. On a terminal rows are redrawn; a pipe gets a line for each step.

    The boards keep running; their lines are closed.
    """
    for station in stations:
        station.flash(lambda ui: payload)
    shown: dict[str, str] = {}
    is_redrawn = False
    while True:
        busy = any(station.is_busy for station in stations)
        if out.isatty():
            text = "".join(f"\x1b[K{row(station)}\n" for station in stations)
            out.write((f"\x1b[{len(stations)}A" if is_redrawn else "") + text)
            is_redrawn = True
        else:
            for station in stations:
                line = f"{station.title}: {station.error or station.step}"
                if shown.get(station.key) != line:
                    shown[station.key] = line
                    out.write(printable(line) + "\n")
        out.flush()
        if not busy:
            break
        time.sleep(LOOK_AGAIN_S)
    failed = [station for station in stations if station.state == "failed"]
    for station in stations:
        station.close()
    out.write(f"{len(stations) - len(failed)} of {len(stations)} boards show poses\n")
    for station in failed:
        out.write(printable(f"{station.title}: {station.error}") + "\n")
    return len(failed)


def row(station: Station, width: int = 100) -> str:
    """One board's row: its name, a bar, and its current step."""
    mark = {"live": "done", "failed": "FAILED"}.get(station.state, "")
    bar = " " * BAR_CELLS
    if station.bar is not None:
        cells = BAR_CELLS * station.bar[1] // max(station.bar[2], 1)
        bar = "#" * cells + "." * (BAR_CELLS - cells)
    text = f"{station.title:24} [{bar}] {mark:6} {station.error or station.step}"
    return printable(text)[:width]
