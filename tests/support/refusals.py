"""Calls that may be refused: a refusal is an answer like any other, and the test goes on to say what it must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from common.errors import FormatError

Result = TypeVar("Result")


def unless_refused(call: Callable[..., Result], *arguments: object, by: type[Exception] = FormatError) -> Result | None:
    """The result, or None if the call is refused by one line of that error. Whatever else is raised ends the test."""
    try:
        return call(*arguments)
    except by as error:
        assert "\n" not in str(error)
        return None


def is_refused(call: Callable[..., object], *arguments: object, by: type[Exception] = FormatError) -> bool:
    """Whether a call is refused by that error, whatever it returns."""
    try:
        call(*arguments)
    except by:
        return True
    return False
