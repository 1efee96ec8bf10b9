"""Calls that may be refused. The test continues after a refusal and says what else must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from common.errors import FormatError

Result = TypeVar("Result")


def unless_refused(call: Callable[..., Result], *arguments: object, by: type[Exception] = FormatError) -> Result | None:
    """The result, or None if the call is refused by one line of that error. Any other exception ends the test."""
    try:
        return call(*arguments)
    except by as error:
        assert "\n" not in str(error)
        return None


def is_refused(call: Callable[..., object], *arguments: object, by: type[Exception] = FormatError) -> bool:
    """Whether the call is refused by that error; what it returns does not matter."""
    try:
        call(*arguments)
    except by:
        return True
    return False
