"""Look into a model file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common.files import write_atomic
from common.text import printable
from model_build.inspect import read_file, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `model_build inspect`."""
    parser.add_argument(
        "file", type=Path, help="TFLite, .pb, tfjs .json, Keras, SavedModel folder, kmodel V3–V5, kfpkg"
    )
    parser.add_argument("--html", type=Path, metavar="OUT", help="write one self-contained page")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything as JSON")


def run(args: argparse.Namespace) -> int:
    found = read_file.describe(args.file)
    if args.html:
        write_atomic(args.html, render.html(found))
    if args.json:
        write_atomic(args.json, json.dumps(found.to_dict(), indent=1, default=str) + "\n")
    print(printable(render.text(found)), end="")
    return 0
