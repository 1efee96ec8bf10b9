"""Draws docs/pictures/your-board.svg: the connectors of each board, and what its buttons do.

The drawing is made from the tables that flashing and firmware use. It shows which parts there are, not where they are:
that differs from one revision to the next, and the names are printed beside the parts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from xml.sax.saxutils import escape

from common.firmware_modules import firmware_module
from common.text import ROOT
from host_tools.known_boards import BOARDS, BRIDGE_VENDORS

PICTURE = ROOT / "docs" / "pictures" / "your-board.svg"
PANEL_PX = (500, 226)
COLUMNS = 2


@dataclass(frozen=True)
class Parts:
    """What a board's owner sees.

    `loader` says how to enter the chip's loader by hand, if the modem lines cannot do it.
    """

    camera: str
    lcd: str
    reset: str
    button: str
    loader: str


_SOCKETS = ("socket for 24 contacts", "socket for 24 contacts, 320x240")
_HAND = "hold BOOT, press RESET, let go"
PARTS = {
    "bit": Parts(*_SOCKETS, "RESET", "BOOT", _HAND),
    "dock": Parts(*_SOCKETS, "RESET", "BOOT", _HAND),
    "go": Parts(*_SOCKETS, "RESET", "BOOT", _HAND),
    "maixduino": Parts(*_SOCKETS, "RESET", "BOOT", _HAND),
    "m5stickv": Parts("built in", "built in, 240x135 (UnitV: none)", "power", "A", ""),
    "amigo": Parts("built in", "built in, 480x320", "power", "ENTER", ""),
}
_RESET = {"RESET": "starts the board anew", "power": "switches it on; held for seconds, off"}
_WIRES = {"dan": "RTS is reset, DTR is IO16", "kd233": "DTR is reset, RTS is IO16"}


def svg() -> str:
    """The picture as text."""
    width, height = PANEL_PX
    rows = -(-len(PARTS) // COLUMNS)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * width} {rows * height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{COLUMNS * width}" height="{rows * height}" fill="#ffffff"/>',
    ]
    for index, name in enumerate(PARTS):
        x, y = index % COLUMNS * width, index // COLUMNS * height
        lines += [f'<g transform="translate({x},{y})">', *_panel(name), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _panel(name: str) -> list[str]:
    board, parts = BOARDS[name], PARTS[name]
    vendor, product = board.usb[0]
    ports = "two ports" if product == 0x6010 else "one port"
    boxes = (
        (44, "camera", parts.camera, "#2f6f4f"),
        (80, "LCD", parts.lcd, "#2f6f4f"),
        (116, "USB-C", f"{BRIDGE_VENDORS[vendor]}, {ports}; {_WIRES[board.wirings[0]]}", "#2f4f8f"),
        (152, parts.reset, _RESET[parts.reset], "#8f2f2f"),
        (
            188,
            parts.button,
            f"IO{_button_pin(name)}; hides the figures{parts.loader and '. Loader: ' + parts.loader}",
            "#8f2f2f",
        ),
    )
    lines = [
        f'<rect x="8" y="8" width="{PANEL_PX[0] - 16}" height="{PANEL_PX[1] - 16}" rx="10" fill="#f4f6f4" '
        'stroke="#444444"/>',
        f'<text x="20" y="30" font-weight="bold" fill="#222222">{escape(board.title)} (--board {name})</text>',
    ]
    for top, label, text, colour in boxes:
        lines += [
            f'<rect x="20" y="{top}" width="106" height="26" rx="4" fill="{colour}"/>',
            f'<text x="73" y="{top + 18}" text-anchor="middle" fill="#ffffff">{escape(label)}</text>',
            f'<text x="134" y="{top + 17}" font-size="11" fill="#222222">{escape(text)}</text>',
        ]
    return lines


def _button_pin(name: str) -> int:
    table = firmware_module("boards").BOARDS
    return int(table[name if name in table else f"{name}_ips"]["button"])


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
    print(f"wrote {PICTURE}", file=sys.stderr)
