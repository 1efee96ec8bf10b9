"""Text that comes from elsewhere: made harmless before it reaches a terminal."""

from __future__ import annotations


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
