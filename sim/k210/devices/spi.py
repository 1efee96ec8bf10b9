"""SPI masters 0, 1 and 3 (DesignWare SSI), standard and enhanced (dual, quad, octal) frames.

A message begins when the chip is selected (`ser`) and ends when it is deselected; transfers happen at once and
take the time of their bits on the clock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.arrays import Bytes
from sim.k210.device import Device

if TYPE_CHECKING:
    from sim.k210.soc import Soc

CTRLR0, CTRLR1, SSIENR, SER, BAUDR, TXFLR, RXFLR, SR = 0x00, 0x04, 0x08, 0x10, 0x14, 0x20, 0x24, 0x28
DR_FIRST, DR_LAST, SPI_CTRLR0, ENDIAN = 0x60, 0xEC, 0xF4, 0x118
BUSY, TFNF, TFE, RFNE = 1, 2, 4, 8
TRANSMIT_RECEIVE, TRANSMIT, RECEIVE, EEPROM = 0, 1, 2, 3
LANES = (1, 2, 4, 8)
INSTRUCTION_BITS = (0, 4, 8, 16)


class SpiSlave(Protocol):
    """A chip on a select line."""

    def select(self) -> None:
        """A message begins: the chip was selected."""

    def transfer(self, data: bytes) -> bytes:
        """Exchange bytes in full duplex; returns as many bytes."""

    def receive(self, length: int) -> bytes:
        """Read bytes from the chip while the master's line is high."""

    def enhanced(self, instruction: int, address: int, address_bits: int) -> None:
        """Instruction and address of an enhanced frame; data follows by `transfer` or `receive`."""

    def deselect(self) -> None:
        """The message ends: the chip was deselected."""


class Spi(Device):
    """One master; `slaves` by chip-select line."""

    host_side = ("soc", "slaves")

    def __init__(self, soc: Soc, name: str, base: int, index: int):
        super().__init__(soc, name, base)
        self.index = index
        self.slaves: dict[int, SpiSlave] = {}

    def reset(self) -> None:
        super().reset()
        self.tx: list[int] = []  # frames not yet sent
        self.rx: deque[int] = deque()
        self.dma_tx: list[tuple[int, bytes, int]] = []  # (channel, data, bytes per item)
        self.selected: int | None = None
        self.receive_done = False  # the one block of a receive message has been clocked in
        self.busy_until = 0

    # -- register fields

    def _control(self) -> int:
        return self.registers.get(CTRLR0, 0)

    @property
    def frame_bits(self) -> int:
        """The number of bits in a data frame."""
        return (self._control() >> (0 if self.index == 3 else 16) & 31) + 1

    @property
    def mode(self) -> int:
        """The transfer mode (tmod)."""
        return self._control() >> (10 if self.index == 3 else 8) & 3

    @property
    def lanes(self) -> int:
        """The number of data lines in use."""
        return LANES[self._control() >> (22 if self.index == 3 else 21) & 3]

    def _bit_cycles(self, frames: int) -> int:
        divider = max(2, self.registers.get(BAUDR, 0))
        clocks = frames * self.frame_bits / self.lanes
        return self.soc.cycles(clocks * divider / self.soc.sysctl.spi_hz(self.index))

    # -- bus

    def read(self, offset: int) -> int:
        if offset == SR:
            if self.soc.now < self.busy_until:
                self.soc.poll_busy()
                return BUSY | TFNF
            return TFNF | TFE | (RFNE if self.rx else 0)
        if offset == TXFLR:
            return 0
        if offset == RXFLR:
            self._run()
            return min(len(self.rx), 32)
        if DR_FIRST <= offset <= DR_LAST:
            return self.rx.popleft() if self.rx else 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if DR_FIRST <= offset <= DR_LAST:
            self.tx.append(value)
            if self.mode in (TRANSMIT_RECEIVE, TRANSMIT):
                self._run()
            return
        super().write(offset, value)
        if offset == SER:
            self._select(value)
            self._run()
        elif offset == SSIENR and not value & 1:
            self._select(0)
            self.tx.clear()
            self.rx.clear()

    def _select(self, mask: int) -> None:
        line = mask.bit_length() - 1 if mask else None
        if line == self.selected:
            return
        if self.selected is not None and self.selected in self.slaves:
            self.slaves[self.selected].deselect()
        self.selected = line
        self.receive_done = False
        if line is not None and line in self.slaves:
            self.slaves[line].select()

    def dma_transmit(self, channel: int, data: bytes, width: int) -> None:
        """Frames from a DMA channel, one per item."""
        self.dma_tx.append((channel, data, width))
        self._run()

    def kick(self) -> None:
        """A DMA channel now waits for received frames."""
        self._run()

    # -- transfers

    def _active(self) -> bool:
        return self.selected is not None and bool(self.registers.get(SSIENR, 0) & 1)

    def _run(self) -> None:
        if not self._active():
            return
        if self.mode in (TRANSMIT_RECEIVE, TRANSMIT):
            self._transmit()
        elif not self.receive_done:
            self._receive()

    def _busy(self, cycles: int) -> int:
        """Occupy the line for `cycles`; returns the delay until it is free again."""
        now = self.soc.now
        self.busy_until = max(now, self.busy_until) + cycles
        self.soc.schedule(self.busy_until - now, self._idle)
        return self.busy_until - now

    def _idle(self) -> None:
        """End a program's busy-wait on the status register."""

    def _pack(self, frames: Bytes | list[int], bits: int) -> bytes:
        """Frames as bytes on the wire, high byte first."""
        size = 1 if bits <= 8 else 2 if bits <= 16 else 4
        values = np.asarray(frames, dtype=np.uint32)
        order = "<" if self.registers.get(ENDIAN, 0) & 1 else ">"
        return values.astype(f"{order}u{size}" if size > 1 else "u1").tobytes()

    def _unpack(self, data: bytes, bits: int) -> Bytes:
        size = 1 if bits <= 8 else 2 if bits <= 16 else 4
        order = "<" if self.registers.get(ENDIAN, 0) & 1 else ">"
        return np.frombuffer(data, dtype=f"{order}u{size}" if size > 1 else "u1")

    def _transmit(self) -> None:
        slave = self.slaves.get(self.selected)  # type: ignore[arg-type]
        bits = self.frame_bits
        if self.tx and not (self._has_prefix() and len(self.tx) < 2):  # Otherwise the address is still to come.
            frames, self.tx = self.tx, []
            self._busy(self._bit_cycles(len(frames)))
            self._send(slave, frames, bits)
        while self.dma_tx:
            channel, data, width = self.dma_tx.pop(0)
            items = np.frombuffer(data, dtype=f"<u{width}")
            delay = self._busy(self._bit_cycles(len(items)))
            self._send(slave, items, bits, channel)
            self.soc.schedule(delay, self.soc.dmac.complete, channel)

    def _send(self, slave: SpiSlave | None, frames: Bytes | list[int], bits: int, channel: int | None = None) -> None:
        if self.lanes > 1:
            frames = self._enhanced_prefix(slave, frames, bits)
        answer = b""
        if len(frames):
            packed = self._pack(frames, bits)
            answer = slave.transfer(packed) if slave else b"\xff" * len(packed)
        if self.mode == TRANSMIT_RECEIVE:
            received = self._unpack(answer, bits)
            receiver = self.soc.dmac.receiver(2 * self.index)
            if channel is not None and receiver is not None:
                _, width = self.soc.dmac.room(receiver)
                self.soc.dmac.deliver(
                    receiver, received.astype(f"<u{width}").tobytes(), self._bit_cycles(len(received))
                )
            else:
                self.rx.extend(int(x) for x in received)

    def _enhanced_prefix(self, slave: SpiSlave | None, frames: Bytes | list[int], bits: int) -> Bytes | list[int]:
        """Remove instruction and address from the front; for an LCD the address is plain data."""
        if self._has_prefix():
            if slave:
                address_bits = 4 * (self.registers.get(SPI_CTRLR0, 0) >> 2 & 15)
                slave.enhanced(int(frames[0]), int(frames[1]), address_bits)
            return frames[2:]
        return frames

    def _has_prefix(self) -> bool:
        """Whether frames begin with an instruction and an address."""
        control = self.registers.get(SPI_CTRLR0, 0)
        return bool(self.lanes > 1 and INSTRUCTION_BITS[control >> 8 & 3] and control >> 2 & 15)

    def _receive(self) -> None:
        """Receive a block of ctrlr1 + 1 frames, in EEPROM mode after the frames of the command."""
        if self.mode == EEPROM and not (self.tx or self.dma_tx):
            return
        request = 2 * self.index
        receiver = self.soc.dmac.receiver(request)
        slave = self.slaves.get(self.selected)  # type: ignore[arg-type]
        bits = self.frame_bits
        command: list[int] = self.tx
        self.tx = []
        channels = []
        for channel, data, width in self.dma_tx:
            command.extend(int(x) for x in np.frombuffer(data, dtype=f"<u{width}"))
            channels.append(channel)
        self.dma_tx = []
        if self.lanes > 1:
            if len(command) < 2:
                self.tx = command  # wait for instruction and address
                return
            self._enhanced_prefix(slave, command, bits)
        elif self.mode == EEPROM and slave:
            slave.transfer(self._pack(command, bits))
        frames = (self.registers.get(CTRLR1, 0) & 0xFFFF) + 1
        if receiver is not None:
            frames = max(frames, self.soc.dmac.room(receiver)[0])
        length = frames * (1 if bits <= 8 else 2 if bits <= 16 else 4)
        data = slave.receive(length) if slave else b"\xff" * length
        self.receive_done = True
        delay = self._busy(self._bit_cycles(frames + len(command)))
        for channel in channels:
            self.soc.schedule(delay, self.soc.dmac.complete, channel)
        received = self._unpack(data, bits)
        if receiver is not None:
            _, width = self.soc.dmac.room(receiver)
            self.soc.dmac.deliver(receiver, received.astype(f"<u{width}").tobytes(), delay)
        else:
            self.rx.extend(int(x) for x in received)
