"""One local web page for everything: try it, flash, watch."""

from __future__ import annotations

import argparse
import threading

from common.cli import tcp_port
from host_tools.page.server import Page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `host_tools page`."""
    parser.add_argument("port", type=tcp_port, nargs="?", default=0, metavar="PORT", help="default: any free port")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    return serve(arguments.port, "page")


def serve(port: int, option: str = "--page") -> int:
    """Serve the page until Ctrl-C; UserError if the port is in use."""
    page = Page(port, option)
    try:
        print(f"open this page in a browser on this computer: {page.url}\nCtrl-C ends it", flush=True)
        threading.Event().wait()
    finally:
        page.close()
    return 0
