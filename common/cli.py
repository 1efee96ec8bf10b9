"""Command tables: `python -m PACKAGE COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; its docstring's first line is its
help. Modules are imported only when their command is asked for, so that `--help` and light commands do not
wait for TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping

from common.errors import UserError
from common.text import printable

Commands = Mapping[str, tuple[str, str]]
"""command name → (module that has add_arguments and run, one line of help)"""


def dispatch(program: str, description: str, commands: Commands, argv: list[str] | None = None) -> int:
    """Run one command of a table; exit code 0, 1 (it failed) or 2 (it was called wrongly)."""
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


def positive(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def tcp_port(text: str) -> int:
    """For argparse: a TCP port; 0 is any free one."""
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 65535")
    return value


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of `WxH` in pixels; UserError with exit code 2 if it is none."""
    width, _, height = text.lower().partition("x")
    if not all(side.isdecimal() and 0 < int(side) < 10_000 for side in (width, height)):
        raise UserError(f"size {text!r}: give WIDTHxHEIGHT in pixels, for example 320x240", exit_code=2)
    return int(width), int(height)


def guarded(run: Callable[[], int]) -> int:
    """Run a command's body; what the user can mend becomes one line on stderr and an exit code."""
    try:
        return run()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
