"""Get weights into the local cache."""

from __future__ import annotations

import argparse

from common.cli import near
from common.errors import UserError
from model_build import catalog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `model_build fetch`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="networks or firmware images; `all` for all networks")


def run(args: argparse.Namespace) -> int:
    entries = []
    for name in args.names:
        if name == "all":
            entries += list(catalog.NETWORKS)
            continue
        entry = catalog.find(name) or catalog.find(name, "firmware")
        if entry is None:
            known = catalog.names() + catalog.names("firmware")
            raise UserError(f"{name}: not known{near(name, known)}; known names: {', '.join(known)}", exit_code=2)
        entries.append(entry)
    for entry in entries:
        print(f"{entry.name}: {catalog.obtain(entry)}", flush=True)
    return 0
