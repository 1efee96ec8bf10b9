"""The way from a source picture into the letterboxed picture; the product needs only the way back."""

from __future__ import annotations

from common.pictures import Letterbox


def to_input(box: Letterbox, x: float, y: float) -> tuple[float, float]:
    """The place in the network's input of a place in the source picture, both in pixels. It undoes `box.to_source`."""
    right, bottom = box.source_width_px - 1, box.source_height_px - 1
    x, y = {0: (x, y), 90: (y, right - x), 180: (right - x, bottom - y), 270: (bottom - y, x)}[box.mount]
    return (x + 0.5) * box.x_scale + box.left_px - 0.5, (y + 0.5) * box.scale + box.top_px - 0.5
