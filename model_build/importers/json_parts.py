"""JSON files that name other files beside them, as both forms of TensorFlow.js do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import FormatError


def parse(text: bytes) -> Any:
    """The value of a JSON text; FormatError if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not JSON: {error}") from None


def file_beside(name: Any) -> str:
    """The name of a file in the same folder; FormatError for a path to anywhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or name != Path(name).name or "\0" in name:
        raise FormatError(f"it names the file {name!r:.60}, which is not a plain name of a file beside it")
    return name
