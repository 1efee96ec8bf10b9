"""Command tables: `python -m PACKAGE COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; its docstring's first line is its
help. Modules are imported only when their command is asked for, so that `--help` and light commands do not
wait for TensorFlow.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from common.errors import UserError
from common.text import printable, runnable

Commands = Mapping[str, tuple[str, str]]
"""A command's name leads to the module that has `add_arguments` and `run`, and to one line of help."""


def show_what_the_console_can() -> None:
    """From here on a character that the console's encoding lacks (`→` on cp1252) is printed as `?` and raises
    nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def dispatch(program: str, description: str, commands: Commands, argv: list[str] | None = None) -> int:
    """Run one command of a table; exit code 0, 1 (it failed) or 2 (it was called wrongly)."""
    show_what_the_console_can()
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog=program, description=description)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, (module, help_line) in commands.items():
        subparser = subparsers.add_parser(name, help=help_line, description=help_line)
        if name == chosen:
            importlib.import_module(module).add_arguments(subparser)
    arguments = parser.parse_args(argv)
    command = importlib.import_module(commands[arguments.command][0])
    return guarded(lambda: command.run(arguments))


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` if a known word resembles `word`, otherwise an empty text."""
    found = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def positive(text: str) -> int:
    """An argparse type: a whole number that is at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def tcp_port(text: str) -> int:
    """An argparse type: a TCP port, where 0 asks for any free one."""
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 65535")
    return value


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of `WxH` in pixels; UserError with exit code 2 if it is not a size."""
    width, _, height = text.lower().partition("x")
    if not all(side.isdecimal() and 0 < int(side) < 10_000 for side in (width, height)):
        raise UserError(f"{text!r} is not a size: give WIDTHxHEIGHT in pixels, for example 320x240", exit_code=2)
    return int(width), int(height)


def guarded(run: Callable[[], int]) -> int:
    """Run a command's body and turn its failures into one line on stderr and an exit code.

    This covers UserError, and whatever the operating system refuses; only bugs end in a traceback.
    """
    try:
        code = run()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away.
        _stdout_to_nowhere()
        return 0
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _stdout_to_nowhere()
        return _refuse(refusal(error))


@contextmanager
def hindrances_exit_2() -> Iterator[None]:
    """For commands whose exit code 1 is an answer ("it differs"): if they cannot answer, they exit with 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        raise UserError(str(refusal(error) if isinstance(error, OSError) else error), exit_code=2) from None


def _refuse(error: UserError) -> int:
    print(f"error: {printable(runnable(str(error)))}", file=sys.stderr)
    return error.exit_code


def _stdout_to_nowhere() -> None:
    """Keep the interpreter from complaining at exit about what it cannot write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refusal(error: OSError) -> UserError:
    """The UserError for an OSError: it names what was refused, for which file, and what to do about it."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = " → ".join(names) + ": " if names else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedies = {
        errno.ENOSPC: "make room there and run the same command again",
        errno.EDQUOT: "make room there and run the same command again",
        errno.ENOENT: "give a path that exists",
        errno.ENOTDIR: "give a path that exists, through folders only",
        errno.EISDIR: "give a file, not a folder",
        errno.EACCES: "give another place, or get the right to use this one",
        errno.EPERM: "give another place, or get the right to use this one",
        errno.EROFS: "give another place: nothing can be written there",
        errno.EMFILE: "close other programs or raise the limit (ulimit -n)",
        errno.ENAMETOOLONG: "give a shorter name",
    }
    remedy = remedies.get(error.errno or 0, "put that right and run the same command again")
    return UserError(f"{where}{reason}; {remedy}")
