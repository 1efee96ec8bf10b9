"""The way into a letterboxed picture, which the product needs only backwards."""

from __future__ import annotations

from common.pictures import Letterbox


def to_input(box: Letterbox, x: float, y: float) -> tuple[float, float]:
    """Source pixels to network input pixels: undoes `box.to_source`."""
    right, bottom = box.source_width_px - 1, box.source_height_px - 1
    x, y = {0: (x, y), 90: (y, right - x), 180: (right - x, bottom - y), 270: (bottom - y, x)}[box.mount]
    return (x + 0.5) * box.x_scale + box.left_px - 0.5, (y + 0.5) * box.scale + box.top_px - 0.5
