"""What is drawn: skeletons, boxes, the corner with times, messages over the whole LCD."""

import lcd
from maixpy_api import start_lcd

# One hue per person, each bright, dimmer and dim: full confidence, fair, weak.
_HUES = ((0, 255, 0), (255, 160, 0), (0, 200, 255), (255, 60, 200), (255, 255, 0), (120, 120, 255))
COLORS = [[(r * p // 100, g * p // 100, b * p // 100) for p in (100, 65, 40)] for r, g, b in _HUES]
_WHITE = (255, 255, 255)
_CELL_W, _CELL_H = 8, 16


class Screen:
    """The LCD, and a frame fitted to it: shown whole, scaled down, or its middle cut out.

    LCD larger than the frame: the frame is centred. Smaller: fit "scale" shrinks the frame, keeping its
    aspect, and draws on the small picture; "crop" draws on the frame and shows its middle.
    """

    def __init__(self, settings):
        self._fit = settings["fit"]
        self.boxes = settings["boxes"]
        self.names = settings["names"]
        self.ready = False
        self._roi = None
        self._small = None
        self._divide = self._times = 1
        start_lcd(settings["lcd"])
        if settings["rotation"]:
            lcd.rotation(settings["rotation"])
        self.width = lcd.width()
        self.height = lcd.height()
        self.ready = bool(self.width)

    def prepare(self, frame_w, frame_h):
        """Choose how frames of this size are shown."""
        self._roi = self._small = None
        self._times = self._divide = 1
        if not self.ready or (frame_w <= self.width and frame_h <= self.height):
            return
        if self._fit == "crop":
            w = min(frame_w, self.width)
            h = min(frame_h, self.height)
            self._roi = ((frame_w - w) // 2, (frame_h - h) // 2, w, h)
        elif self.width * frame_h <= self.height * frame_w:
            self._small = (self.width, frame_h * self.width // frame_w)
            self._times, self._divide = self.width, frame_w
        else:
            self._small = (frame_w * self.height // frame_h, self.height)
            self._times, self._divide = self.height, frame_h

    def canvas(self, img):
        """The picture to draw on."""
        return img.resize(self._small[0], self._small[1]) if self._small else img

    def corner(self):
        """Where the overlay begins on the canvas."""
        return self._roi[:2] if self._roi else (0, 0)

    def draw(self, canvas, poses, edges):
        """Skeletons of all poses: a colour per person; lines are thin and dim where the network is unsure."""
        times = self._times
        divide = self._divide << 8
        half = divide >> 1
        for pose in poses:
            colors = COLORS[pose.id % len(COLORS)]
            data = pose.frame
            threshold = pose.threshold_q15
            fair = (threshold + 32768) >> 1
            weak = threshold >> 1
            for edge in edges:
                i = 3 * edge[0] + 1
                j = 3 * edge[1] + 1
                score = min(data[i + 2], data[j + 2])
                if score >= weak:
                    canvas.draw_line(
                        (data[i] * times + half) // divide,
                        (data[i + 1] * times + half) // divide,
                        (data[j] * times + half) // divide,
                        (data[j + 1] * times + half) // divide,
                        color=colors[0 if score >= fair else 1 if score >= threshold else 2],
                        thickness=3 if score >= fair else 2 if score >= threshold else 1,
                    )
            for i in range(1, len(data), 3):
                if data[i + 2] >= threshold:
                    x = (data[i] * times + half) // divide
                    y = (data[i + 1] * times + half) // divide
                    canvas.draw_circle(x, y, 3, color=_WHITE if data[i + 2] >= fair else colors[1], fill=True)
            if self.boxes or self.names:
                self._frame(canvas, pose, colors)

    def _frame(self, canvas, pose, colors):
        box = pose.box(pose.frame)
        if not box:
            return
        x, y, w, h = [v * self._times // self._divide for v in box]
        if self.boxes:
            canvas.draw_rectangle(x, y, w, h, color=colors[0])
            canvas.draw_string(max(x + 2, 0), max(y - 12, 0), "%d %d%%" % (pose.id, pose.score), color=colors[0])
        if self.names:
            for keypoint in pose.keypoints:
                if keypoint.seen:
                    i = 3 * keypoint.index + 1
                    canvas.draw_string(
                        (pose.frame[i] >> 8) * self._times // self._divide + 4,
                        (pose.frame[i + 1] >> 8) * self._times // self._divide - 5,
                        keypoint.name,
                        color=_WHITE,
                    )

    def show(self, canvas):
        """Put a frame on the LCD."""
        if self.ready:
            if self._roi:
                lcd.display(canvas, roi=self._roi)
            else:
                lcd.display(canvas)

    def message(self, title, text, color=None):
        """A message over the whole LCD, wrapped at words: never a silent black screen."""
        if not self.ready:
            return
        lcd.clear(lcd.BLACK)
        columns = max(self.width // _CELL_W - 2, 8)
        y = _CELL_H
        lcd.draw_string(_CELL_W, y, title[:columns], color or lcd.ORANGE, lcd.BLACK)
        y += _CELL_H + _CELL_H // 2
        for line in wrap(text, columns):
            if y + _CELL_H > self.height:
                break
            lcd.draw_string(_CELL_W, y, line, lcd.WHITE, lcd.BLACK)
            y += _CELL_H


def wrap(text, columns):
    """Lines of at most `columns` letters, broken at blanks where there are any."""
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
