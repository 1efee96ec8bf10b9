"""One RISC-V hart on Unicorn.

Unicorn has no interrupt pin and no public instruction counter, and keeps a few control registers read-only. So
this module uses some of its internals, which it finds at start-up by writing known values and searching for them. With
another build of the library it then fails at once instead of misbehaving:

* the live register file, for `mip` and `mhartid`. After a bit of `mip` was set through the register interface
  Unicorn takes machine interrupts by itself, at the very instruction that unmasks them.
* the counter behind `emu_start(count=…)`, read for the time inside a slice, and moved to its end to stop after
  the current instruction. (`emu_stop` within a device access would execute the access a second time.)
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Any

import unicorn
from unicorn import riscv_const as rv
from unicorn.unicorn_py3.unicorn import uclib

UNICORN_VERSION = "2.1.4"
NEVER = (1 << 64) - 2  # No program reaches this address.
MIP_SSIP, MIP_MSIP, MIP_MTIP, MIP_MEIP = 1 << 1, 1 << 3, 1 << 7, 1 << 11
MSTATUS_MIE, MSTATUS_MPIE, MSTATUS_MPP, MSTATUS_FS = 1 << 3, 1 << 7, 3 << 11, 3 << 13
CAUSE_ECALL_M = 11
ENGINE_WORDS = 512  # of the engine's structure are searched
CPU_OBJECT_BYTES = 4096  # of the CPU's, up to a pipe's atomic size
GENERAL_REGISTERS_BYTES = 32 * 8  # first in Unicorn's RISC-V state, in the order x0…x31
PC_OFFSET_BYTES = 64 * 8  # behind 32 integer and 32 floating-point registers

# Device accesses go straight to a C callback: the binding's own wrappers would double their cost.
_READ_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_WRITE_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
)


class UnsupportedError(RuntimeError):
    """The installed Unicorn is not the one this emulator was written for."""


class _Layout:
    """Where things lie inside Unicorn's structures; found once per process. Offsets in bytes."""

    def __init__(self) -> None:
        if unicorn.__version__ != UNICORN_VERSION:
            raise UnsupportedError(
                f"unicorn {unicorn.__version__} is installed, but the emulator needs {UNICORN_VERSION}"
            )
        if os.name != "posix":
            raise UnsupportedError("the emulator needs Linux or macOS")
        self._memory = mmap.mmap(-1, 4096)
        host_address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        engine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        engine.mem_map_ptr(0x80000000, 4096, unicorn.UC_PROT_ALL, host_address)
        self._memory[0:4] = (0x0000A001).to_bytes(4, "little")  # c.j 0: a loop of one instruction
        self.counter = self._find_counter(engine)
        engine.reg_write(rv.UC_RISCV_REG_X1, 0x1122334455667788)
        engine.reg_write(rv.UC_RISCV_REG_PC, 0x0123456789ABCDE0)
        self.cpu, self.state = self._find_state(engine)
        context = engine.context_save()
        raw = ctypes.string_at(context.context, context.size)
        self.state_bytes = context.size - (raw.index((0x1122334455667788).to_bytes(8, "little")) - 8)
        self.mip = self._changed(engine, rv.UC_RISCV_REG_MIP, MIP_SSIP)
        self.mhartid = self._changed(engine, rv.UC_RISCV_REG_MSTATUS, MSTATUS_MIE) - 8

    def registers_of(self, engine: unicorn.Uc) -> int:
        """Host address of an engine's live register file."""
        return _word(_word(_engine_address(engine) + self.cpu) + self.state)

    def _find_counter(self, engine: unicorn.Uc) -> int:
        """The structure holds {counter, limit} side by side: after N instructions {N or N + 1, N}."""
        candidates: set[int] | None = None
        for count in (123457, 98765):
            engine.emu_start(0x80000000, NEVER, 0, count)
            words = (ctypes.c_size_t * ENGINE_WORDS).from_address(_engine_address(engine))
            found = {8 * i for i in range(len(words) - 1) if words[i + 1] == count and words[i] in (count, count + 1)}
            candidates = found if candidates is None else candidates & found
        if not candidates or len(candidates) != 1:
            raise UnsupportedError("no instruction counter found in this Unicorn")
        return candidates.pop()

    @staticmethod
    def _find_state(engine: unicorn.Uc) -> tuple[int, int]:
        """(offset of the CPU object's pointer in the engine, offset of the register file's pointer in that).

        The register file is where x1 and pc hold what was just written; pointers are tried with a system call that
        fails, rather than faults, on a bad one. An object that happens to lie before the CPU's may seem to hold the
        pointer too, at a larger offset; in another engine it may lie elsewhere.
        """
        engine_words = (ctypes.c_size_t * ENGINE_WORDS).from_address(_engine_address(engine))
        found: list[tuple[int, int]] = []
        with _MemoryProbe() as probe:
            for i, pointer in enumerate(engine_words):
                cpu = probe.read(pointer, CPU_OBJECT_BYTES) if pointer > 0x10000 and pointer % 8 == 0 else None
                if cpu is None:
                    continue
                for j, inner in enumerate(memoryview(cpu).cast("Q")):
                    if not pointer < inner < pointer + (1 << 18):
                        continue  # the register file is part of the CPU object
                    state = probe.read(inner, PC_OFFSET_BYTES + 8)
                    wanted = (0x1122334455667788).to_bytes(8, "little"), (0x0123456789ABCDE0).to_bytes(8, "little")
                    if state and (state[8:16], state[-8:]) == wanted:
                        found.append((8 * i, 8 * j))
        if not found:
            raise UnsupportedError("the register file was not found in this Unicorn")
        return min(found, key=lambda place: place[1])

    def _changed(self, engine: unicorn.Uc, register: int, bit: int) -> int:
        """Offset of the 8-byte register whose `bit` a write sets."""
        address = self.registers_of(engine)
        before = ctypes.string_at(address, self.state_bytes)
        engine.reg_write(register, engine.reg_read(register) | bit)
        after = ctypes.string_at(address, self.state_bytes)
        moved = [i for i in range(self.state_bytes) if after[i] - before[i] == bit]
        if len(moved) != 1:
            raise UnsupportedError(f"control register {register} not found in this Unicorn")
        return moved[0]


class _MemoryProbe:
    """Reads memory that may not be mapped, through a pipe, for which write(2) returns EFAULT."""

    def __enter__(self) -> _MemoryProbe:
        self._read_end, self._write_end = os.pipe()
        self._write = ctypes.CDLL(None, use_errno=True).write
        self._write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read_end)
        os.close(self._write_end)

    def read(self, address: int, length: int) -> bytes | None:
        count = self._write(self._write_end, address, length)
        data = os.read(self._read_end, length) if count > 0 else b""
        return data if len(data) == length else None


def _engine_address(engine: unicorn.Uc) -> int:
    handle = engine._uch
    assert handle is not None and handle.value is not None
    return int(handle.value)


def _word(address: int) -> int:
    return ctypes.c_size_t.from_address(address).value


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
        self.uc.reg_read(rv.UC_RISCV_REG_PC)  # the first call of any kind makes the CPU object
        self._state_address = layout.registers_of(self.uc)
        self._mip = ctypes.c_uint64.from_address(self._state_address + layout.mip)
        self._mhartid = ctypes.c_uint64.from_address(self._state_address + layout.mhartid)
        self._pc = ctypes.c_uint64.from_address(self._state_address + PC_OFFSET_BYTES)
        self._registers = (ctypes.c_uint64 * 32).from_address(self._state_address)
        self._budget = 0
        self._stopped_at: int | None = None
        self.running = False
        self.halted = False  # in wfi
        self.interrupts = 0  # mip as last set, without the supervisor bit
        self.device_reads = 0
        self.device_writes = 0
        self._callbacks: list[object] = []  # kept alive for the library
        self._failure: BaseException | None = None
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self.reset(0)

    def reset(self, pc: int) -> None:
        """Registers zero, machine mode, interrupts off, execution at `pc`."""
        self.uc.reg_write(rv.UC_RISCV_REG_MSTATUS, 0)
        self.uc.reg_write(rv.UC_RISCV_REG_MIE, 0)
        for index in range(1, 32):
            self._registers[index] = 0
        self._mhartid.value = self.id
        self._pc.value = pc
        self._mip.value = 0
        self.halted = False
        self.interrupts = 0
        if self.uc.reg_read(rv.UC_RISCV_REG_MHARTID) != self.id:
            raise UnsupportedError("mhartid cannot be set in this Unicorn")

    @property
    def pc(self) -> int:
        """The program counter; it is right within a device access as well."""
        return self._pc.value

    def register(self, index: int) -> int:
        """Integer register x0…x31."""
        return self._registers[index]

    def set_interrupts(self, mip: int) -> None:
        """Drive the three machine interrupt lines.

        Between slices the hart sees them at once. Within a device access a line that falls is seen at once; one
        that rises is seen by the next instruction that could unmask it, at the latest in the next slice.
        """
        if mip and not self.running:
            # Raises Unicorn's internal request, which a program that clears mip takes back.
            self.uc.reg_write(rv.UC_RISCV_REG_MIP, MIP_SSIP)
        if mip or self.interrupts:
            self.interrupts = mip
            self._mip.value = mip

    def executed(self) -> int:
        """Instructions executed in the current `run`, the one in progress not counted."""
        return self._counter.value - 1 if self._stopped_at is None else self._stopped_at

    def stop_soon(self) -> None:
        """From within a device access: end the current `run` after the present instruction."""
        if self.running and self._stopped_at is None:
            self._stopped_at = self._counter.value
            self._counter.value = self._budget

    def run(self, budget: int) -> int:
        """Execute up to `budget` instructions; returns their number. Sets `halted` if a wfi has nothing to wake it."""
        self._budget = budget
        self._stopped_at = None
        self.running = True
        try:
            self.uc.emu_start(self._pc.value, NEVER, 0, budget)
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
        """Registers of 32 bits at `base`; narrower accesses are parts of them, 64-bit accesses are split into two."""

        def on_read(_uc: int, offset: int, width: int, _user: int) -> int:
            self.device_reads += 1
            try:
                if width == 4:
                    return read(offset)
                return (read(offset & ~3) >> (8 * (offset & 3))) & ((1 << (8 * width)) - 1)
            except BaseException as error:
                self.fail(error)
                return 0

        def on_write(_uc: int, offset: int, width: int, value: int, _user: int) -> None:
            self.device_writes += 1
            try:
                if width != 4:
                    shift = 8 * (offset & 3)
                    mask = ((1 << (8 * width)) - 1) << shift
                    offset &= ~3
                    value = (read(offset) & ~mask) | ((value << shift) & mask)
                write(offset, value & 0xFFFFFFFF)
            except BaseException as error:
                self.fail(error)

        callbacks = _READ_CALLBACK(on_read), _WRITE_CALLBACK(on_write)
        self._callbacks.append(callbacks)
        status = uclib.uc_mmio_map(self.uc._uch, base, size, callbacks[0], None, callbacks[1], None)
        if status != unicorn.UC_ERR_OK:
            raise unicorn.UcError(status)

    def flush(self) -> None:
        """Drop translated code: memory was written by other means than this hart's stores."""
        self.uc.ctl_flush_tb()  # type: ignore[attr-defined]

    def fail(self, error: BaseException) -> None:
        """Keep an exception that occurs while the hart runs: the C code ends first, then `run` raises it."""
        if self._failure is None:
            self._failure = error
        self.stop_soon()

    def fingerprint(self) -> bytes:
        """Integer registers and pc: equal at two times means that the hart went round a loop without effect."""
        return ctypes.string_at(self._state_address, GENERAL_REGISTERS_BYTES) + self._pc.value.to_bytes(8, "little")

    @property
    def device_accesses(self) -> int:
        """The number of loads and stores of device registers so far."""
        return self.device_reads + self.device_writes

    def state(self) -> bytes:
        """The bytes of all registers: integer, floating-point, control and pc."""
        return ctypes.string_at(self._state_address, _get_layout().state_bytes)

    def save(self) -> dict[str, Any]:
        """The hart's state: everything except memory."""
        return {"state": self.state(), "halted": self.halted, "interrupts": self.interrupts}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore what `save` returned; translated code is dropped, because memory may have changed."""
        ctypes.memmove(self._state_address, saved["state"], len(saved["state"]))
        self.halted = saved["halted"]
        self.interrupts = saved["interrupts"]
        self.flush()

    def _on_exception(self, uc: unicorn.Uc, number: int, _: object) -> None:
        """Unicorn reports exceptions with pc 4 past the instruction; enter the program's handler."""
        cause = CAUSE_ECALL_M if number == 8 else number
        status = uc.reg_read(rv.UC_RISCV_REG_MSTATUS)
        uc.reg_write(rv.UC_RISCV_REG_MEPC, uc.reg_read(rv.UC_RISCV_REG_PC) - 4)
        uc.reg_write(rv.UC_RISCV_REG_MCAUSE, cause)
        previous = MSTATUS_MPIE if status & MSTATUS_MIE else 0
        uc.reg_write(rv.UC_RISCV_REG_MSTATUS, (status & ~(MSTATUS_MIE | MSTATUS_MPIE)) | MSTATUS_MPP | previous)
        uc.reg_write(rv.UC_RISCV_REG_PC, uc.reg_read(rv.UC_RISCV_REG_MTVEC) & ~3)
