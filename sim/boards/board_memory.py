"""The memory that the host shares with the board's programs: the chip's heap, pictures in it, and their transfer.

`SystemHeap` first, as large as the chip's, then two windows for the transfer of pictures that are in the GC heap.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from common.arrays import Numbers
from sim.boards.devices import SystemHeap

HEAP_WINDOW_BYTES = 8 << 20
PICTURE_WINDOW = HEAP_WINDOW_BYTES
PICTURE_BYTES = 2 << 20
PICTURE_WINDOW_2 = PICTURE_WINDOW + PICTURE_BYTES
SHARED_BYTES = PICTURE_WINDOW_2 + PICTURE_BYTES

GRAYSCALE, RGB565 = 1, 2  # bytes per pixel of image memory


class Status(IntEnum):
    """How an operation ended: the exception that the program gets. OS_NUMBER: OSError with the errno in the text."""

    SUCCESS, VALUE_ERROR, OS_ERROR, RUNTIME_ERROR, TYPE_ERROR, OS_NUMBER, MEMORY_ERROR = range(7)


class BoardError(Exception):
    """An error that becomes an exception inside the board's program."""

    def __init__(self, status: Status, text: str):
        super().__init__(text)
        self.status = status


class BoardMemory:
    """The shared memory `buffer`, uint8, and what the heap in it has given out."""

    def __init__(self, buffer: memoryview, heap_bytes: int):
        self.bytes: NDArray[np.uint8] = np.frombuffer(buffer, dtype=np.uint8)
        self.heap = SystemHeap(heap_bytes)

    def malloc(self, length: int, alignment: int = 64) -> int:
        """The address of a new block of `length` bytes; BoardError with ENOMEM if there is none."""
        at = self.heap.malloc(length, alignment)
        if at is None:
            raise BoardError(Status.OS_NUMBER, str(errno.ENOMEM))
        return at

    def image(self, numbers: Sequence[int]) -> Numbers:
        """The pixels (h, w) at an address: grey as uint8, or RGB565 words. `numbers`: address, width, height, bpp."""
        at, width, height, bpp = numbers[:4]
        pixels = self.bytes[at : at + bpp * width * height]
        return (pixels if bpp == GRAYSCALE else pixels.view("<u2")).reshape(height, width)

    def planes(self, at: int, width: int, height: int, channels: int = 3) -> NDArray[np.uint8]:
        """The KPU's input at an address: uint8 (channels, h, w)."""
        return self.bytes[at : at + channels * width * height].reshape(channels, height, width)
