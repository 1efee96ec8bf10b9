"""Lists the serial ports of this computer, and the boards that may be behind them."""

from __future__ import annotations

import argparse
import json

from common.text import printable
from host_tools.known_boards import remembered, serial_ports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m host_tools ports`."""
    parser.add_argument("--json", action="store_true", help="one JSON list")


def run(args: argparse.Namespace) -> int:
    """Print the table; boards first."""
    rows = []
    for port in serial_ports():
        known = remembered(port)
        rows.append(
            {
                "port": port.device,
                "usb": port.usb_id,
                "bridge": port.bridge,
                "boards": [board.name for board in port.boards],
                "last_used_as": known.get("board", ""),
                "wiring": known.get("wiring", ""),
                "description": port.description,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    if not rows:
        print("no serial ports; plug a board in with a cable that carries data (`flash.py --board sim` needs none)")
        return 0
    print(f"{'port':16} {'USB id':10} {'may be':34} {'last used as':14} description")
    for row in rows:
        boards = " ".join(row["boards"]) or row["bridge"] or "-"
        last = f"{row['last_used_as']} {row['wiring']}".strip() or "-"
        print(f"{row['port']:16} {row['usb']:10} {boards:34} {last:14} {printable(str(row['description']))}")
    return 0
