"""Which part of a sensor's pixels the camera shows: the registers of the sensors that can show a part.

OV2640: its DSP takes a window of the array (SVGA, 800 x 600) and scales it down to the output size. A window of
320 x 240 is sent pixel for pixel, 2.5 times as large as in the whole picture. Width and height are scaled
independently, so a field can be squeezed in width.
OV7740: the array (640 x 480) reads out a window, which is then scaled in the same way.
GC0328 and GC2145 cannot scale: they skip pixels, every second one or more, and crop the rest. So a part is half of the
field or a quarter, and nothing in between. Register names are those of the data sheets.
"""

try:
    from micropython import const
except ImportError:

    def const(value):
        return value


_OV2640 = const(0x2642)
_OV7740 = const(0x7742)
_OV5640 = const(0x5640)
_OV3660 = const(0x3660)
_GC0328 = const(0x9D)
_GC2145 = const(0x2145)
_GC2145_HALF = const(0x45)  # the GC2145's id as some builds truncate it
_SCALING = (_OV2640, _OV7740)
# Width and height in pixels; for the GC2145 at half its size, as MaixPy reads it.
_ARRAYS = {_OV2640: (800, 600), _OV7740: (640, 480), _GC0328: (640, 480), _GC2145: (800, 600), _GC2145_HALF: (800, 600)}
_ADDRESSES = {_OV2640: 0x30, _OV7740: 0x21, _GC0328: 0x21, _GC2145: 0x3C, _GC2145_HALF: 0x3C}


def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


def _left_out(w, h):
    """A sensor that cannot scale shows one pixel in this many, at MaixPy's framesize for w x h."""
    return 4 if w <= 160 and h <= 120 else 2


def whole_part(chip, w, h):
    """(x, y, width, height) of the largest part, in the middle of a sensor's array, that has the shape of w x h.

    If the sensor cannot scale, it is the largest part that fills w x h.
    """
    array_w, array_h = _ARRAYS[chip]
    if chip in _SCALING:
        part_w = min(array_w, array_h * w // h + 2 & -4)
        part_h = min(array_h, array_w * h // w + 2 & -4)
    else:
        part_w = w * _left_out(w, h)
        part_h = h * _left_out(w, h)
    return ((array_w - part_w) // 2, (array_h - part_h) // 2, part_w, part_h)


def i2c_address(chip):
    """The I2C address of a sensor that can show a part."""
    return _ADDRESSES[chip]


def squeezes(sensor):
    """Whether this camera can scale width and height independently, and so squeeze a wide field."""
    return sensor.get_id() == _OV2640 and hasattr(sensor, "__write_reg")


def steps(chip, w, h, field_w):
    """(units, least units, halving) for framing.py; None if the sensor cannot show a part, or has no pixels to spare.

    field_w: the width of the field that w pixels show, in square pixels. units: how many steps the whole part has, each
    a multiple of 4 pixels wide and high, as sensors require. least units: the size of the smallest view. halving: a
    view is the whole field, half of it or a quarter.
    """
    if chip not in _ARRAYS:
        return None
    _, _, part_w, part_h = whole_part(chip, field_w, h)
    units = _gcd(part_w, part_h) // 4
    if chip not in _SCALING:
        return (units, units // _left_out(w, h), True)
    least = max(-(-units * w // part_w), -(-units * h // part_h))
    return (units, least, False) if least < units else None


def whole_registers(chip, w, h, field_w):
    """(register, value) pairs for frames of w x h that show as much as the sensor can; none for an unknown sensor.

    field_w: the width that w pixels show if the sensor squeezes; other sensors show w.
    MaixPy's set_windowing() leaves most sensors at their framesize, of which the K210 takes the top left corner. These
    are the registers that MaixPy's drivers write for their own sizes.
    """
    if chip in (_OV7740, _OV5640, _OV3660):  # all of the array, scaled to the smallest 4:3 that holds w x h
        all_w, all_h = max(w, (h + 2) // 3 * 4), max(h, w * 3 // 4)
        if chip == _OV7740:
            return ((0x31, all_w // 4), (0x32, all_h // 2))  # HOUTSIZE, VOUTSIZE
        # DVPHO, DVPVO
        return ((0x3808, all_w >> 8), (0x3809, all_w & 255), (0x380A, all_h >> 8), (0x380B, all_h & 255))
    if chip != _OV2640:
        field_w = w
    return view_registers(chip, w, h, (0, 0, 1), 1, field_w) if chip in _ARRAYS else ()


def view_registers(chip, w, h, view, units, field_w):
    """(register, value) pairs that make a sensor send a view, (left, top, size) in units, as w x h pixels."""
    left, top, size = view
    x, y, part_w, part_h = whole_part(chip, field_w, h)
    x += left * part_w // units
    y += top * part_h // units
    if chip == _OV2640:
        return _ov2640_window(x, y, part_w * size // units, part_h * size // units, w, h)
    if chip == _OV7740:
        return _ov7740_window(x, y, part_w * size // units, part_h * size // units, w, h)
    step = _left_out(w, h) * size // units
    if chip == _GC0328:
        # Which of the pixels to keep: the values of MaixPy's drivers for VGA, QVGA and QQVGA.
        which = (2, 0, 3)[step >> 1]
        return [(0xFE, 0), (0x59, step << 4 | step), (0x5A, which)] + _crop(0x51, x // step, y // step, w, h)
    return [(0xFE, 0), (0x99, step << 4 | step)] + _crop(0x91, x // step, y // step, w, h)


def _ov2640_window(x, y, part_w, part_h, w, h):
    """(register, value) pairs for the part at (x, y) of the array, scaled to w x h; sizes are multiples of 4."""
    return (
        (0xFF, 0),  # the DSP's registers
        (0x05, 1),  # R_BYPASS: DSP off
        (0xE0, 4),  # RESET: DVP
        (0x51, part_w // 4),  # HSIZE
        (0x52, part_h // 4),  # VSIZE
        (0x53, x & 255),  # XOFFL
        (0x54, y & 255),  # YOFFL
        (0x55, y >> 8 << 4 | x >> 8),  # VHYX
        (0x5A, w // 4),  # ZMOW
        (0x5B, h // 4),  # ZMOH
        (0x5C, 0),  # ZMHH
        (0xE0, 0),
        (0x05, 0),
    )


def _ov7740_window(x, y, part_w, part_h, w, h):
    """The same for an OV7740; x and y count from where MaixPy's start values begin to read the array."""
    return (
        (0x17, 0x25 + x // 4),  # AHSTART
        (0x18, part_w // 4),  # AHSIZE
        (0x19, 0x03 + y // 2),  # AVSTART
        (0x1A, part_h // 2),  # AVSIZE
        (0x31, w // 4),  # HOUTSIZE
        (0x32, h // 2),  # VOUTSIZE
        (0x82, 0x32 if part_w == w else 0x3F),  # the values of MaixPy's drivers without and with scaling
    )


def _crop(first, x, y, w, h):
    """GC0328's and GC2145's crop window: y, x, height, width, two registers each."""
    registers = []
    for value in (y, x, h, w):
        registers.append((first, value >> 8))
        registers.append((first + 1, value & 255))
        first += 2
    return registers
