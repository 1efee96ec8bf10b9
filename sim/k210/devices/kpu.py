"""KPU: layers arrive as twelve 64-bit words and are computed by the project's own bit-exact engine.

A layer takes the time of the cycle model; its result is in memory from the beginning of that time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.arrays import Bytes
from sim.k210.device import Device
from sim.k210.devices import dmac, plic

if TYPE_CHECKING:
    from sim.k210.soc import Soc

LAYER_FIFO, INTERRUPT_STATUS, INTERRUPT_RAW, INTERRUPT_MASK, INTERRUPT_CLEAR = 0x00, 0x08, 0x10, 0x18, 0x20
EIGHT_BIT_MODE = 0x40
CALC_DONE, ALMOST_EMPTY, ALMOST_FULL = 1, 2, 4
LAYER_WORDS = 12
OUTPUT_BYTES_PER_CYCLE = 8  # fifo_data_out through DMA, 64 bits a cycle


class Kpu(Device):
    """Layer queue, interrupts, output FIFO."""

    host_side = ("soc", "execute", "on_busy")

    def __init__(self, soc: Soc, name: str, base: int):
        super().__init__(soc, name, base)
        self.execute: Callable[[tuple[int, ...], bool, Soc], tuple[Bytes | None, float]] | None = None

    def reset(self) -> None:
        super().reset()
        self.raw = 0
        self.words: list[int] = []
        self.low_half = 0
        self.layers: deque[tuple[int, ...]] = deque()
        self.busy = False
        self.output = b""  # waits for DMA
        self.layers_run = 0
        self.busy_cycles = 0
        self.registers[INTERRUPT_MASK] = CALC_DONE | ALMOST_EMPTY | ALMOST_FULL

    def _update_interrupt(self) -> None:
        self.soc.plic.set_level(plic.KPU_IRQ, bool(self.raw & ~self.registers[INTERRUPT_MASK]))

    def read(self, offset: int) -> int:
        if offset == INTERRUPT_STATUS:
            if self.busy and not self.raw & CALC_DONE:
                self.soc.poll_busy()
            return self.raw & ~self.registers[INTERRUPT_MASK]
        if offset == INTERRUPT_RAW:
            if self.busy and not self.raw & CALC_DONE:
                self.soc.poll_busy()
            return self.raw
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == LAYER_FIFO:
            self.low_half = value
        elif offset == LAYER_FIFO + 4:
            self.words.append(value << 32 | self.low_half)
            if len(self.words) == LAYER_WORDS:
                self.layers.append(tuple(self.words))
                self.words = []
                self._next_layer()
        elif offset == INTERRUPT_CLEAR:
            self.raw &= ~value
            self._update_interrupt()
        else:
            super().write(offset, value)
            if offset == INTERRUPT_MASK:
                self._update_interrupt()

    def _next_layer(self) -> None:
        if self.busy or not self.layers:
            return
        words = self.layers.popleft()
        self.busy = True
        self.tell_busy(True)
        if self.execute is None:
            raise RuntimeError("no KPU engine is attached")
        eight_bit = bool(self.registers.get(EIGHT_BIT_MODE, 0) & 1)
        output, seconds = self.execute(words, eight_bit, self.soc)
        cycles = self.soc.cycles(seconds)
        self.layers_run += 1
        self.busy_cycles += cycles
        interrupt = bool(words[0] & 1)
        self.soc.schedule(cycles, self._done, interrupt, b"" if output is None else output.tobytes())

    def _done(self, interrupt: bool, output: bytes) -> None:
        self.busy = False
        self.tell_busy(False)
        self.output += output
        self.kick()
        if interrupt:
            self.raw |= CALC_DONE
        if not self.layers:
            self.raw |= ALMOST_EMPTY
        self._update_interrupt()
        self._next_layer()

    def kick(self) -> None:
        """Hand the output to the DMA channel that waits for it."""
        channel = self.soc.dmac.receiver(dmac.AI_RX_REQUEST)
        if channel is not None and self.output:
            items, width = self.soc.dmac.room(channel)
            length = items * width
            data, self.output = self.output[:length], b""
            self.soc.dmac.deliver(channel, data, length // OUTPUT_BYTES_PER_CYCLE)
