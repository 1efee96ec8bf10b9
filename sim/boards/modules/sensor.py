# MaixPy's sensor module. Runs in MicroPython.
import time as _time

import _bridge
import _core
import image as _image

BAYER, RGB565, YUV422, GRAYSCALE, JPEG = 1, 2, 3, 4, 5
QQVGA, QVGA, VGA, HQQQVGA, HQQVGA, HQVGA = 9, 10, 11, 12, 13, 14
B64X32, B64X64, B128X64, B128X128, B240X240 = 15, 16, 17, 18, 19
_SIZES = {
    9: (160, 120), 10: (320, 240), 11: (640, 480), 12: (60, 40), 13: (120, 80), 14: (240, 160),
    15: (64, 32), 16: (64, 64), 17: (128, 64), 18: (128, 128), 19: (240, 240),
}  # fmt: skip
_size = None
_NAMES = {0x2642: "ov2640", 0x7742: "ov7740", 0x9D: "gc0328"}
OV2640 = 0x2642
_id = 0


def reset(*, freq=24000000, set_regs=True, dual_buff=False, choice=0):
    global _size, _id
    _bridge.call(b"cam_reset", int(dual_buff))
    _id = _bridge.values[0]
    _size = None
    print("[MAIXPY]: find " + _NAMES[_id])


def set_pixformat(pixformat):
    _bridge.call(b"cam_format", pixformat)
    return True


def set_framesize(framesize, set_regs=True):
    global _size
    if framesize not in _SIZES:
        raise OSError("Frame size is not supported!")
    _size = _SIZES[framesize]
    _bridge.call(b"cam_size", *_size)


def set_windowing(window):
    if len(window) == 2:
        w, h = window
        x, y = (_size[0] - w) // 2, (_size[1] - h) // 2
    else:
        x, y, w, h = window
    _bridge.call(b"cam_window", x, y, w, h)
    return True


def set_hmirror(on):
    _bridge.call(b"cam_mirror", int(bool(on)))


def set_vflip(on):
    _bridge.call(b"cam_flip", int(bool(on)))


def __write_reg(address, value):
    _bridge.call(b"cam_write", address, value)


def __read_reg(address):
    _bridge.call(b"cam_read", address)
    return _bridge.values[0]


def run(on):
    return True


def width():
    return _size[0] if _size else None


def height():
    return _size[1] if _size else None


def skip_frames(n=None, time=300):
    if n is None:
        until = _time.ticks_add(_time.ticks_ms(), min(time, 50))
        while _time.ticks_diff(until, _time.ticks_ms()) > 0:
            snapshot()
    else:
        for _ in range(n):
            snapshot()


def snapshot():
    # Each call makes a new object, as on the board, on the same frame buffer.
    if _core.picture_ms:
        _time.sleep_ms(_core.picture_ms)
    _bridge.call(b"snapshot")
    return _image.frame(*_bridge.values[:5])


def shutdown(on):
    return None


def get_id():
    return _id


def set_jb_quality(quality):
    return None


for _name in "set_contrast set_brightness set_saturation set_auto_gain set_auto_exposure set_auto_whitebal".split():
    globals()[_name] = lambda *a, **k: True
