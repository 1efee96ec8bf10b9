"""Text from outside is made harmless here before it reaches a terminal."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""This is the folder of the checkout."""
_COMMAND = re.compile(r"`(flash\.py|python -m (?:host_tools|model_build|serial|sim))\b")


def printable(text: str) -> str:
    """`text` with everything but visible characters, spaces, tabs and line ends written as an escape (`\\x1b`).

    Escape sequences could recolour, rename or rewrite the terminal; characters that turn the direction of writing
    could show a file name as another.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def runnable(text: str) -> str:
    """`text` with its commands of this project (`flash.py …` or `python -m …` in backticks) written so that they work.

    They begin with `uv run`, and outside of the checkout with its folder as well. The command then runs in that folder,
    so a path in it must be absolute.
    """
    where = "" if Path.cwd() == ROOT else f'--directory "{ROOT}" ' if " " in str(ROOT) else f"--directory {ROOT} "
    return _COMMAND.sub(lambda found: f"`uv run --no-dev {where}{found[1]}", text)
