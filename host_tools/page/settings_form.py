"""settings.json as a form; its keys, types and explanations come from firmware/boards.py."""

from __future__ import annotations

import io
import json
import tempfile
import tokenize
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from host_tools.payload import SETTINGS

_KINDS = {bool: "switch", int: "number", str: "text", dict: "object"}
LARGEST_BYTES = 4096


def explanations() -> dict[str, str]:
    """Key of DEFAULTS → the comment at the end of its line."""
    source = (FIRMWARE_DIR / "boards.py").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    keys = firmware_module("boards").DEFAULTS
    start = source[: source.index("DEFAULTS = {")].count("\n")
    first_string: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row = token.start[0]
        if token.type == tokenize.STRING:
            first_string.setdefault(row, token.string[1:-1])
        elif token.type == tokenize.COMMENT and row > start:
            key = first_string.get(row, "")
            if key in keys:
                found.setdefault(key, token.string.lstrip("# "))
    return found


def fields() -> list[dict[str, Any]]:
    """The form's fields in the order of DEFAULTS: key, kind, default, whether null is allowed, choices, explanation."""
    boards = firmware_module("boards")
    words = explanations()
    made = []
    for key, default in boards.DEFAULTS.items():
        kind = boards.KINDS.get(key) or type(default)
        choices = sorted(boards.BOARDS) if key == "board" else boards.CHOICES.get(key)
        made.append(
            {
                "key": key, "kind": _KINDS[kind], "default": default, "choices": list(choices) if choices else None,
                "may_be_null": default is None or key == "lcd", "words": words.get(key, ""),
            }
        )  # fmt: skip
    return made


def checked(settings: Any) -> bytes:
    """The bytes of settings.json; UserError with the firmware's own message if the board would refuse it."""
    text = json.dumps(settings, indent=1) + "\n"
    if len(text) > LARGEST_BYTES:
        raise UserError(f"settings.json would have {len(text)} bytes; it may have at most {LARGEST_BYTES}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SETTINGS
        path.write_text(text, encoding="utf-8")
        try:
            firmware_module("boards").load_settings(str(path), str(Path(folder) / "none"))
        except ValueError as error:
            raise UserError(str(error).replace(str(path), SETTINGS)) from None
    return text.encode()
