"""Checks the answers of target.py on a board before they are used: JSON of a known form, numbers in bounds."""

from __future__ import annotations

import json
from typing import Any

from common.errors import FormatError

COUNT = range(1 << 31)
FACTS = {
    "boot": str, "system": str, "network": str, "size": (range(1, 4096), range(1, 4096)),
    "field": (range(1, 4096), range(1, 4096)), "map": (range(1, 1024), range(1, 1024)),
    "channels": [range(1, 4096)], "keypoints": [str], "edges": [(range(256), range(256))],
    "kmodel": {"bytes": COUNT, "crc32": range(1 << 32)}, "threshold": float, "max_poses": range(1, 256),
    "line": {"frames": COUNT, "errors": COUNT, "resent": COUNT},
}  # fmt: skip
"""The form of INFO. A range stands for an integer in it, float for any finite number, a tuple for a list of exactly
these; other keys are ignored."""
REPORT = {"us": {str: COUNT}, "poses_bytes": range(1 << 20)}
"""The form of RUN's answer: microseconds by stage, and the length of the poses in bytes."""


PROBE_FACTS = {
    "boot": str, "system": str, "machine": str, "cpu_mhz": range(4096), "kpu_mhz": range(4096), "heap_bytes": COUNT,
    "system_heap_free_bytes": COUNT, "files_free_bytes": COUNT,
    "line": {"frames": COUNT, "errors": COUNT, "resent": COUNT},
}  # fmt: skip
PROBE_REPORT = {"us": {str: COUNT}, "values": {str: COUNT}}
"""The form of RUN's answer by probe.py: what the stages found, in whole numbers."""


def read_answer(data: bytes, form: dict[Any, Any]) -> dict[str, Any]:
    """The JSON object in `data`; FormatError if it does not have this form."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from None
    _check(value, form, "answer")
    checked: dict[str, Any] = value
    return checked


def _check(value: Any, form: Any, where: str) -> None:
    if isinstance(form, range):
        if type(value) is not int or value not in form:
            raise FormatError(f"{where} is not an integer from {form.start} to {form.stop - 1}")
    elif form is float:
        if type(value) not in (int, float) or not abs(value) < 1e9:
            raise FormatError(f"{where} is not a number")
    elif form is str:
        if not isinstance(value, str):
            raise FormatError(f"{where} is not a text")
    elif isinstance(form, list | tuple):
        if not isinstance(value, list) or (isinstance(form, tuple) and len(value) != len(form)):
            raise FormatError(f"{where} is not a list{f' of {len(form)}' if isinstance(form, tuple) else ''}")
        for number, part in enumerate(value):
            _check(part, form[number] if isinstance(form, tuple) else form[0], f"{where}[{number}]")
    else:
        if not isinstance(value, dict):
            raise FormatError(f"{where} is not an object")
        for name in value if str in form else form:
            if name not in value:
                raise FormatError(f"{where} has no {name!r}")
            _check(value[name], form[str if str in form else name], f"{where}.{name}")
