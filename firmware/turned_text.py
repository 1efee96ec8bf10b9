"""Text on a picture that is shown turned, because the board hangs on its side or upside down.

MaixPy writes only upright text. So a text is written once into a small picture of its own, and its dots are drawn as
lines, each a run of dots, in every frame.
"""

_KEPT = 48  # the most texts whose runs of dots are kept, because a board has little memory
# One pixel to the right, and one down, as seen upright, in the frame's coordinates.
_STEPS = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}


def _runs(canvas, text):
    """(x, y, last x) of each run of dots of a text, in pixels from its top left."""
    width = 8 * len(text)
    small = canvas.resize(width, 10)
    small.clear()
    small.draw_string(0, 0, text, color=(255, 255, 255))
    dots = small.to_bytes()
    runs = []
    for y in range(10):
        start = -1
        for x in range(width + 1):
            at = 2 * (y * width + x)
            if x < width and (dots[at] or dots[at + 1]):
                if start < 0:
                    start = x
            elif start >= 0:
                runs.append((start, y, x - 1))
                start = -1
    return runs


class TurnedText:
    """The same as drawing.UprightText, for somebody who sees the picture upright. mount: 90, 180 or 270, see
    mount.py."""

    def __init__(self, mount):
        self._steps = _STEPS[mount]
        self._kept = {}

    def corner(self, x, y, w, h):
        """The corner of a part of the canvas that is the upper left one for that person."""
        right_x, right_y, down_x, down_y = self._steps
        return (x + w - 1 if right_x + down_x < 0 else x, y + h - 1 if right_y + down_y < 0 else y)

    def write(self, canvas, at, x, y, text, color, scale=1):
        """Write a text x pixels to the right of a point and y below it, as that person sees it."""
        runs = self._kept.get(text)
        if runs is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            runs = self._kept[text] = _runs(canvas, text)
        right_x, right_y, down_x, down_y = self._steps
        left, top = at
        above = canvas.height() - 1 - top if down_y else left if down_x > 0 else canvas.width() - 1 - left
        y = max(y, -above)
        for start, row, last in runs:
            start = x + start * scale
            last = x + last * scale + scale - 1
            for down in range(y + row * scale, y + row * scale + scale):
                x0 = left + down * down_x
                y0 = top + down * down_y
                canvas.draw_line(
                    x0 + start * right_x, y0 + start * right_y, x0 + last * right_x, y0 + last * right_y, color=color
                )
