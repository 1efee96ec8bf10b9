"""Text that comes from elsewhere: made harmless before it reaches a terminal."""

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
    """`text` whose commands of this project, written `flash.py …` or `python -m …` in backticks, work as they stand.

    That is by `uv run`, which outside the checkout is told where that is: the command then runs there, so a path in it
    must be whole.
    """
    where = "" if Path.cwd() == ROOT else f'--directory "{ROOT}" ' if " " in str(ROOT) else f"--directory {ROOT} "
    return _COMMAND.sub(lambda found: f"`uv run --no-dev {where}{found[1]}", text)
