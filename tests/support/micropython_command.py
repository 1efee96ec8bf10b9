"""The MicroPython of the package registry, for tests that run the firmware's files without a board around them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.conftest import absent


def micropython_command() -> str:
    """The command that starts it; without it the test is skipped or, if it is required, fails."""
    command = shutil.which("micropython", path=str(Path(sys.executable).parent)) or shutil.which("micropython")
    if command is None:
        absent("micropython", "the command micropython")
    return command
