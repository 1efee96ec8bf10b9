"""Which part of the camera's field the network looks at.

Integers only; the same file runs on the board and on the host.

PoseNet finds people better the larger they are in its input. A sensor has more pixels than the network takes, so it can
show a part of its field at full detail: the people get larger, and nothing else changes.

    whole field                       close view
    +-----------------------+         +-----------------------+
    |           o           |         |           O           |
    |          /|\\          |  ---->  |          /|\\          |
    |          / \\          |         |         / | \\         |
    |                       |         |          / \\          |
    +-----------------------+         +-----------------------+

A view is (left, top, size) in units: the whole field is `units` wide and `units` high, however many pixels it has, and
a view has the same shape as the field. Poses are in field coordinates, 1/256 px of the network's input when it shows
the whole field, so that a person's coordinates do not change with the view.

Either one view holds everybody, or people are looked at one by one (`each`), which enlarges each of them more. Then
people outside the view stay where they were last seen until it is their turn.
"""

try:
    from micropython import const
except ImportError:

    def const(value):
        return value


_FAR = const(1 << 30)


class Framing:
    """Chooses the view from the people found. Call `to_field` on each new pose, then `update` once a frame.

    The code that takes the pictures sets `view` to what the picture shows, and sets the camera to show `wanted`.

    width, height: the network's input in pixels. units: how many steps the field is divided into. least_units: size of
    the smallest view, in which one pixel of the sensor is one pixel of the network's input.
    margin_percent: margin around the people, in percent of the longer side of the box around them. patience: frames
    without anybody before the view opens. settle: frames with somebody before it closes in. look_ms: how often it opens
    to look for others. threshold_q15: keypoints with at least this score count. each: look at people one by one; then
    poses need an `id`, and an `age` in frames since they were last seen. halving: the sensor can only show the whole
    field, half of it or a quarter.

    view, wanted: (left, top, size) in units. changes: how often the wanted view has changed.
    """

    def __init__(
        self,
        width,
        height,
        units,
        least_units,
        margin_percent=20,
        patience=8,
        settle=5,
        look_ms=2000,
        threshold_q15=9830,
        each=False,
        halving=False,
    ):
        if not 0 < least_units <= units:
            raise ValueError("a view of %d units does not fit a field of %d" % (least_units, units))
        self._width_q8 = width << 8
        self._height_q8 = height << 8
        self.units = units
        self._least = least_units
        self._margin = margin_percent
        self._patience = patience
        self._settle = settle
        self._look_ms = look_ms
        self._threshold = threshold_q15
        self.each = each
        self._halving = halving
        self.whole = (0, 0, units)
        self.view = self.wanted = self.whole
        self.changes = 0
        self._target = 0  # id of the person whose turn it is
        self._missing = 0  # frames in a row with nobody found
        self._present = 0  # frames in a row with somebody, in the whole field
        self._narrow = 0  # frames in a row in which a much smaller view would do
        self._opened_ms = 0  # when the whole field was last shown

    def to_field(self, data):
        """Convert a pose (array('i') as in decoder.py) in place from coordinates in the view to those in the field."""
        left, top, size = self.view
        _convert(data, size, left * self._width_q8, top * self._height_q8, self.units)

    def to_view(self, data):
        """Convert a pose in place from coordinates in the field to those in the view."""
        left, top, size = self.view
        _convert(data, self.units, -left * self._width_q8, -top * self._height_q8, size)

    def update(self, poses, now_ms, newcomers=False):
        """Choose the next view from this frame's poses; returns whether it is a new one.

        Each pose has `.frame`: its integers as in decoder.py, in field coordinates. newcomers: the frame shows somebody
        whom the tracker does not report yet, so the whole field is shown for one more picture.
        """
        if self.wanted != self.view:
            return False  # the camera has not switched to it yet
        turned = False
        if self.each and len(poses) > 1:
            turned, poses = self._turn(poses)
        box = self._box([pose.frame for pose in poses])
        closed = self.view != self.whole
        if not closed:
            self._opened_ms = now_ms
        if box is None:
            self._missing += 1
            self._present = self._narrow = 0
            return closed and self._missing >= self._patience and self._go(self.whole)
        self._missing = 0
        wanted = self._around(box)
        if not closed:
            self._present += 1
            # Closing in by less than an eighth is not worth a frame.
            return self._present >= self._settle + newcomers and wanted[2] * 8 <= self.units * 7 and self._go(wanted)
        if now_ms - self._opened_ms >= self._look_ms:
            # The first picture of the whole field is enough, unless it shows newcomers.
            self._present = self._settle - 1
            return self._go(self.whole)
        if turned:
            return self._go(wanted)
        if self._touches_border(box):
            # How far a person extends beyond the border is not known, so leave a larger margin.
            return self._go(self._around(box, 3 * self._margin))
        self._narrow = self._narrow + 1 if wanted[2] * 4 <= self.view[2] * 3 else 0
        return self._narrow >= 2 * self._settle and self._go(wanted)

    def _go(self, view):
        self._narrow = 0
        if view == self.view:
            return False
        self.wanted = view
        self.changes += 1
        return True

    def _turn(self, poses):
        """Choose the person to look at; returns (whether it is a different person than before, [that person])."""
        target = oldest = poses[0]
        for pose in poses:
            if pose.id == self._target:
                target = pose
            if pose.age > oldest.age:
                oldest = pose
        if oldest.age:
            target = oldest
        turned = target.id != self._target
        self._target = target.id
        return turned, [target]

    def keep_whole_people(self, poses):
        """Remove poses that the view cuts off from the list, except the one nearest to its middle, whose turn it is."""
        left, top, size = self.view
        x2 = (2 * left + size) * self._width_q8 // self.units
        y2 = (2 * top + size) * self._height_q8 // self.units
        middle = None
        least = _FAR
        for pose in poses:
            box = self._box((pose.frame,))
            if box:
                away = abs(box[0] + box[2] - x2) + abs(box[1] + box[3] - y2)
                if away < least:
                    least = away
                    middle = pose
        for i in range(len(poses) - 1, -1, -1):
            if poses[i] is not middle and self.cuts_off(poses[i].frame):
                del poses[i]

    def cuts_off(self, data):
        """Whether a pose, in field coordinates, lies outside the view or near a border that cuts the field."""
        box = self._box((data,))
        return box is not None and self._touches_border(box)

    def _box(self, poses):
        """(left, top, right, bottom) of the keypoints at the threshold, q8 px of the field; None if there are none."""
        left = top = _FAR
        right = bottom = -_FAR
        threshold = self._threshold
        for data in poses:
            for i in range(1, len(data), 3):
                if data[i + 2] >= threshold:
                    left = min(left, data[i])
                    right = max(right, data[i])
                    top = min(top, data[i + 1])
                    bottom = max(bottom, data[i + 1])
        return None if right < left else (left, top, right, bottom)

    def _around(self, box, margin_percent=None):
        """The smallest view that holds the box and its margin, centred on the box as far as the field allows."""
        left, top, right, bottom = box
        units = self.units
        margin = max(right - left, bottom - top) * (self._margin if margin_percent is None else margin_percent) // 100
        across = (right - left + 2 * margin) * units
        down = (bottom - top + 2 * margin) * units
        size = max(-(-across // self._width_q8), -(-down // self._height_q8), self._least)
        if self._halving:
            half = units
            while half >> 1 >= size:
                half >>= 1
            size = half
        if size >= units:
            return self.whole
        x = ((left + right) * units // self._width_q8 - size) // 2
        y = ((top + bottom) * units // self._height_q8 - size) // 2
        return (min(max(x, 0), units - size), min(max(y, 0), units - size), size)

    def _touches_border(self, box):
        """Whether the box comes within a sixteenth of the view's size of a border that is not the field's own."""
        left, top, size = self.view
        units = self.units
        near = size >> 4
        return (
            left > 0
            and box[0] * units < (left + near) * self._width_q8
            or top > 0
            and box[1] * units < (top + near) * self._height_q8
            or left + size < units
            and box[2] * units > (left + size - near) * self._width_q8
            or top + size < units
            and box[3] * units > (top + size - near) * self._height_q8
        )


def _convert(data, multiplier, x, y, divisor):
    """Replace each coordinate c of a pose with (c · multiplier + x or y) // divisor."""
    if multiplier != divisor:
        for i in range(1, len(data), 3):
            data[i] = (data[i] * multiplier + x) // divisor
            data[i + 1] = (data[i + 1] * multiplier + y) // divisor
