"""The LCD: fits frames to it, and shows messages that fill it."""

import sys

import lcd
from drawing import UprightText, draw_poses
from maixpy_api import image_memory, rotate_lcd, start_lcd

try:
    from ustruct import pack_into
except ImportError:
    from struct import pack_into

_CELL_W, _CELL_H = 8, 16
_PACKS_BYTES_ONLY = sys.implementation.name == "cpython"


class Screen:
    """The LCD, and a frame fitted to it: shown whole, scaled down, or its middle cut out.

    LCD larger than the frame: the frame is centred. Smaller: fit "scale" shrinks the frame, keeping its
    aspect, and draws on the small picture; "crop" draws on the frame and shows its middle.
    """

    def __init__(self, settings, mount=0):
        """mount: how far the board is turned, see mount.py; texts are turned back; frames need no turning."""
        self._fit = settings["fit"]
        self.boxes = settings["boxes"]
        self.names = settings["names"]
        self.ready = False
        self._roi = None
        self._small = None
        self._place = (0, 0)
        self._squeezed = None
        self._rows = {}  # memory of each frame buffer
        self._x_scale = self._y_scale = (1, 1)
        self._bordered = False
        self._rotation = settings["rotation"]
        self._text_rotation = (self._rotation - mount // 90) & 3
        self.turned = mount != 0
        self._text = UprightText()
        if mount:
            from turned_text import TurnedText

            self._text = TurnedText(mount)
        start_lcd(settings["lcd"])
        if self._rotation:
            rotate_lcd(self._rotation)
        self.width = lcd.width()
        self.height = lcd.height()
        self.ready = bool(self.width)

    def prepare(self, frame_w, frame_h, field_w=None, field_h=None):
        """Choose how frames of this size are shown.

        field_w, field_h: the size of what the frame shows, in square pixels; None: the frame's. Of a frame that is
        squeezed in width, rows are left out so that people have their true shape.
        """
        self._bordered = False
        self._roi = self._small = self._squeezed = None
        self._rows = {}
        field_w = field_w or frame_w
        field_h = field_h or frame_h
        w = frame_w
        h = frame_w * field_h // field_w
        if self.ready and (w > self.width or h > self.height) and self._fit != "crop":
            # The picture is reduced in one step, whatever the frame's shape.
            if self.width * h <= self.height * w:
                w, h = self.width, h * self.width // w
            else:
                w, h = w * self.height // h, self.height
            self._small = (w, h)
        elif h != frame_h:
            self._squeezed = (2 * w, frame_h, h)
            self._roi = (0, 0, w, h)
        self._x_scale = (w, frame_w)
        self._y_scale = (h, frame_h)
        if self.ready and (w > self.width or h > self.height):
            part_w = min(w, self.width)
            part_h = min(h, self.height)
            self._roi = ((w - part_w) // 2, (h - part_h) // 2, part_w, part_h)
            w, h = part_w, part_h
        self._place = ((self.width - w) // 2, (self.height - h) // 2)

    def canvas(self, img):
        """The picture to draw on."""
        if self._small:
            return img.resize(self._small[0], self._small[1])
        if self._squeezed:
            pixels, _, at = image_memory(img)
            rows = self._rows.get(at)
            if rows is None:
                rows = self._rows[at] = KeptRows(memoryview(pixels), *self._squeezed)
            rows.drop()
        return img

    def write(self, canvas, texts):
        """Texts in the upper left corner of what is shown: (text, color, scale), one below the other."""
        corner = self._text.corner(*(self._roi or (0, 0, canvas.width(), canvas.height())))
        down = 2
        for text, color, scale in texts:
            self._text.write(canvas, corner, 2, down, text, color, scale)
            down += 12 * scale

    def draw(self, canvas, poses, edges):
        """Draw all poses, see draw_poses()."""
        draw_poses(canvas, poses, edges, self._x_scale, self._y_scale, self.boxes, self.names, self._text)

    def show(self, canvas):
        """Show a frame on the LCD."""
        if self.ready:
            if not self._bordered:
                if self.turned:
                    rotate_lcd(self._rotation)
                # Without a place, lcd.display() would repaint the area around the frame with every frame.
                lcd.clear(lcd.BLACK)
                self._bordered = True
            if self._roi:
                lcd.display(canvas, roi=self._roi, oft=self._place)
            else:
                lcd.display(canvas, oft=self._place)

    def message(self, title, text, color=None):
        """Show a message over the whole LCD, wrapped at words, so that the screen is never silently black."""
        if not self.ready:
            return
        self._bordered = False
        if self.turned:
            rotate_lcd(self._text_rotation)
        lcd.clear(lcd.BLACK)
        columns = max(lcd.width() // _CELL_W - 2, 8)
        y = _CELL_H
        lcd.draw_string(_CELL_W, y, title[:columns], color or lcd.ORANGE, lcd.BLACK)
        y += _CELL_H + _CELL_H // 2
        for line in wrap(text, columns):
            if y + _CELL_H > lcd.height():
                break
            lcd.draw_string(_CELL_W, y, line, lcd.WHITE, lcd.BLACK)
            y += _CELL_H


class KeptRows:
    """Reduces a picture to `kept` rows by leaving out others evenly; pixels is a memoryview of its bytes.

    Rows are moved in blocks that stay together: 240 rows become 192 if every fifth is left out. The blocks are computed
    only once, so that a frame leaves no garbage.
    """

    def __init__(self, pixels, row_bytes, rows, kept):
        self._pixels = pixels
        self._block = block = kept // (rows - kept) * row_bytes
        self._blocks = []
        end = kept * row_bytes
        source = block + row_bytes
        for target in range(block, end, block):
            count = min(block, end - target)
            self._blocks.append(("%ds" % count, pixels[source : source + count]))
            source += block + row_bytes

    def drop(self):
        """Reduce the picture that the pixels hold now."""
        pixels = self._pixels
        target = self._block
        for form, source in self._blocks:
            pack_into(form, pixels, target, bytes(source) if _PACKS_BYTES_ONLY else source)
            target += self._block


def wrap(text, columns):
    """Lines of at most `columns` letters, broken at blanks if there are any."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            while len(word) > columns:
                if line:
                    lines.append(line)
                    line = ""
                lines.append(word[:columns])
                word = word[columns:]
            if line and len(line) + 1 + len(word) > columns:
                lines.append(line)
                line = word
            else:
                line = line + " " + word if line else word
        lines.append(line)
    return lines
