"""The chip: memory, two harts, devices on the bus, virtual time.

Time is counted in CPU cycles, one per instruction (a model: the real core needs somewhat more); everything else
(serial lines, SPI clocks, camera, KPU) schedules its events on the same count, so a run depends only on
its input. A hart that waits (`wfi`, a loop that polls time, a loop that changes no register) costs no host time,
because the clock jumps to the next event.
"""

from __future__ import annotations

import ctypes
import heapq
import io
import mmap
import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import unicorn

from common.errors import UserError
from common.isp_protocol import SRAM_ADDRESS, SRAM_BYTES
from model_build.kpu.ram import RAM_BYTES as KPU_RAM_BYTES
from sim.k210 import firmware_image
from sim.k210.device import Device, RegisterFile
from sim.k210.devices.clint import Clint
from sim.k210.devices.dmac import Dmac
from sim.k210.devices.dvp import Dvp
from sim.k210.devices.gpio import Fpioa, Gpio, Gpiohs
from sim.k210.devices.i2c import I2c
from sim.k210.devices.kpu import Kpu
from sim.k210.devices.plic import Plic
from sim.k210.devices.rtc import Rtc
from sim.k210.devices.sha256 import Sha256
from sim.k210.devices.spi import Spi
from sim.k210.devices.sysctl import Otp, Sysctl
from sim.k210.devices.timer import Timer, Wdt
from sim.k210.devices.uart import Uart, Uarths
from sim.k210.hart import MIP_MEIP, MIP_MSIP, MIP_MTIP, Hart
from sim.k210.idle_rounds import IdleRounds

SRAM_UNCACHED_BASE = 0x40000000
RAM_BYTES = SRAM_BYTES + KPU_RAM_BYTES  # the KPU's memory follows the general one at both addresses
ROM_BASE = 0x88000000
DEBUG_BASE = 0  # reads as zero; also carries the cycle counter of rewritten `csrr rd, mcycle`

# Slices grow from a probe, a multiple of every loop length up to 8 instructions: a hart that spins in such a loop
# is found at the same pc with the same registers after each.
PROBE_INSTRUCTIONS = 840
SLICE_INSTRUCTIONS = 24 * PROBE_INSTRUCTIONS
MAX_KNOWN_LOOPS = 10_000
IDLE_STEP_CYCLES = 4_000_000  # 10 ms: how far time jumps when nothing at all is scheduled
# Reads of time closer together than this are one polling loop, if there are many: MaixPy's millisecond clock
# takes some 730 instructions a call (it divides in software), and its wait for a camera frame pauses in between.
POLL_GAP_INSTRUCTIONS = 6000
POLL_FREE_READS = 16
POLL_SKIP_CYCLES = 400_000
BUSY_GAP_INSTRUCTIONS = 64
BUSY_FREE_READS = 4


class ChipFaultError(UserError):
    """The program did something that the chip does not support."""


class DebugPage(Device):
    """Page 0: on silicon the debug block answers there, and MaixPy reads it once through a null pointer."""

    def __init__(self, soc: Soc, name: str, base: int):
        super().__init__(soc, name, base)
        self.latched = 0

    def read(self, offset: int) -> int:
        if offset == firmware_image.CYCLE_OFFSET:
            self.latched = self.soc.poll_time()
            return self.latched & 0xFFFFFFFF
        if offset == firmware_image.CYCLE_OFFSET + 4:
            return self.latched >> 32
        return 0

    def write(self, offset: int, value: int) -> None:
        pass


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Soc:
    """Two harts, 8 MiB of RAM, the devices. Off-chip parts are attached by `sim.k210.k210_board`."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self._ram_address = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        self.view = memoryview(self.ram)
        self._kept = ctypes.create_string_buffer(RAM_BYTES)  # allocated once: fresh pages cost more than the copy
        self.harts = [Hart(0), Hart(1)]
        self.current: Hart | None = None
        self.hart_cycles = [0, 0]
        self._slice_start = 0
        self._skipped = 0
        self._skip_limit = 0
        self._polls = [[0, 0, 0, 0], [0, 0, 0, 0]]  # per hart: last and first read, reads, pc of a polling loop
        self._busy_polls = [[0, 0], [0, 0]]  # per hart: last read of a busy status, reads of it
        self._waiting = [False, False]  # in wfi, or spinning
        self._worked = [False, False]  # since the other hart was last made to look
        self._grain = [PROBE_INSTRUCTIONS, PROBE_INSTRUCTIONS]
        self._recent: list[deque[bytes]] = [deque(maxlen=8), deque(maxlen=8)]  # fingerprints after slices
        self._loops: dict[bytes, bool] = {}  # fingerprint → loop without effect, or not
        self.idle_rounds = IdleRounds()
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self.instructions = [0, 0]  # executed per hart since power-on
        self.resets = 0
        self._reset_pending = False
        self.on_reset: Callable[[], None] | None = None
        self.devices: dict[str, Device] = {}
        self._build()
        for hart in self.harts:
            self._map(hart)
        self.reset()

    # -- construction

    def _build(self) -> None:
        def add(kind: type, name: str, base: int, **more: Any) -> Any:
            device = kind(self, name, base, **more)
            self.devices[name] = device
            return device

        add(DebugPage, "debug", DEBUG_BASE)
        self.clint: Clint = add(Clint, "clint", 0x02000000)
        self.plic: Plic = add(Plic, "plic", 0x0C000000)
        self.uarths: Uarths = add(Uarths, "uarths", 0x38000000)
        self.gpiohs: Gpiohs = add(Gpiohs, "gpiohs", 0x38001000)
        self.kpu: Kpu = add(Kpu, "kpu", 0x40800000)
        add(RegisterFile, "fft", 0x42000000)
        self.dmac: Dmac = add(Dmac, "dmac", 0x50000000)
        self.gpio: Gpio = add(Gpio, "gpio", 0x50200000)
        self.uarts: list[Uart] = [add(Uart, f"uart{i + 1}", 0x50210000 + 0x10000 * i, irq=11 + i) for i in range(3)]
        add(RegisterFile, "spi_slave", 0x50240000)
        for i in range(3):
            add(RegisterFile, f"i2s{i}", 0x50250000 + 0x10000 * i)
        self.i2c: list[I2c] = [add(I2c, f"i2c{i}", 0x50280000 + 0x10000 * i, index=i) for i in range(3)]
        self.fpioa: Fpioa = add(Fpioa, "fpioa", 0x502B0000)
        add(Sha256, "sha256", 0x502C0000)
        self.timers: list[Timer] = [add(Timer, f"timer{i}", 0x502D0000 + 0x10000 * i, index=i) for i in range(3)]
        self.wdts: list[Wdt] = [add(Wdt, f"wdt{i}", 0x50400000 + 0x10000 * i, index=i) for i in range(2)]
        add(Otp, "otp", 0x50420000)
        self.dvp: Dvp = add(Dvp, "dvp", 0x50430000)
        self.sysctl: Sysctl = add(Sysctl, "sysctl", 0x50440000)
        add(RegisterFile, "aes", 0x50450000)
        add(Rtc, "rtc", 0x50460000)
        self.spi: dict[int, Spi] = {
            i: add(Spi, f"spi{i}", base, index=i) for i, base in ((0, 0x52000000), (1, 0x53000000), (3, 0x54000000))
        }

    def _map(self, hart: Hart) -> None:
        uc = hart.uc
        uc.mem_map_ptr(SRAM_ADDRESS, RAM_BYTES, unicorn.UC_PROT_ALL, self._ram_address)
        uc.mem_map_ptr(SRAM_UNCACHED_BASE, RAM_BYTES, unicorn.UC_PROT_ALL, self._ram_address)
        uc.mem_map(ROM_BASE, 128 << 10, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        for device in self.devices.values():
            hart.map_device(device.base, device.size, device.read, device.write)
        uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_bad_access)

    def _on_bad_access(self, uc: unicorn.Uc, access: int, address: int, size: int, value: int, _: object) -> bool:
        hart = self.current
        where = f"hart {hart.id} pc {hart.pc:#x}" if hart else "no hart"
        kind = "write to" if access in (unicorn.UC_MEM_WRITE_UNMAPPED, unicorn.UC_MEM_WRITE_PROT) else "read of"
        if access in (unicorn.UC_MEM_FETCH_UNMAPPED, unicorn.UC_MEM_FETCH_PROT):
            kind = "execution at"
        fault = ChipFaultError(f"{kind} {address:#x} ({size} bytes), {where}: nothing is there")
        if hart is None:
            raise fault
        hart.fail(fault)
        return False

    def reset(self) -> None:
        """Power-on or soft reset: resets devices and harts, but not the memory."""
        self._events.clear()
        self.now_base = max(self.hart_cycles)
        self.hart_cycles = [self.now_base, self.now_base]
        self._waiting = [False, False]
        self._worked = [False, False]
        self._loops.clear()
        for device in self.devices.values():
            device.reset()
        for hart in self.harts:
            hart.reset(SRAM_ADDRESS)
            hart.flush()

    def request_reset(self) -> None:
        """A reset by the system controller or the watchdog, which takes place after the present instruction."""
        self._reset_pending = True
        if self.current is not None:
            self.current.stop_soon()

    def load_program(self, image: bytes) -> None:
        """Put a raw image where the ROM would: at the start of SRAM; cycle counter reads are rewritten."""
        self.view[: len(image)] = firmware_image.rewrite_cycle_reads(image)
        for hart in self.harts:
            hart.flush()

    # -- time and events

    @property
    def now(self) -> int:
        """CPU cycles since power-on, as the running hart (or, between slices, the slower one) sees it."""
        hart = self.current
        if hart is None:
            return min(self.hart_cycles)
        return self._slice_start + self._skipped + hart.executed()

    def cycles(self, seconds: float) -> int:
        """A duration in cycles of the present CPU clock, at least 1."""
        return max(1, round(seconds * self.sysctl.cpu_hz))

    def schedule(self, delay_cycles: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call a device's method `delay_cycles` from now."""
        self._sequence += 1
        when = self.now + max(1, delay_cycles)
        heapq.heappush(self._events, (when, self._sequence, action, arguments))
        if self.current is not None and when < self._skip_limit:
            self._skip_limit = when
            self.current.stop_soon()

    def attention(self) -> None:
        """Interrupt lines may have changed: the running hart sees a fall at once, a rise after this instruction."""
        hart = self.current
        if hart is None:
            return
        lines = self._interrupt_lines(hart.id)
        if lines != hart.interrupts:
            if lines & ~hart.interrupts:
                hart.stop_soon()
            hart.set_interrupts(lines)

    def external_changed(self, stop: bool) -> None:
        """The PLIC's output may have changed. Without `stop`, a rise is seen when the program next unmasks it."""
        hart = self.current
        if hart is None:
            return
        pending = self.plic.pending(hart.id)
        if pending != bool(hart.interrupts & MIP_MEIP):
            if pending and stop:
                hart.stop_soon()
            hart.set_interrupts(hart.interrupts ^ MIP_MEIP)

    def poll_time(self) -> int:
        """The time that a program reads. A tight loop of reads is a delay, in which time runs faster and faster.

        A delay is overshot by at most 3 %.
        """
        hart = self.current
        assert hart is not None
        executed = hart.executed()
        now = self._slice_start + self._skipped + executed
        poll = self._polls[hart.id]
        pc = hart.pc
        if now - poll[0] > POLL_GAP_INSTRUCTIONS or pc != poll[3]:
            poll[:] = now, now, 0, pc
            return now
        if poll[2] >= POLL_FREE_READS:
            self._skip_to(now + min((now - poll[1]) >> 5, POLL_SKIP_CYCLES))
            now = self._slice_start + self._skipped + executed
        poll[0] = now
        poll[2] += 1
        return now

    def poll_busy(self) -> None:
        """A program reads a status register that says busy; if it does so repeatedly, jump to the next event."""
        hart = self.current
        if hart is None:
            return
        now = self.now
        poll = self._busy_polls[hart.id]
        if now - poll[0] > BUSY_GAP_INSTRUCTIONS:
            poll[1] = 0
        if poll[1] >= BUSY_FREE_READS:
            self._skip_to(self._skip_limit)
            now = self.now
        poll[0] = now
        poll[1] += 1

    def _skip_to(self, when: int) -> None:
        hart = self.current
        assert hart is not None
        when = min(when, self._skip_limit)
        now = self._slice_start + self._skipped + hart.executed()
        if when > now:
            self._skipped += when - now
        if when >= self._skip_limit:
            hart.stop_soon()

    # -- running

    def step(self) -> None:
        """Run the hart that is behind for one slice, or jump over idle time."""
        cycles = self.hart_cycles
        now = min(cycles)
        events = self._events
        while events and events[0][0] <= now:
            _, _, action, arguments = heapq.heappop(events)
            action(*arguments)
        if self._reset_pending:
            self._perform_reset()
            return
        index = 0 if cycles[0] <= cycles[1] else 1
        hart = self.harts[index]
        limit = events[0][0] if events else now + IDLE_STEP_CYCLES
        lines = self._interrupt_lines(index)
        hart.set_interrupts(lines)
        waits = hart.halted and not lines
        if not waits:
            grain = self._grain[index]
            # A probe always runs completely: if it were cut short, it would end elsewhere in the loop.
            budget = PROBE_INSTRUCTIONS if grain == PROBE_INSTRUCTIONS else min(grain, max(1, limit - cycles[index]))
            waited = self._loops.get(hart.fingerprint(), False)
            whole = self._run(index, budget, limit)
            if self._reset_pending:
                self._perform_reset()
                return
            waits = hart.halted or (whole and budget == grain and self._spins(index, budget, limit))
            self._grain[index] = min(2 * grain, SLICE_INSTRUCTIONS) if whole and not waits else PROBE_INSTRUCTIONS
            self._worked[index] |= not (waited and waits)
            if waits and self._worked[index]:
                # Before this hart waited, it may have done what the other hart's loop waits for. So no time passes
                # until that loop has run again. While it works this is not checked: a FreeRTOS would never become idle.
                self._worked[index] = self._waiting[1 - index] = False
        self._waiting[index] = waits
        other = 1 - index
        if events:  # the slice itself may have scheduled an event
            limit = min(limit, events[0][0])
        # If interrupt lines have changed since the other hart was last set, it may no longer be waiting.
        if not waits and self._waiting[other] and self._interrupt_lines(other) == self.harts[other].interrupts:
            self.idle_rounds.skip(self, index, limit)
        if waits:
            cycles[index] = max(cycles[index], limit if self._waiting[other] else cycles[other])

    def _run(self, index: int, budget: int, limit: int) -> bool:
        """Run a hart; returns whether it executed the whole budget without a jump in time."""
        hart = self.harts[index]
        self._slice_start = self.hart_cycles[index]
        self._skipped = 0
        self._skip_limit = limit
        self.current = hart
        try:
            executed = hart.run(budget)
        except unicorn.UcError as error:
            raise ChipFaultError(f"{error} at pc {hart.pc:#x} on hart {index}") from error
        finally:
            self.current = None
        self.instructions[index] += executed
        self.hart_cycles[index] += self._skipped + executed
        return executed == budget and not self._skipped

    def run_exactly(self, index: int, count: int) -> bool:
        """Let a hart execute `count` instructions; returns whether it did so without a jump in time."""
        return self._run(index, count, self.hart_cycles[index] + count + 1)

    def _spins(self, index: int, budget: int, limit: int) -> bool:
        """Whether the hart is in a loop that changes nothing.

        It is suspected if pc and registers are the same as after a recent slice. It is proven, once for each such
        state, if another slice ends with the same registers, unchanged memory and no device written.
        """
        mark = self.harts[index].fingerprint()
        known = self._loops.get(mark)
        if known is not None:
            return known
        recent = self._recent[index]
        if mark not in recent:
            recent.append(mark)
            return False
        hart = self.harts[index]
        self.keep_memory()
        writes = hart.device_writes
        whole = self._run(index, budget, limit)
        proven = whole and hart.fingerprint() == mark and writes == hart.device_writes and self.memory_is_as_kept()
        if len(self._loops) > MAX_KNOWN_LOOPS:
            self._loops.clear()
        self._loops[mark] = proven
        return proven

    def run_until(self, done: Callable[[], bool], max_instructions: int | None = None) -> bool:
        """Step until `done()`; False if `max_instructions` (of both harts) were executed first, or nothing can
        happen."""
        start = sum(self.instructions)
        while not done():
            if not self._events and all(hart.halted and not hart.interrupts for hart in self.harts):
                return False
            if max_instructions is not None and sum(self.instructions) - start > max_instructions:
                return False
            self.step()
        return True

    def _interrupt_lines(self, index: int) -> int:
        lines = MIP_MSIP if self.clint.msip[index] else 0
        if self.hart_cycles[index] >= self.clint.compare_cycles[index]:
            lines |= MIP_MTIP
        if self.plic.pending(index):
            lines |= MIP_MEIP
        return lines

    def _perform_reset(self) -> None:
        self._reset_pending = False
        self.resets += 1
        self.reset()
        if self.on_reset:
            self.on_reset()

    def keep_memory(self) -> None:
        """Keep a copy of all of memory."""
        ctypes.memmove(self._kept, self._ram_address, RAM_BYTES)

    def memory_is_as_kept(self) -> bool:
        """Whether memory is the same as at the last `keep_memory`, to the byte."""
        return bool(_memcmp(self._kept, self._ram_address, RAM_BYTES) == 0)

    # -- memory as devices see it

    def ram_slice(self, address: int, length: int) -> memoryview:
        """Writable view of RAM at a bus address, cached or uncached."""
        for base in (SRAM_ADDRESS, SRAM_UNCACHED_BASE):
            if base <= address and address + length <= base + RAM_BYTES:
                return self.view[address - base : address - base + length]
        raise ChipFaultError(f"a device wants {length} bytes at {address:#x}, which is not RAM")

    @property
    def kpu_ram(self) -> memoryview:
        """The KPU's memory, 2 MiB."""
        return self.view[SRAM_BYTES:]

    # -- snapshots

    def save(self, parts: dict[str, Any]) -> bytes:
        """The whole machine and the off-chip `parts` (name → object) as bytes."""
        out = io.BytesIO()
        names = {id(part): name for name, part in parts.items()}
        _Pickler(self, names, out).dump(
            {
                "ram": bytes(self.ram),
                "harts": [hart.save() for hart in self.harts],
                "soc": {key: getattr(self, key) for key in _SOC_STATE},
                "devices": {name: _state_of(device) for name, device in self.devices.items()},
                "parts": {name: _state_of(part) for name, part in parts.items()},
            }
        )
        return out.getvalue()

    def restore(self, saved: bytes, parts: dict[str, Any]) -> None:
        """Put the state that `save` returned into this machine and these parts."""
        state = _Unpickler(self, parts, io.BytesIO(saved)).load()
        self.view[:] = state["ram"]
        for hart, hart_state in zip(self.harts, state["harts"], strict=True):
            hart.restore(hart_state)
        self.__dict__.update(state["soc"])
        for name, values in state["devices"].items():
            self.devices[name].__dict__.update(values)
        for name, values in state["parts"].items():
            parts[name].__dict__.update(values)


_SOC_STATE = (
    "hart_cycles", "_polls", "_busy_polls", "_waiting", "_worked", "_grain", "_recent", "_loops",
    "idle_rounds", "_events", "_sequence",
    "instructions", "resets", "_reset_pending",
)  # fmt: skip


def _state_of(part: Any) -> dict[str, Any]:
    """The state of a part in a snapshot: everything except what its class lists in `host_side` (callbacks, host
    queues)."""
    skip = getattr(part, "host_side", ())
    return {key: value for key, value in part.__dict__.items() if key not in skip}


class _Pickler(pickle.Pickler):
    """Parts of the machine are stored by name wherever another part refers to them."""

    def __init__(self, soc: Soc, names: dict[int, str], file: io.BytesIO):
        super().__init__(file, protocol=5)
        self._ids = {id(soc): "soc", **{id(d): f"device:{n}" for n, d in soc.devices.items()}}
        self._ids.update({number: f"part:{name}" for number, name in names.items()})

    def persistent_id(self, obj: Any) -> str | None:
        return self._ids.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, soc: Soc, parts: dict[str, Any], file: io.BytesIO):
        super().__init__(file)
        self._soc, self._parts = soc, parts

    def persistent_load(self, pid: str) -> Any:
        kind, _, name = pid.partition(":")
        if kind == "soc":
            return self._soc
        return self._soc.devices[name] if kind == "device" else self._parts[name]
