"""The picture of the boards in docs/ is drawn from the tables that flashing and firmware use."""

import xml.etree.ElementTree

from benchmarks import board_drawing
from host_tools.known_boards import BOARDS


def test_the_picture_shows_the_tables_as_they_are():
    """Somebody changes a wiring or a pin in a table; the picture in docs/ must be drawn again."""
    drawn = board_drawing.svg()
    assert board_drawing.PICTURE.read_text(encoding="utf-8") == drawn, "python -m benchmarks.board_drawing"
    root = xml.etree.ElementTree.fromstring(drawn)
    text = " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))
    assert all(BOARDS[name].title in text and f"--board {name}" in text for name in board_drawing.PARTS)
