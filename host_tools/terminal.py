"""The board's console in this terminal."""

from __future__ import annotations

import os
import select
import sys

from common.errors import UserError
from common.transport import CONSOLE_BAUD, Transport


def terminal(transport: Transport) -> None:
    """The board's console; Ctrl-] ends it."""
    # Flashing may have left the line at another rate.
    transport.set_baud(CONSOLE_BAUD)
    print("--- console of the board, Ctrl-] ends it ---")
    try:
        import termios
        import tty
    except ImportError:
        raise UserError(
            f"--terminal needs a Unix terminal; use `python -m serial.tools.miniterm {transport.name} {CONSOLE_BAUD}`"
        ) from None

    stdin = sys.stdin.fileno()
    saved = termios.tcgetattr(stdin) if sys.stdin.isatty() else None
    try:
        if saved is not None:
            tty.setraw(stdin)
        while True:
            sys.stdout.buffer.write(transport.read(0.02))
            sys.stdout.flush()
            if select.select([stdin], [], [], 0)[0]:
                typed = os.read(stdin, 256)
                if b"\x1d" in typed or not typed:
                    return
                transport.write(typed)
    finally:
        if saved is not None:
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)
        print("\n--- end ---")
