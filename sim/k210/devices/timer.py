"""Timers (3 blocks of 4 channels, DesignWare) and the two watchdogs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.k210.device import Device
from sim.k210.devices import plic
from sim.k210.devices.sysctl import IN0_HZ

if TYPE_CHECKING:
    from sim.k210.soc import Soc

CHANNELS, CHANNEL_STRIDE = 4, 0x14
LOAD_COUNT, CURRENT_VALUE, CONTROL, EOI, INTR_STAT = 0x00, 0x04, 0x08, 0x0C, 0x10
ALL_INTR_STAT, ALL_EOI, ALL_RAW_INTR_STAT = 0xA0, 0xA4, 0xA8
ENABLE, MODE_USER, INTERRUPT_MASK = 1, 2, 4


class Timer(Device):
    """Counts down from load_count (user mode) or 2^32 − 1 (free running), interrupts at zero, reloads."""

    def __init__(self, soc: Soc, name: str, base: int, index: int):
        super().__init__(soc, name, base)
        self.index = index

    def reset(self) -> None:
        super().reset()
        self.raw = 0
        self.started = [0] * CHANNELS  # cycle of the last (re)load
        self.generation = [0] * CHANNELS  # events of an older one are void

    def _get(self, channel: int, register: int) -> int:
        return self.registers.get(channel * CHANNEL_STRIDE + register, 0)

    def _period_cycles(self, channel: int) -> int:
        ticks = self._get(channel, LOAD_COUNT) if self._get(channel, CONTROL) & MODE_USER else 0xFFFFFFFF
        return self.soc.cycles((ticks + 1) / self.soc.sysctl.timer_hz(self.index))

    def _start(self, channel: int) -> None:
        self.started[channel] = self.soc.now
        self.generation[channel] += 1
        self.soc.schedule(self._period_cycles(channel), self._expired, channel, self.generation[channel])

    def _expired(self, channel: int, generation: int) -> None:
        if generation == self.generation[channel]:
            self.raw |= 1 << channel
            self._start(channel)
            self._update_interrupts()

    def _status(self) -> int:
        return sum(1 << c for c in range(CHANNELS) if self.raw >> c & 1 and not self._get(c, CONTROL) & INTERRUPT_MASK)

    def _update_interrupts(self) -> None:
        status = self._status()
        first = plic.TIMER0A_IRQ + 2 * self.index
        self.soc.plic.set_level(first, bool(status & 3))
        self.soc.plic.set_level(first + 1, bool(status & 12))

    def read(self, offset: int) -> int:
        if offset < CHANNELS * CHANNEL_STRIDE:
            channel, register = divmod(offset, CHANNEL_STRIDE)
            if register == CURRENT_VALUE:
                ticks = int((self.soc.now - self.started[channel]) * self.soc.sysctl.timer_hz(self.index)
                            / self.soc.sysctl.cpu_hz)  # fmt: skip
                return max(0, self._get(channel, LOAD_COUNT) - ticks)
            if register == EOI:
                self.raw &= ~(1 << channel)
                self._update_interrupts()
                return 0
            if register == INTR_STAT:
                return self._status() >> channel & 1
        elif offset == ALL_INTR_STAT:
            return self._status()
        elif offset == ALL_RAW_INTR_STAT:
            return self.raw
        elif offset == ALL_EOI:
            self.raw = 0
            self._update_interrupts()
            return 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        before = self.registers.get(offset, 0)
        super().write(offset, value)
        if offset < CHANNELS * CHANNEL_STRIDE:
            channel, register = divmod(offset, CHANNEL_STRIDE)
            if register == CONTROL:
                if value & ENABLE and not before & ENABLE:
                    self._start(channel)
                elif not value & ENABLE:
                    self.generation[channel] += 1
            elif register == LOAD_COUNT and self._get(channel, CONTROL) & ENABLE:
                self._start(channel)
            self._update_interrupts()


class Wdt(Device):
    """Watchdog: reset (or interrupt first, then reset) after 2^(16 + torr) ticks without a feed."""

    CR, TORR, CCVR, CRR, STAT, EOI_REGISTER = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14
    FEED = 0x76

    def __init__(self, soc: Soc, name: str, base: int, index: int):
        super().__init__(soc, name, base)
        self.index = index

    def reset(self) -> None:
        super().reset()
        self.generation = 0
        self.interrupted = False

    def _restart(self) -> None:
        self.generation += 1
        if self.registers.get(self.CR, 0) & 1:
            ticks = 1 << (16 + (self.registers.get(self.TORR, 0) & 15))
            self.soc.schedule(self.soc.cycles(ticks / self._hz()), self._expired, self.generation)

    def _hz(self) -> float:
        threshold = self.soc.sysctl.registers.get(0x50, 0) >> (8 * self.index) & 0xFF
        return IN0_HZ / (2 * (threshold + 1))

    def _expired(self, generation: int) -> None:
        if generation != self.generation:
            return
        if self.registers.get(self.CR, 0) & 2 and not self.interrupted:
            self.interrupted = True
            self.soc.plic.set_level(plic.WDT0_IRQ + self.index, True)
            self._restart()
        else:
            self.soc.request_reset()

    def _clear(self) -> None:
        self.interrupted = False
        self.soc.plic.set_level(plic.WDT0_IRQ + self.index, False)

    def read(self, offset: int) -> int:
        if offset == self.STAT:
            return int(self.interrupted)
        if offset == self.EOI_REGISTER:
            self._clear()
            return 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.CRR and value & 0xFF == self.FEED:
            self._clear()
            self._restart()
        elif offset in (self.CR, self.TORR):
            self._restart()
