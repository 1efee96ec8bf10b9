"""Text on a picture that is shown turned, because the board hangs on its side or upside down.

MaixPy writes upright only. So a text is written once into a small picture of its own, and what is lit there is drawn as
lines, each a run of dots, at every frame.
"""


def _runs(canvas, text, scale):
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
                for row in range(scale):
                    runs.append((start * scale, y * scale + row, x * scale - 1))
                start = -1
    return runs


class TurnedText:
    """Writes lines of text into the corner that is the upper left one for somebody who sees the picture upright.

    mount: 90, 180 or 270, see mount.py.
    """

    def __init__(self, mount):
        self._mount = mount
        self._texts = []
        self._lines = []

    def draw(self, canvas, roi, texts):
        """texts: (text, color, scale), one below the other. roi: (x, y, width, height) that is shown of the canvas."""
        if texts != self._texts:
            self._texts = texts
            self._lines = self._turned(canvas, roi, texts)
        for x0, y0, x1, y1, color in self._lines:
            canvas.draw_line(x0, y0, x1, y1, color=color)

    def _turned(self, canvas, roi, texts):
        left, top, width, height = roi
        right = left + width - 1
        bottom = top + height - 1
        lines = []
        down = 2
        for text, color, scale in texts:
            for x, y, end in _runs(canvas, text, scale):
                x += 2
                end += 2
                y += down
                if self._mount == 90:
                    lines.append((left + y, bottom - x, left + y, bottom - end, color))
                elif self._mount == 180:
                    lines.append((right - x, bottom - y, right - end, bottom - y, color))
                else:
                    lines.append((right - y, top + x, right - y, top + end, color))
            down += 12 * scale
        return lines
