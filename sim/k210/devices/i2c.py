"""I2C master (DesignWare). Slaves are attached by address and by the pads that their wires are soldered to.

Writes are collected until the program reads data, or polls the status register: with this controller's driver
that is the only sign of a finished message (no stop bit is written).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sim.k210.device import Device

if TYPE_CHECKING:
    from sim.k210.soc import Soc

CON, TAR, DATA_CMD, ENABLE, STATUS, TXFLR, RXFLR = 0x00, 0x04, 0x10, 0x6C, 0x70, 0x74, 0x78
RAW_INTR_STAT, CLR_TX_ABRT, TX_ABRT_SOURCE, ENABLE_STATUS = 0x34, 0x54, 0x80, 0x9C
READ_COMMAND = 0x100
ABRT_7B_ADDR_NOACK = 1
TFNF, TFE, RFNE = 2, 4, 8
FUNC_I2C0_SCLK = 126  # FPIOA function; data is the next, the other two masters follow


class I2cSlave(Protocol):
    """A chip on the bus."""

    def i2c_write(self, data: bytes) -> None:
        """Take a finished write message."""

    def i2c_read(self) -> int:
        """The next byte of a read message."""


@dataclass(frozen=True)
class Wired:
    """A chip and the pads that its clock and data lines are on; None: it is reached on any pads."""

    chip: I2cSlave
    clock_pad: int | None = None
    data_pad: int | None = None


class I2c(Device):
    """An I2C master; messages take no time beyond the program's own polling."""

    host_side = ("soc", "slaves", "index")

    def __init__(self, soc: Soc, name: str, base: int, index: int):
        super().__init__(soc, name, base)
        self.index = index
        self.slaves: dict[int, Wired] = {}  # by 7-bit address

    def reset(self) -> None:
        super().reset()
        self.outgoing = bytearray()
        self.rx_fifo: deque[int] = deque()
        self.abort = 0

    def _slave(self) -> I2cSlave | None:
        wired = self.slaves.get(self.registers.get(TAR, 0) & 0x3FF)
        if wired is None:
            return None
        clock = FUNC_I2C0_SCLK + 2 * self.index
        for pad, function in ((wired.clock_pad, clock), (wired.data_pad, clock + 1)):
            if pad is not None and self.soc.fpioa.function(pad) != function:
                return None
        return wired.chip

    def _flush(self) -> None:
        slave = self._slave()
        if self.outgoing and slave is not None:
            slave.i2c_write(bytes(self.outgoing))
        self.outgoing.clear()

    def read(self, offset: int) -> int:
        if offset == DATA_CMD:
            return self.rx_fifo.popleft() if self.rx_fifo else 0
        if offset == STATUS:
            self._flush()
            return TFNF | TFE | (RFNE if self.rx_fifo else 0)
        if offset == TXFLR:
            return 0
        if offset == RXFLR:
            return len(self.rx_fifo)
        if offset == TX_ABRT_SOURCE:
            return self.abort
        if offset == CLR_TX_ABRT:
            self.abort = 0
            return 0
        if offset == ENABLE_STATUS:
            return self.registers.get(ENABLE, 0) & 1
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == DATA_CMD:
            slave = self._slave()
            if slave is None:
                self.abort = ABRT_7B_ADDR_NOACK
                self.outgoing.clear()
            elif value & READ_COMMAND:
                self._flush()
                self.rx_fifo.append(slave.i2c_read())
            else:
                self.outgoing.append(value & 0xFF)
            return
        if offset in (ENABLE, TAR):
            self._flush()
            self.rx_fifo.clear()
        super().write(offset, value)
