"""One RISC-V hart on Unicorn.

Unicorn has no interrupt pin and no public instruction counter, and keeps a few control registers read-only. What
this module reaches past its interface for is found at start-up by writing known values and looking where they
land, so that another build of the library fails at once instead of misbehaving:

* `mip` and `mhartid` in the bytes of a saved context. After a bit of `mip` was set through the register
  interface Unicorn takes machine interrupts by itself, on the exact instruction that unmasks them.
* the counter behind `emu_start(count=…)`, read for the time inside a slice, and moved to its end to stop after
  the current instruction. (`emu_stop` within a device access would execute the access a second time.)
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import unicorn
from unicorn import riscv_const as rv
from unicorn.unicorn_py3.unicorn import uclib

UNICORN_VERSION = "2.1.4"
NEVER = (1 << 64) - 2  # an address that no program reaches
MIP_SSIP, MIP_MSIP, MIP_MTIP, MIP_MEIP = 1 << 1, 1 << 3, 1 << 7, 1 << 11
MSTATUS_MIE, MSTATUS_MPIE, MSTATUS_MPP, MSTATUS_FS = 1 << 3, 1 << 7, 3 << 11, 3 << 13
CAUSE_ECALL_M = 11
GENERAL_REGISTERS_BYTES = 32 * 8  # first in Unicorn's RISC-V state, in the order x0…x31
PC_OFFSET_BYTES = 64 * 8  # behind 32 integer and 32 floating-point registers

# Device accesses go straight to a C callback: the binding's own wrappers would double their cost.
_READ_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_WRITE_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
)


class Unsupported(RuntimeError):
    """The installed Unicorn is not the one this emulator was written for."""


class _Layout:
    """Where things lie inside Unicorn's structures; found once per process."""

    state: int  # offset of the register file in a context
    mip: int
    mhartid: int
    counter: int  # offset of the instruction counter in the engine's structure

    def __init__(self) -> None:
        if unicorn.__version__ != UNICORN_VERSION:
            raise Unsupported(f"unicorn {unicorn.__version__} is installed, the emulator needs {UNICORN_VERSION}")
        self._memory = mmap.mmap(-1, 4096)
        host_address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        engine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        engine.mem_map_ptr(0x80000000, 4096, unicorn.UC_PROT_ALL, host_address)
        self._memory[0:4] = (0x0000A001).to_bytes(4, "little")  # c.j 0: a loop of one instruction
        self.counter = self._find_counter(engine)
        registers = {rv.UC_RISCV_REG_X1: 0x1122334455667788, rv.UC_RISCV_REG_PC: 0x8877665544332210}
        for register, value in registers.items():
            engine.reg_write(register, value)
        raw = _context_bytes(engine)
        self.state = raw.index((0x1122334455667788).to_bytes(8, "little")) - 8
        if raw.index((0x8877665544332210).to_bytes(8, "little")) != self.state + PC_OFFSET_BYTES:
            raise Unsupported("unexpected register layout in this Unicorn")
        self.mip = self._changed(engine, rv.UC_RISCV_REG_MIP, MIP_SSIP)
        mstatus = self._changed(engine, rv.UC_RISCV_REG_MSTATUS, MSTATUS_MIE)
        self.mhartid = mstatus - 8

    def _find_counter(self, engine: unicorn.Uc) -> int:
        """The structure holds {counter, limit} side by side: after N instructions {N or N + 1, N}."""
        start = _engine_address(engine)
        candidates: set[int] | None = None
        for count in (123457, 98765):
            engine.emu_start(0x80000000, NEVER, 0, count)
            words = (ctypes.c_size_t * 512).from_address(start)
            found = {8 * i for i in range(511) if words[i + 1] == count and words[i] in (count, count + 1)}
            candidates = found if candidates is None else candidates & found
        if not candidates or len(candidates) != 1:
            raise Unsupported("no instruction counter found in this Unicorn")
        return candidates.pop()

    def _changed(self, engine: unicorn.Uc, register: int, bit: int) -> int:
        """Offset of the 8-byte register whose `bit` a write sets; every other byte behind it stays."""
        before = _context_bytes(engine)
        engine.reg_write(register, engine.reg_read(register) | bit)
        after = _context_bytes(engine)
        moved = [i for i in range(self.state, len(after)) if before[i] != after[i] and after[i] - before[i] == bit]
        if len(moved) != 1:
            raise Unsupported(f"control register {register} not found in this Unicorn")
        return moved[0]


def _engine_address(engine: unicorn.Uc) -> int:
    handle = engine._uch
    assert handle is not None and handle.value is not None
    return handle.value


def _context_bytes(engine: unicorn.Uc) -> bytes:
    context = engine.context_save()
    return ctypes.string_at(context.context, context.size)


_layout: _Layout | None = None


def _get_layout() -> _Layout:
    global _layout
    if _layout is None:
        _layout = _Layout()
    return _layout


class Hart:
    """A hart: run it for a number of instructions, stop it after the current one, set its interrupt lines."""

    def __init__(self, hart_id: int):
        layout = _get_layout()
        self.id = hart_id
        self.uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        self._counter = ctypes.c_size_t.from_address(_engine_address(self.uc) + layout.counter)
        self._context = self.uc.context_save()
        base = ctypes.cast(self._context.context, ctypes.c_void_p).value
        assert base is not None
        self._state_address = base + layout.state
        self._state_bytes = self._context.size - layout.state
        self._mip = ctypes.c_uint64.from_address(base + layout.mip)
        self._mhartid = ctypes.c_uint64.from_address(base + layout.mhartid)
        self._pc = ctypes.c_uint64.from_address(self._state_address + PC_OFFSET_BYTES)
        self._budget = 0
        self._stopped_at: int | None = None
        self.running = False
        self.halted = False  # in wfi
        self.interrupts = 0  # mip as last set, without the supervisor bit
        self.ecalls = 0
        self._callbacks: list[object] = []  # kept alive for the library
        self._failure: BaseException | None = None
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self.reset(0)

    def reset(self, pc: int) -> None:
        """Registers zero, machine mode, interrupts off, execution at `pc`."""
        self.uc.reg_write(rv.UC_RISCV_REG_MSTATUS, 0)
        self.uc.reg_write(rv.UC_RISCV_REG_MIE, 0)
        for index in range(1, 32):
            self.uc.reg_write(rv.UC_RISCV_REG_X0 + index, 0)
        self.uc.context_update(self._context)
        self._mhartid.value = self.id
        self._pc.value = pc
        self._mip.value = 0
        self.uc.context_restore(self._context)
        self.halted = False
        self.interrupts = 0
        if self.uc.reg_read(rv.UC_RISCV_REG_MHARTID) != self.id:
            raise Unsupported("mhartid cannot be set in this Unicorn")

    @property
    def pc(self) -> int:
        """Program counter, also right within a device access."""
        return self.uc.reg_read(rv.UC_RISCV_REG_PC)

    def register(self, index: int) -> int:
        """Integer register x0…x31."""
        return self.uc.reg_read(rv.UC_RISCV_REG_X0 + index)

    def set_interrupts(self, mip: int) -> None:
        """Drive the three machine interrupt lines; not while the hart runs."""
        if mip or self.interrupts:
            self.interrupts = mip
            # Raises Unicorn's internal request, which a program that clears mip takes back.
            self.uc.reg_write(rv.UC_RISCV_REG_MIP, MIP_SSIP)
            self.uc.context_update(self._context)
            self._mip.value = mip
            self.uc.context_restore(self._context)

    def executed(self) -> int:
        """Instructions executed in the current `run`, the one in progress not counted."""
        return self._counter.value - 1 if self._stopped_at is None else self._stopped_at

    def stop_soon(self) -> None:
        """From within a device access: end the current `run` after the present instruction."""
        if self.running and self._stopped_at is None:
            self._stopped_at = self._counter.value
            self._counter.value = self._budget

    def run(self, budget: int) -> int:
        """Execute up to `budget` instructions; returns how many. Sets `halted` when a wfi has nothing to wake it."""
        self._budget = budget
        self._stopped_at = None
        self.running = True
        try:
            self.uc.emu_start(self.uc.reg_read(rv.UC_RISCV_REG_PC), NEVER, 0, budget)
        finally:
            self.running = False
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
        if self._stopped_at is not None:
            self.halted = False
            return self._stopped_at
        count = self._counter.value
        self.halted = count <= budget
        return min(count, budget)

    def map_device(self, base: int, size: int, read: Callable[[int], int], write: Callable[[int, int], None]) -> None:
        """Registers of 32 bits at `base`; narrower accesses are parts of them, 64-bit ones come as two."""

        def on_read(_uc: int, offset: int, width: int, _user: int) -> int:
            try:
                if width == 4:
                    return read(offset)
                return (read(offset & ~3) >> (8 * (offset & 3))) & ((1 << (8 * width)) - 1)
            except BaseException as error:
                self._fail(error)
                return 0

        def on_write(_uc: int, offset: int, width: int, value: int, _user: int) -> None:
            try:
                if width != 4:
                    shift = 8 * (offset & 3)
                    mask = ((1 << (8 * width)) - 1) << shift
                    offset &= ~3
                    value = (read(offset) & ~mask) | ((value << shift) & mask)
                write(offset, value & 0xFFFFFFFF)
            except BaseException as error:
                self._fail(error)

        callbacks = _READ_CALLBACK(on_read), _WRITE_CALLBACK(on_write)
        self._callbacks.append(callbacks)
        status = uclib.uc_mmio_map(self.uc._uch, base, size, callbacks[0], None, callbacks[1], None)
        if status != unicorn.UC_ERR_OK:
            raise unicorn.UcError(status)

    def flush(self) -> None:
        """Drop translated code: memory was written by other means than this hart's stores."""
        self.uc.ctl_flush_tb()  # type: ignore[attr-defined]

    def _fail(self, error: BaseException) -> None:
        """An exception in a device: out of the C code first, raised again by `run`."""
        if self._failure is None:
            self._failure = error
        self.stop_soon()

    def fingerprint(self) -> bytes:
        """Integer registers and pc: equal at two times means that the hart went round a loop without effect."""
        self.uc.context_update(self._context)
        return ctypes.string_at(self._state_address, GENERAL_REGISTERS_BYTES) + self._pc.value.to_bytes(8, "little")

    def save(self) -> dict:
        """Everything but memory."""
        self.uc.context_update(self._context)
        return {
            "state": ctypes.string_at(self._state_address, self._state_bytes),
            "halted": self.halted,
            "interrupts": self.interrupts,
        }

    def restore(self, saved: dict) -> None:
        """The state that `save` returned; translated code is dropped, as memory may have changed."""
        ctypes.memmove(self._state_address, saved["state"], self._state_bytes)
        self.uc.context_restore(self._context)
        self.halted = saved["halted"]
        self.interrupts = saved["interrupts"]
        self.flush()

    def _on_exception(self, uc: unicorn.Uc, number: int, _: object) -> None:
        """Unicorn reports exceptions with pc 4 past the instruction; enter the program's handler."""
        cause = CAUSE_ECALL_M if number == 8 else number
        self.ecalls += number == 8
        status = uc.reg_read(rv.UC_RISCV_REG_MSTATUS)
        uc.reg_write(rv.UC_RISCV_REG_MEPC, uc.reg_read(rv.UC_RISCV_REG_PC) - 4)
        uc.reg_write(rv.UC_RISCV_REG_MCAUSE, cause)
        previous = MSTATUS_MPIE if status & MSTATUS_MIE else 0
        uc.reg_write(rv.UC_RISCV_REG_MSTATUS, (status & ~(MSTATUS_MIE | MSTATUS_MPIE)) | MSTATUS_MPP | previous)
        uc.reg_write(rv.UC_RISCV_REG_PC, uc.reg_read(rv.UC_RISCV_REG_MTVEC) & ~3)
