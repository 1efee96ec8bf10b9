"""The known networks, and where their weights are."""

from __future__ import annotations

import argparse

from model_build import catalog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--firmware", action="store_true", help="list MaixPy firmware images instead")


def run(args: argparse.Namespace) -> int:
    for entry in catalog.FIRMWARE if args.firmware else catalog.NETWORKS:
        names = ", ".join((entry.name, *entry.also))
        here = catalog.locate(entry)
        size = f"{entry.bytes:,} bytes" if entry.bytes else ""
        print(f"{names:<32} {entry.what}{', ' + size if size else ''}")
        print(f"{'':<32} {here if here else 'not here; `fetch` gets it from ' + entry.url}")
    return 0
