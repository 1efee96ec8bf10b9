"""Networks on CanMV, whose class maix.KPU computes all outputs but returns only the first, as a list of floats.

In 64-bit words, an object of that class is (Maix_kpu.c of CanMV 1.0.5 to 1.0.7):

    0 type   1 context   2 bytes of the kmodel   3 the kmodel in memory   4 its source   5 inputs   6 picture
    7 number of outputs   8 table of outputs   9 table of their sizes   10, 11 others

After a run the first entry of the table is the address of output 0; the kmodel itself says how far
from it the others lie. Every pointer is checked before it is followed; a build with another object is named as unknown.
"""

import gc
import os

from maixpy_api import KMODEL_V3, SRAM
from uctypes import bytearray_at, bytes_at

_MAIN_BYTES = 20  # offsets in the kmodel's header: bytes of the buffer that holds all outputs,
_OUTPUTS = 24  # their number,
_TABLE = 28  # and for each its place in the buffer and its bytes


def _number(data, at, size=4):
    return int.from_bytes(data[at : at + size], "little")


def _in_sram(address, size):
    return SRAM[0] <= address and address + size <= SRAM[1]


def _unknown():
    return ValueError("CanMV %s is not known: its KPU object is not as in 1.0.5 to 1.0.7" % os.uname()[3])


class CanmvModel:
    """The same as maixpy_api.Model. size: bytes of the kmodel."""

    def __init__(self, source, size):
        from maix import KPU

        self._size = size
        self._net = KPU()
        try:
            if isinstance(source, str):
                self._net.load_kmodel(source)
            else:
                self._net.load_kmodel(source, size)
        except (OSError, MemoryError) as error:
            raise ValueError(str(error))
        if self.loaded() is None:
            raise _unknown()

    def _words(self):
        return bytes_at(id(self._net), 80)

    def loaded(self):
        """The kmodel's bytes in the library's memory, None if they are not where they should be."""
        words = self._words()
        start = _number(words, 24, 8)
        if _number(words, 16, 8) != self._size or not _in_sram(start, self._size):
            return None
        head = bytes_at(start, _TABLE)
        if head[: len(KMODEL_V3)] != KMODEL_V3 or _number(head, _OUTPUTS) != _number(words, 56):
            return None
        return bytearray_at(start, self._size)

    def run(self, img):
        """Run the network on an image's R, G and B planes."""
        self._net.run_with_output(img)

    def heads(self, outputs, img):
        """A view of each output; call once, after run(img). ValueError if they are not found."""
        kmodel = self.loaded()
        words = self._words()
        table, sizes = _number(words, 64, 8), _number(words, 72, 8)
        if kmodel is None or not (_in_sram(table, 8) and _in_sram(sizes, 8)):
            raise _unknown()
        buffer = _number(bytes_at(table, 8), 0, 8) - _number(kmodel, _TABLE)
        bytes_of_all = _number(kmodel, _MAIN_BYTES)
        if _number(bytes_at(sizes, 8), 0, 8) != _number(kmodel, _TABLE + 4) or not _in_sram(buffer, bytes_of_all):
            raise _unknown()
        views = []
        for output in outputs:
            at, size = _number(kmodel, _TABLE + 8 * output), _number(kmodel, _TABLE + 8 * output + 4)
            if output >= _number(kmodel, _OUTPUTS) or at + size > bytes_of_all:
                raise ValueError("the kmodel has no output %d" % output)
            views.append(memoryview(bytearray_at(buffer + at, size)))
        return views

    def deinit(self):
        """Give the model's memory back."""
        if self._net is not None:
            self._net.deinit()
            self._net = None
            gc.collect()
