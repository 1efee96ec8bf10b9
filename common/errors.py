"""Errors that tell a person what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """One line that says what was wrong, with the actual values, and what to do about it.

    Commands print it as `error: …` on stderr and exit with `exit_code`; a traceback is for bugs only.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class NotObtainableError(UserError):
    """Weights or an image that are not on this machine and could not be downloaded."""


class FormatError(UserError):
    """A file is not what it should be; the only exception that a parser raises on bad bytes."""


@contextlib.contextmanager
def errors_about(what: str) -> Iterator[None]:
    """Put the name of a file or part before the FormatErrors raised inside, which say only what is wrong with it."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
