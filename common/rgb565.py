"""RGB565 as the K210's camera, MaixPy and the displays store it: five bits of red, six of green, five of blue.

MaixPy rounds between 5 or 6 and 8 bits by tables (MaixPy-v1 omv/img/rgb2rgb_tab.c); it neither drops nor repeats
bits. Its image memory is big-endian: byte 0 = R5<<3 | G6>>3, byte 1 = (G6&7)<<5 | B5. Read as the little-endian
words of the chip's CPU the bytes are swapped; `pack` and `unpack` work on such words, dtype '<u2'.

sim/boards/modules/image.py repeats these rules, because it runs in MicroPython and cannot import this file.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from common.arrays import Bytes, Integers

Words = NDArray[np.uint16]

# These tables hold round(v · 255 / 31) and so on, computed in integers.
FROM5 = ((np.arange(32) * 255 + 15) // 31).astype(np.uint8)
FROM6 = ((np.arange(64) * 255 + 31) // 63).astype(np.uint8)
TO5 = ((np.arange(256) * 31 + 127) // 255).astype(np.uint16)
TO6 = ((np.arange(256) * 63 + 127) // 255).astype(np.uint16)


def join(red5: Integers, green6: Integers, blue5: Integers) -> Words:
    """RGB565 values of their three fields."""
    return np.asarray(red5 << 11 | green6 << 5 | blue5, np.uint16)


def split(values: Integers) -> tuple[Integers, Integers, Integers]:
    """The three fields of RGB565 values: 5, 6 and 5 bits."""
    return values >> 11, values >> 5 & 63, values & 31


def expand(values: Integers) -> Bytes:
    """RGB565 values (…) to uint8 (…, 3) RGB by the tables."""
    red, green, blue = split(values)
    return np.stack((FROM5[red], FROM6[green], FROM5[blue]), axis=-1)


def truncate(rgb: Bytes) -> Words:
    """Uint8 (…, 3) RGB to RGB565 values as the camera interface makes them: low bits dropped."""
    red, green, blue = (rgb[..., channel].astype(np.uint16) for channel in range(3))
    return join(red >> 3, green >> 2, blue >> 3)


def widen(values: Words, repeat: bool) -> Bytes:
    """RGB565 values (…) to uint8 (…, 3) RGB without tables: the low bits are zeros, or the upper bits repeated."""
    red, green, blue = split(values)
    wide = np.stack((red << 3, green << 2, blue << 3), axis=-1)
    if repeat:
        wide |= np.stack((red >> 2, green >> 4, blue >> 2), axis=-1)
    return np.asarray(wide, np.uint8)


# The bits that each component puts into a swapped word.
_RED, _GREEN, _BLUE = (
    fields.astype("<u2").byteswap() for fields in (join(TO5, 0 * TO6, 0 * TO5), join(0 * TO5, TO6, 0 * TO5), TO5)
)


def pack(rgb: Bytes) -> Words:
    """Uint8 (…, 3) RGB to swapped words (…), rounded."""
    words: Words = _RED[rgb[..., 0]] | _GREEN[rgb[..., 1]] | _BLUE[rgb[..., 2]]
    return words


def pack_color(red: int, green: int, blue: int) -> int:
    """One colour, components clamped to 0…255, as a swapped word."""
    clamped = np.clip(np.array([[red, green, blue]]), 0, 255).astype(np.uint8)
    return int(pack(clamped)[0])


@functools.lru_cache(maxsize=1)
def _unpack_table() -> Bytes:
    return expand(np.arange(65536, dtype=np.uint16).byteswap())


def unpack(words: Words) -> Bytes:
    """Swapped words (h, w) to uint8 (h, w, 3) RGB."""
    return _unpack_table()[words]


def to_planes(words: Words) -> Bytes:
    """What pix_to_ai() writes: uint8 (3, h, w), planes R, G, B."""
    return np.ascontiguousarray(unpack(words).transpose(2, 0, 1))


def from_planes(planes: Bytes) -> Words:
    """What ai_to_pix() writes from uint8 (3, h, w)."""
    return pack(planes.transpose(1, 2, 0))


def to_memory(picture: Bytes) -> bytes:
    """Uint8 (h, w, 3) RGB as MaixPy stores it in memory."""
    return pack(picture).tobytes()


def picture_of(memory: bytes, width: int, height: int) -> Bytes:
    """MaixPy's memory of a picture as uint8 (h, w, 3) RGB."""
    return unpack(np.frombuffer(memory, "<u2").reshape(height, width))


def planes_of(memory: bytes, width: int, height: int) -> Bytes:
    """What pix_to_ai() makes of a picture's memory: uint8 (3, h, w)."""
    return np.ascontiguousarray(picture_of(memory, width, height).transpose(2, 0, 1))
