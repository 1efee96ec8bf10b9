"""The steps from a flasher on an open line to a board that shows poses, shared by `flash.py` and the page."""

from __future__ import annotations

import json
from collections.abc import Callable

from common.firmware_modules import firmware_module
from host_tools.flashing import Flasher, Result, release
from host_tools.known_boards import Port, memory_path, remember
from host_tools.payload import SETTINGS, Payload


def board_settings(board: str) -> bytes:
    """A settings.json for a board without one: its profile, and pose lines on the console."""
    settings: dict[str, object] = {"repl": True}
    profile = "bit" if board == "bit-mic" else board
    if profile in firmware_module("boards").BOARDS:
        settings["board"] = profile
    return (json.dumps(settings) + "\n").encode()


def bring_up(flasher: Flasher, payload: Payload, board: str, port: Port | None) -> Result:
    """Write and verify what differs, remember the wiring that worked, and set the modem lines so that the board
    runs."""
    result = flasher.run(payload.wanted)
    if port is not None and result.wiring:
        remember(port, board, result.wiring)
        flasher.ui.detail(f"remembered {port.device} as {board}, {result.wiring} wiring ({memory_path()})")
    release(flasher.transport, result.wiring)
    if not result.written_parts and not result.written_files:
        flasher.ui.detail("everything was there already")
    return result


def start_poses(flasher: Flasher, payload: Payload, board: str, on_line: Callable[[str], bool]) -> None:
    """Start main.py on a board that holds the payload, and give every line to `on_line` until that returns True."""
    flasher.check_heap(payload.heap_bytes)
    if flasher.repl.file_states([SETTINGS])[SETTINGS] is None:
        flasher.repl.install({SETTINGS: board_settings(board)}, flasher.repl.info())
    flasher.ui.step("starting, waiting for poses")
    flasher.start(on_line)
