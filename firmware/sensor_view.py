"""Which part of a sensor's pixels the camera shows: the registers of the sensors that can cut and scale.

OV2640: its DSP takes a window of the array (SVGA, 800 x 600) and scales it down to the size that is put out. A window
of 320 x 240 goes out pixel for pixel, 2.5 times as near as the whole. Register names are those of its data sheet.
"""

OV2640 = 0x2642
_ARRAY_W = 800
_ARRAY_H = 600


def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


def whole_part(w, h):
    """(x, y, width, height) of the largest part of the OV2640's array that has the shape of w x h, in its middle."""
    part_w = min(_ARRAY_W, _ARRAY_H * w // h + 2 & -4)
    part_h = min(_ARRAY_H, _ARRAY_W * h // w + 2 & -4)
    return ((_ARRAY_W - part_w) // 2, (_ARRAY_H - part_h) // 2, part_w, part_h)


def steps(chip, w, h):
    """(units, least units) for framing.py: how many steps the whole part has, and the size of the smallest view.

    Every view is a multiple of 4 pixels wide and high, as the sensor wants it. None where the sensor cannot cut and
    scale, or has no more pixels than w x h.
    """
    if chip != OV2640:
        return None
    _, _, part_w, part_h = whole_part(w, h)
    units = _gcd(part_w, part_h) // 4
    least = max(-(-units * w // part_w), -(-units * h // part_h))
    return (units, least) if least < units else None


def view_registers(w, h, view, units):
    """(register, value) pairs that make an OV2640 put out a view, (left, top, size) in units, as w x h pixels."""
    left, top, size = view
    x, y, part_w, part_h = whole_part(w, h)
    return ov2640_window(
        x + left * part_w // units, y + top * part_h // units, part_w * size // units, part_h * size // units, w, h
    )


def ov2640_window(x, y, part_w, part_h, w, h):
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
