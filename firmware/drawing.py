"""Draws poses: a pure function over a canvas, which is anything with MaixPy's draw_… methods.

The host draws with the same file (`python -m host_tools diff` compares the pixels).
"""

from array import array

# One hue per person, each bright, dimmer and dim: full confidence, fair, weak.
_HUES = ((0, 255, 0), (255, 160, 0), (0, 200, 255), (255, 60, 200), (255, 255, 0), (120, 120, 255))
COLORS = [[(r * p // 100, g * p // 100, b * p // 100) for p in (100, 65, 40)] for r, g, b in _HUES]
_WHITE = (255, 255, 255)

_places = array("i", [])  # x, y of each keypoint on the canvas, made once


class UprightText:
    """Writes on a canvas that is shown upright; turned_text.py writes on one that is shown turned."""

    def corner(self, x, y, w, h):
        """The upper left corner of a part of the canvas."""
        return x, y

    def write(self, canvas, at, x, y, text, color, scale=1):
        """Write a text x pixels to the right of a point and y below it."""
        canvas.draw_string(max(at[0] + x, 0), max(at[1] + y, 0), text, color=color, scale=scale)


_UPRIGHT = UprightText()


def draw_poses(canvas, poses, edges, x_scale=(1, 1), y_scale=(1, 1), boxes=False, names=False, writer=_UPRIGHT):
    """Skeletons of all poses: a colour per person; lines are thin and dim where the network is unsure.

    A pose has frame (see posenet.py), threshold_q15 and id; boxes and names need a whole Pose of posenet.py. The
    scales, as (multiplier, divisor), convert the frame's pixels to the canvas's. writer: writes the texts.
    """
    global _places
    places = _places
    x_times, x_divide = x_scale
    y_times, y_divide = y_scale
    x_divide <<= 8
    y_divide <<= 8
    x_half = x_divide >> 1
    y_half = y_divide >> 1
    line = canvas.draw_line
    circle = canvas.draw_circle
    for pose in poses:
        bright, dimmer, dim = COLORS[pose.id % len(COLORS)]
        data = pose.frame
        if len(places) < len(data):
            _places = places = array("i", data)
        threshold = pose.threshold_q15
        fair = (threshold + 32768) >> 1
        weak = threshold >> 1
        for i in range(1, len(data), 3):
            places[i] = (data[i] * x_times + x_half) // x_divide
            places[i + 1] = (data[i + 1] * y_times + y_half) // y_divide
        for i, j in edges:
            i = 3 * i + 1
            j = 3 * j + 1
            score = data[i + 2]
            if data[j + 2] < score:
                score = data[j + 2]
            if score >= fair:
                line(places[i], places[i + 1], places[j], places[j + 1], color=bright, thickness=3)
            elif score >= threshold:
                line(places[i], places[i + 1], places[j], places[j + 1], color=dimmer, thickness=2)
            elif score >= weak:
                line(places[i], places[i + 1], places[j], places[j + 1], color=dim, thickness=1)
        for i in range(1, len(data), 3):
            score = data[i + 2]
            if score >= threshold:
                circle(places[i], places[i + 1], 3, color=_WHITE if score >= fair else dimmer, fill=True)
        if boxes:
            _draw_box(canvas, pose, x_scale, y_scale, bright, writer)
        if names:
            for keypoint in pose.keypoints:
                if keypoint.seen:
                    i = 3 * keypoint.index + 1
                    writer.write(canvas, (places[i], places[i + 1]), 4, -5, keypoint.name, _WHITE)


def _draw_box(canvas, pose, x_scale, y_scale, color, writer):
    """Draw a box around the person, with number and score."""
    box = pose.box(pose.frame)
    if box:
        x, y, w, h = box
        x, w = [v * x_scale[0] // x_scale[1] for v in (x, w)]
        y, h = [v * y_scale[0] // y_scale[1] for v in (y, h)]
        canvas.draw_rectangle(x, y, w, h, color=color)
        writer.write(canvas, writer.corner(x, y, w, h), 2, -12, "%d %d%%" % (pose.id, pose.score), color)
