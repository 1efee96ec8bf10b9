"""JSON files that name other files beside them, as both forms of TensorFlow.js do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import FormatError


def parse(text: bytes) -> Any:
    """What stands in JSON text; FormatError if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not JSON: {error}") from None


def file_beside(name: Any) -> str:
    """The name of a file in the same folder; FormatError for what leads elsewhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or name != Path(name).name or "\0" in name:
        raise FormatError(f"it names the file {name!r:.60}, which is not a plain name of a file beside it")
    return name
