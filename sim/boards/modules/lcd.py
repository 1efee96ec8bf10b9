# MaixPy's lcd module (OMV/py/py_lcd.c). Runs in MicroPython.
import _bridge
from image import _word

NONE, SHIELD, CUBE = 0, 1, 2
BLACK, NAVY, DARKGREEN, DARKCYAN, MAROON, PURPLE, OLIVE = 0, 0x0F00, 0xE003, 0xEF03, 0x0078, 0x0F78, 0xE07B
LIGHTGREY, DARKGREY, BLUE, GREEN, CYAN, RED, MAGENTA = 0x18C6, 0xEF7B, 0x1F00, 0xE007, 0xFF07, 0x00F8, 0x1FF8
YELLOW, WHITE, ORANGE, GREENYELLOW, PINK = 0xE0FF, 0xFFFF, 0x20FD, 0xE5AF, 0x1FF8
_width = _height = None
_ready = False
_mirrored = False


def init(type=1, freq=15000000, color=BLACK, width=320, height=240, invert=0, offset_w0=0, offset_h0=0,
         offset_w1=0, offset_h1=0, rst=37, dcx=38, ss=36, clk=39, lcd_type=0):  # fmt: skip
    global _width, _height, _ready
    if not 0 <= type <= 5:
        raise ValueError("type error")
    if type == 2:
        width = height = 240
    _bridge.call(b"lcd_init", type, width, height, int(invert), _raw(color))
    _width, _height = _bridge.values[:2]
    _ready = type != 0


def deinit():
    global _ready
    _ready = False


def width():
    return _width


def height():
    return _height


def type():
    return 1


def _raw(color):
    return color & 0xFFFF if isinstance(color, int) else _word(*color)


def clear(color=BLACK, **ignored):
    # A colour passed as a keyword is ignored, as in the firmware.
    if _ready:
        _bridge.post(b"!lcd_clear", _raw(color) if "color" not in ignored else 0)


def display(img, roi=None, oft=None):
    if not _ready:
        return
    x, y, w, h = roi or (0, 0, img._w, img._h)
    left, top = oft or (0, 0)
    _bridge.call(b"lcd_display", img._push(), img._w, img._h, img._bpp, x, y, w, h, left, top, int(oft is not None))


def rotation(value=None):
    global _width, _height, _rotation
    if value is None:
        return _rotation
    if not 0 <= value <= 3:
        raise ValueError("value:[0,3]")
    _rotation = value
    _bridge.call(b"lcd_rotation", value)
    _width, _height = _bridge.values[:2]
    return value


_rotation = 0


def mirror(on=None):
    global _mirrored
    if on is not None:
        _mirrored = bool(on)
        _bridge.post(b"!lcd_mirror", int(_mirrored))
    return _mirrored


def direction(value):
    _bridge.post(b"!lcd_dir", value)


def freq(value=None):
    return 15000000


def draw_string(x, y, text, fc=RED, bg=BLACK):
    if _ready:
        _bridge.post(b"!lcd_string", x, y, fc, bg, payload=text.encode())


def fill_rectangle(x, y, w, h, color):
    if x + w >= _width or y + h >= _height:
        raise ValueError("arg error")
    _bridge.post(b"!lcd_fill", x, y, w, h, _raw(color))
