"""The one place where host code reaches the board's modules.

On the board they are flat files that import each other by plain name, so firmware/ goes on sys.path here and
nowhere else.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

FIRMWARE_DIR = Path(__file__).resolve().parent.parent / "firmware"


def firmware_module(name: str) -> ModuleType:
    """Import one of the board's modules, `decoder` for example, from its own source file."""
    if str(FIRMWARE_DIR) not in sys.path:
        sys.path.append(str(FIRMWARE_DIR))
    return importlib.import_module(name)
