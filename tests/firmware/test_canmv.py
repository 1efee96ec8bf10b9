"""firmware/canmv.py over a piece of memory: it finds every output and follows no pointer that it has not checked.

tests/whole_way/test_canmv.py shows on CanMV's own image that the memory of a real CanMV looks like this.
"""

from __future__ import annotations

import struct
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.synthetic_kmodel import make_model
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from model_build.kpu import kmodel_v3

BASE = 0x80000000
MODEL_AT, BUFFER_AT, TABLE_AT, SIZES_AT, OBJECT_AT = (BASE + at for at in (0x1000, 0x20000, 0x40000, 0x40100, 0x40200))
WORDS = 12


class Memory:
    """64-bit words and bytes from BASE on. An access outside them would be a crash, which must not happen."""

    def __init__(self, size: int = 0x600000):
        self.data = bytearray(size)

    def put(self, address: int, data: bytes) -> None:
        self.data[address - BASE : address - BASE + len(data)] = data

    def bytearray_at(self, address: int, size: int) -> memoryview:
        at = address - BASE
        assert at >= 0 and at + size <= len(self.data), f"wild access to {address:#x}"
        return memoryview(self.data)[at : at + size]

    def bytes_at(self, address: int, size: int) -> bytes:
        return bytes(self.bytearray_at(address, size))


KMODEL = kmodel_v3.write(make_model(64, 48))
TABLE = [struct.unpack_from("<2I", KMODEL, 28 + 8 * i) for i in range(4)]


def words(**changed: int) -> bytes:
    """A KPU object after a run, with some of its words changed."""
    values = [BASE, BASE, len(KMODEL), MODEL_AT, 0x300000, 0, BASE, 4, TABLE_AT, SIZES_AT, 0, 0]
    for name, value in changed.items():
        values[int(name[1:])] = value
    return struct.pack("<12Q", *values)


def canmv(monkeypatch_modules: dict[str, Any], memory: Memory) -> types.SimpleNamespace:
    """The module over this memory; every object lies at OBJECT_AT."""

    class Kpu:
        def load_kmodel(self, source: object, size: int = 0) -> None:
            if source == 0x900000:
                raise OSError("Failed to init model")

        def deinit(self) -> None:
            self.gone = True

    fakes = {
        "uctypes": types.SimpleNamespace(bytes_at=memory.bytes_at, bytearray_at=memory.bytearray_at),
        "maix": types.SimpleNamespace(KPU=Kpu),
        "maixpy_api": firmware_module("maixpy_api"),
    }
    names: dict[str, Any] = {"id": lambda _: OBJECT_AT, "__name__": "canmv"}
    before = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)  # type: ignore[arg-type]
    monkeypatch_modules.update(before)
    source = (FIRMWARE_DIR / "canmv.py").read_text(encoding="utf-8")
    exec(compile(source.replace("os.uname()[3]", "'v1.0.9'"), "canmv.py", "exec"), names)
    return types.SimpleNamespace(**names)


@pytest.fixture
def modules():
    """Puts the modules that a test replaced back."""
    before: dict[str, Any] = {}
    yield before
    for name, module in before.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module


def filled(**changed: int) -> Memory:
    memory = Memory()
    memory.put(MODEL_AT, KMODEL)
    for i, (at, size) in enumerate(TABLE):
        memory.put(BUFFER_AT + at, bytes([65 + i]) * size)
    memory.put(TABLE_AT, struct.pack("<Q", BUFFER_AT + TABLE[0][0]))
    memory.put(SIZES_AT, struct.pack("<Q", TABLE[0][1]))
    memory.put(OBJECT_AT, words(**changed))
    return memory


def test_every_output_is_found_without_a_copy(modules):
    """Outputs lie where the kmodel's own table says, and the same views show what the next run writes."""
    memory = filled()
    model = canmv(modules, memory).CanmvModel(0x300000, len(KMODEL))
    views = model.heads((2, 0, 3, 1), None)
    assert [(view[0], len(view)) for view in views] == [(65 + i, TABLE[i][1]) for i in (2, 0, 3, 1)]
    memory.put(BUFFER_AT + TABLE[2][0], b"new")
    assert bytes(views[0][:3]) == b"new"
    assert bytes(model.loaded()) == KMODEL
    with pytest.raises(ValueError, match="no output 4"):
        model.heads((4,), None)


def test_what_the_loader_refuses_is_a_value_error(modules):
    """posenet.py catches and shows the ValueError that MaixPy's KPU.load() raises."""
    with pytest.raises(ValueError, match="Failed to init model"):
        canmv(modules, filled()).CanmvModel(0x900000, len(KMODEL))


@given(st.integers(0, 2**64 - 1), st.sampled_from((2, 3, 7, 8, 9)), st.booleans())
def test_no_word_of_another_build_leads_into_nowhere(value, which, later):
    """Another build may hold any value in any word, already at loading or only after the run.

    Either the value is as known, or it is refused. A wrong pointer must never be followed.
    """
    before: dict[str, Any] = {}
    memory = filled(**({} if later else {f"w{which}": value}))
    try:
        module = canmv(before, memory)
        try:
            model = module.CanmvModel(0x300000, len(KMODEL))
            memory.put(OBJECT_AT, words(**{f"w{which}": value}))
            views = model.heads((0, 1, 2, 3), None)
            assert [len(view) for view in views] == [size for _, size in TABLE]
        except ValueError as error:
            assert "is not known" in str(error)
    finally:
        for name, old in before.items():
            sys.modules.pop(name, None) if old is None else sys.modules.update({name: old})
