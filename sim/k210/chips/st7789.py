"""ST7789: 240 × 320 display controller (Sitronix data sheet), and the board's glass on it.

The commands that MaixPy uses are the same on the ILI9486 and ILI9481 (320 × 480), whose start-up sequences are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import rgb565
from common.arrays import Bytes, Integers
from common.pictures import save_png
from sim.parts.board import Display

COLUMNS, ROWS = 240, 320  # of the controller's memory
SWRESET, SLPOUT, INVOFF, INVON, DISPOFF, DISPON = 0x01, 0x11, 0x20, 0x21, 0x28, 0x29
CASET, RASET, RAMWR, MADCTL, COLMOD, RAMWRC = 0x2A, 0x2B, 0x2C, 0x36, 0x3A, 0x3C
MY, MX, MV, BGR = 0x80, 0x40, 0x20, 0x08


@dataclass(frozen=True)
class Panel:
    """What a person sees: the part of the controller's memory under the glass, and how the glass is mounted.

    memory: (columns, rows) of the controller. upright: the orientation (MADCTL) in which a picture is upright.
    inverted: the glass shows negatives unless the controller inverts. bgr: red and blue are exchanged unless the
    controller exchanges them.
    """

    memory: tuple[int, int] = (COLUMNS, ROWS)
    first_column: int = 0
    columns: int = COLUMNS
    first_row: int = 0
    rows: int = ROWS
    upright: int = MY | MV
    inverted: bool = False
    bgr: bool = False


class St7789:
    """Takes commands and data from SPI; `data_line` tells which (the D/C pin)."""

    host_side = ("data_line", "listeners", "on_busy", "panel")

    def __init__(self, data_line: Callable[[], int], panel: Panel | None = None):
        self.data_line = data_line
        self.panel = panel or Panel()
        self.listeners: list[Callable[[Display], None]] = []
        self.on_busy: Callable[[bool], None] | None = None  # told when a message with pixels begins and ends
        self.reset()

    def reset(self) -> None:
        """Do what SWRESET and the reset pin do."""
        columns, rows = self.panel.memory
        self.gram = np.zeros((rows, columns), np.uint16)
        self.command = 0
        self.parameters = bytearray()
        self.madctl = 0
        self.inverted = False
        self.on = False
        self.window = [0, columns - 1, 0, rows - 1]  # first and last column, first and last row
        self.pixel = 0  # counted within the window
        self.odd_byte = b""
        self.frames = 0
        self.drawing = False  # a message with pixels is under way

    # -- SPI

    def select(self) -> None:
        pass

    def deselect(self) -> None:
        if self.drawing:
            self._draw(False)

    def _draw(self, drawing: bool) -> None:
        self.drawing = drawing
        listener = self.on_busy  # another thread may take it away
        if listener:
            listener(drawing)

    def receive(self, length: int) -> bytes:
        return b"\0" * length

    def enhanced(self, instruction: int, address: int, address_bits: int) -> None:
        self.transfer(bytes([instruction & 0xFF]))

    def transfer(self, data: bytes) -> bytes:
        if not self.data_line():
            for byte in data:
                self._command(byte)
        elif self.command in (RAMWR, RAMWRC):
            if not self.drawing:
                self._draw(True)
            self._pixels(data)
        else:
            self.parameters += data
            self._parameters()
        return b"\0" * len(data)

    def _command(self, code: int) -> None:
        self.command = code
        self.parameters.clear()
        if code == SWRESET:
            self.reset()
        elif code in (INVON, INVOFF):
            self.inverted = code == INVON
        elif code in (DISPON, DISPOFF):
            self.on = code == DISPON
        elif code == RAMWR:
            self.pixel = 0
            self.odd_byte = b""

    def _parameters(self) -> None:
        p = self.parameters
        if self.command in (CASET, RASET) and len(p) >= 4:
            first = 0 if self.command == CASET else 2
            self.window[first] = p[0] << 8 | p[1]
            self.window[first + 1] = p[2] << 8 | p[3]
        elif self.command == MADCTL and p:
            self.madctl = p[0]

    def _pixels(self, data: bytes) -> None:
        data = self.odd_byte + data
        self.odd_byte = data[len(data) & ~1 :]
        pixels = np.frombuffer(data[: len(data) & ~1], ">u2")
        x0, x1, y0, y1 = self.window
        width, height = x1 - x0 + 1, y1 - y0 + 1
        if width <= 0 or height <= 0:
            return
        total = width * height
        while len(pixels):
            count = min(len(pixels), total - self.pixel)
            index = np.arange(self.pixel, self.pixel + count)
            self._store(x0 + index % width, y0 + index // width, pixels[:count])
            self.pixel += count
            pixels = pixels[count:]
            if self.pixel == total:
                self.pixel = 0
                self.frames += 1
                for listener in self.listeners:
                    listener(self)

    def _store(self, x: Integers, y: Integers, pixels: Bytes) -> None:
        """Logical position to memory: MV exchanges the axes, MX and MY mirror memory's columns and rows."""
        columns, rows = self.panel.memory
        column, row = (y, x) if self.madctl & MV else (x, y)
        if self.madctl & MX:
            column = columns - 1 - column
        if self.madctl & MY:
            row = rows - 1 - row
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        self.gram[row[inside], column[inside]] = pixels[inside]

    def on_frame(self, listener: Callable[[Display], None]) -> None:
        """Call `listener(self)` whenever a window's last pixel has been written."""
        self.listeners.append(listener)

    def save(self, path: Path) -> None:
        """Write image() as a PNG."""
        save_png(self.image(), path)

    def image(self) -> Bytes:
        """What a viewer sees: uint8 (height, width, 3) RGB, upright for the way the panel is mounted; black while the
        display is off."""
        panel = self.panel
        value = self.gram[panel.first_row :, panel.first_column :][: panel.rows, : panel.columns]
        value = value[:: -1 if panel.upright & MY else 1, :: -1 if panel.upright & MX else 1]
        if panel.upright & MV:
            value = value.T
        if self.inverted != panel.inverted:
            value = ~value
        rgb = rgb565.expand(value) if self.on else np.zeros((*value.shape, 3), np.uint8)
        return np.ascontiguousarray(rgb[..., ::-1]) if bool(self.madctl & BGR) != panel.bgr else rgb
