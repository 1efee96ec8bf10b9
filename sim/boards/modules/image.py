# MaixPy's image module: pictures in the camera's frame buffer or in the GC heap. Runs in MicroPython.
import builtins
import struct as _struct

import _bridge
import uctypes

_GRAY, _RGB565 = 1, 2


def _word(red, green, blue):
    # 8-bit components to a byte-swapped RGB565 word, rounded (img/rgb2rgb_tab.c).
    red, green, blue = min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255)
    value = (red * 31 + 127) // 255 << 11 | (green * 63 + 127) // 255 << 5 | (blue * 31 + 127) // 255
    return (value & 0xFF) << 8 | value >> 8


def _rgb(word):
    value = (word & 0xFF) << 8 | word >> 8
    red, green, blue = value >> 11, value >> 5 & 63, value & 31
    return (red * 255 + 15) // 31, (green * 255 + 31) // 63, (blue * 255 + 15) // 31


def _color(image, color):
    # py_helper.c: a sequence is RGB, a number is stored as it is, −1 (the default) is white.
    if isinstance(color, int):
        return color & 0xFFFF if image._bpp == _RGB565 else color & 0xFF
    word = _word(int(color[0]), int(color[1]), int(color[2]))
    if image._bpp == _RGB565:
        return word
    red, green, blue = _rgb(word)
    return (red * 77 + green * 150 + blue * 29) >> 8


def _flatten(args, count):
    # Coordinates may come as one sequence or one by one; returns them and the arguments that follow.
    if args and not isinstance(args[0], (int, float)):
        return tuple(int(v) for v in args[0]), args[1:]
    return tuple(int(v) for v in args[:count]), args[count:]


def _given(rest, *named):
    # Options may come by position or by name: the positional ones that there are, then the named ones.
    return rest[: len(named)] + named[len(rest) :]


_descriptors = {}


def _descriptor(count):
    if count not in _descriptors:
        _descriptors[count] = {"data": (uctypes.ARRAY | 0, count | uctypes.UINT8)}
    return _descriptors[count]


class Image(uctypes.struct):
    def __init__(self, source=None, copy_to_fb=False, from_bytes=None, size=None, _frame=None):
        if _frame is not None:
            self._place(_frame)
            return
        if isinstance(source, str):
            with open(source, "rb") as file:
                data = file.read()
            if not (data[:2] == b"BM" or data[:2] == b"\xff\xd8"):
                raise ValueError("format not supported")
        elif from_bytes:
            data = bytes(source)
        else:
            self._own(*(size or (320, 240)), _RGB565)
            return
        _bridge.call(b"decode", payload=data)
        width, height = _bridge.values[:2]
        self._own(width, height, _RGB565)
        self._pull(_bridge.PICTURE_WINDOW_2)

    def _place(self, frame):
        # An image in the frame buffer; frame is offset, width, height, bpp, offset of pix_ai.
        self._buffer = None
        self._at, self._w, self._h, self._bpp, self._ai_at = frame
        self._ai = None
        self._aliased = False
        self._bytes = self._w * self._h * self._bpp
        super().__init__(_bridge.memory_address + self._at, _descriptor(self._bytes))
        self._describe(_bridge.memory_address + self._at, _bridge.memory_address + self._ai_at)

    def _own(self, width, height, bpp):
        # A black image in the GC heap; pix_ai is NULL.
        self._w, self._h, self._bpp = width, height, bpp
        self._bytes = width * height * bpp
        self._buffer = bytearray(self._bytes)
        self._at, self._ai_at, self._ai = -1, -1, None
        self._aliased = False
        super().__init__(uctypes.addressof(self._buffer), _descriptor(self._bytes))
        self._describe(uctypes.addressof(self._buffer), 0)

    def _describe(self, pixels, pix_ai):
        # The object as in the chip's memory: type, then image_t (imlib.h). id() returns its address.
        self._object = _struct.pack("<QiiiiQQ", 0, self._w, self._h, self._bpp, 0, pixels, pix_ai)

    def _push(self):
        # Put the pixels where the host can read them; returns their offset.
        if self._buffer is None:
            return self._at
        _bridge.memory[_bridge.PICTURE_WINDOW : _bridge.PICTURE_WINDOW + self._bytes] = self._buffer
        return _bridge.PICTURE_WINDOW

    def _pull(self, window=_bridge.PICTURE_WINDOW):
        if self._buffer is not None:
            memoryview(self._buffer)[:] = _bridge.memory[window : window + self._bytes]

    def _draw(self, name, *numbers, payload=b""):
        at = self._push()
        if self._buffer is None and not self._aliased:
            _bridge.post(b"!" + name, at, self._w, self._h, self._bpp, *numbers, payload=payload)
        else:
            _bridge.call(name, at, self._w, self._h, self._bpp, *numbers, payload=payload)
            self._pull()
        return self

    def width(self):
        return self._w

    def height(self):
        return self._h

    def format(self):
        return 4 if self._bpp == _GRAY else 2

    def size(self):
        return self._bytes

    def to_bytes(self):
        # The pixels themselves, not a copy.
        if not self._aliased:
            self._aliased = True
            _bridge.call(b"heap_free")  # waits until everything that was drawn is in memory
        if self._buffer is not None:
            return self._buffer
        return uctypes.bytearray_at(_bridge.memory_address + self._at, self._bytes)

    def get_pixel(self, *args):
        (x, y), _ = _flatten(args, 2)
        if not (0 <= x < self._w and 0 <= y < self._h):
            return None
        data = self.to_bytes()
        if self._bpp == _GRAY:
            return data[y * self._w + x]
        at = 2 * (y * self._w + x)
        return _rgb(data[at] | data[at + 1] << 8)

    def set_pixel(self, *args, **named):
        (x, y), rest = _flatten(args, 2)
        color = _color(self, named.get("color", rest[0] if rest else -1))
        if 0 <= x < self._w and 0 <= y < self._h:
            data = self.to_bytes()
            if self._bpp == _GRAY:
                data[y * self._w + x] = color
            else:
                data[2 * (y * self._w + x)], data[2 * (y * self._w + x) + 1] = color & 255, color >> 8
        return self

    def draw_line(self, *args, color=-1, thickness=1):
        (x0, y0, x1, y1), rest = _flatten(args, 4)
        color, thickness = _given(rest, color, thickness)
        return self._draw(b"line", x0, y0, x1, y1, _color(self, color), thickness)

    def draw_rectangle(self, *args, color=-1, thickness=1, fill=False):
        (x, y, w, h), rest = _flatten(args, 4)
        color, thickness, fill = _given(rest, color, thickness, fill)
        return self._draw(b"rect", x, y, w, h, _color(self, color), thickness, int(fill))

    def draw_circle(self, *args, color=-1, thickness=1, fill=False):
        (x, y, r), rest = _flatten(args, 3)
        color, thickness, fill = _given(rest, color, thickness, fill)
        return self._draw(b"circle", x, y, r, _color(self, color), thickness, int(fill))

    def draw_cross(self, *args, color=-1, size=5, thickness=1):
        (x, y), rest = _flatten(args, 2)
        color, size, thickness = _given(rest, color, size, thickness)
        return self._draw(b"cross", x, y, _color(self, color), size, thickness)

    def draw_string(self, *args, color=-1, scale=1.0, x_spacing=0, y_spacing=2, mono_space=0):
        (x, y), rest = _flatten(args, 2)
        color, scale = _given(rest[1:], color, scale)
        return self._draw(
            b"string", x, y, _color(self, color), int(scale * 1024), x_spacing, y_spacing, int(mono_space),
            payload=str(rest[0]).encode(),
        )  # fmt: skip

    def clear(self):
        return self._draw(b"rect", 0, 0, self._w, self._h, 0, 1, 1)

    def pix_to_ai(self):
        if self._ai_at < 0 and self._ai is None:
            pitch = self._w if self._bpp == _GRAY else (self._w + 63) // 64 * 64
            self._ai = bytearray(pitch * self._h * (1 if self._bpp == _GRAY else 3))
            self._describe(uctypes.addressof(self._buffer), uctypes.addressof(self._ai))
        window = self._planes_window()
        _bridge.call(b"pix_to_ai", self._push(), self._w, self._h, self._bpp, window)
        self._pull_planes(window)

    def ai_to_pix(self):
        if self._ai_at < 0 and self._ai is None:
            return
        _bridge.call(b"ai_to_pix", self._push(), self._w, self._h, self._bpp, self._push_planes())
        self._pull()

    def _planes_window(self):
        return self._ai_at if self._ai is None else _bridge.PICTURE_WINDOW_2

    def _plane_bytes(self):
        return self._w * self._h * (1 if self._bpp == _GRAY else 3)

    def _push_planes(self):
        # Put pix_ai where the host can read it; returns its offset.
        window = self._planes_window()
        if self._ai is not None:
            count = self._plane_bytes()
            _bridge.memory[window : window + count] = memoryview(self._ai)[:count]
        return window

    def _pull_planes(self, window):
        if self._ai is not None:
            count = self._plane_bytes()
            memoryview(self._ai)[:count] = _bridge.memory[window : window + count]

    def resize(self, width, height):
        result = _new(width, height, self._bpp)
        _bridge.call(b"resize", self._push(), self._w, self._h, self._bpp, width, height)
        result._pull(_bridge.PICTURE_WINDOW_2)
        return result

    def cut(self, x, y, w, h):
        result = _new(w, h, self._bpp)
        source = memoryview(self.to_bytes())
        pitch, line = self._w * self._bpp, w * self._bpp
        for row in range(h):
            start = (y + row) * pitch + x * self._bpp
            memoryview(result._buffer)[row * line : (row + 1) * line] = source[start : start + line]
        return result

    def copy(self, *args, **named):
        roi = args[0] if args else named.get("roi", (0, 0, self._w, self._h))
        return self.cut(*roi)

    crop = copy

    def to_grayscale(self, copy=False):
        if self._bpp == _GRAY:
            return self
        _bridge.call(b"gray", self._push(), self._w, self._h, self._bpp)
        result = _new(self._w, self._h, _GRAY)
        result._pull(_bridge.PICTURE_WINDOW_2)
        return result

    def save(self, path, *args, quality=50):
        data = _bridge.call(
            b"encode", self._push(), self._w, self._h, self._bpp, 0 if path.endswith(".bmp") else quality
        )
        with open(path, "wb") as file:
            file.write(data)
        return self

    def __getitem__(self, index):
        return self.get_pixel(index % self._w, index // self._w)

    def __setitem__(self, index, color):
        self.set_pixel(index % self._w, index // self._w, color)

    def __repr__(self):
        kind = "grayscale" if self._bpp == _GRAY else "rgb565"
        return '{"w":%d, "h":%d, "type":"%s", "size":%d}' % (self._w, self._h, kind, self._bytes)


def _new(width, height, bpp):
    image = Image(size=(1, 1))
    image._own(width, height, bpp)
    return image


def frame(*place):
    return Image(_frame=place)


_id = builtins.id
builtins.id = lambda thing: uctypes.addressof(thing._object) if isinstance(thing, Image) else _id(thing)
