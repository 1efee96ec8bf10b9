"""The one place where host code reaches the board's modules.

On the board they are flat files that import each other by plain name, so firmware/ goes on sys.path here and
nowhere else.
"""

from __future__ import annotations

import ast
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


def with_imports(*names: str) -> list[str]:
    """These modules of the board and all of its modules that they import, anywhere in them, sorted by name."""
    found: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        for node in ast.walk(ast.parse((FIRMWARE_DIR / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported = {node.module}
            else:
                continue
            todo |= {one for one in imported if (FIRMWARE_DIR / f"{one}.py").is_file()} - found
    return sorted(found)
