"""Serial lines: UARTHS (the REPL's) and UART1…3.

Every byte takes 10 bit times at the baud rate, in both directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.transport import BITS_PER_BYTE, CONSOLE_BAUD
from sim.k210.device import Device
from sim.k210.devices import plic

if TYPE_CHECKING:
    from sim.k210.soc import Soc


class SerialLine(Device, ABC):
    """The queues and the pacing that both kinds of UART share."""

    host_side = ("on_output", "soc")
    rx_fifo_bytes = 8
    tx_fifo_bytes = 8

    def __init__(self, soc: Soc, name: str, base: int):
        super().__init__(soc, name, base)
        self.on_output: Callable[[bytes], None] | None = None
        self.incoming: deque[int] = deque()  # on the wire
        self.rx_fifo: deque[int] = deque()
        self.tx_pending = 0
        self.tx_end = 0  # cycle at which the last queued byte has left
        self.rx_busy = False

    def reset(self) -> None:
        super().reset()
        self.rx_fifo.clear()
        self.tx_pending = 0
        self.tx_end = 0
        self.rx_busy = False
        if self.incoming:
            self._next_byte()

    @abstractmethod
    def byte_cycles(self) -> int:
        """The number of CPU cycles that one byte takes on the line."""

    @abstractmethod
    def update_interrupt(self) -> None:
        """Set the interrupt line from the FIFOs' state."""

    def send(self, data: bytes) -> None:
        """Send bytes from the host to the chip; call it between slices."""
        self.incoming.extend(data)
        if not self.rx_busy:
            self._next_byte()

    def _next_byte(self) -> None:
        """Bytes that are sent together arrive half a FIFO at a time: equally fast, with fewer interrupts."""
        count = min(len(self.incoming), self.rx_fifo_bytes // 2)
        self.rx_busy = count > 0
        if count:
            self.soc.schedule(count * self.byte_cycles(), self._arrived, count)

    def _arrived(self, count: int) -> None:
        for _ in range(min(count, len(self.incoming))):
            byte = self.incoming.popleft()
            if len(self.rx_fifo) < self.rx_fifo_bytes:  # Otherwise the byte is lost, as on the chip.
                self.rx_fifo.append(byte)
        self.update_interrupt()
        self._next_byte()

    def transmit(self, byte: int) -> None:
        """Send a byte from chip to host; the host sees it at once, the FIFO drains at the line's rate."""
        if self.on_output:
            self.on_output(bytes([byte]))
        now = self.soc.now
        self.tx_end = max(now, self.tx_end) + self.byte_cycles()
        self.tx_pending += 1
        self.soc.schedule(self.tx_end - now, self._byte_left)

    def _byte_left(self) -> None:
        if self.tx_pending:
            self.tx_pending -= 1
        self.update_interrupt()


class Uarths(SerialLine):
    """The high-speed UART: 8-byte FIFOs, baud = CPU clock / (div + 1)."""

    TXDATA, RXDATA, TXCTRL, RXCTRL, IE, IP, DIV = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18

    def byte_cycles(self) -> int:
        divider = self.registers.get(self.DIV, 0) & 0xFFFF
        return BITS_PER_BYTE * (divider + 1) if divider else self.soc.cycles(BITS_PER_BYTE / CONSOLE_BAUD)

    def _pending(self) -> int:
        tx_watermark = self.registers.get(self.TXCTRL, 0) >> 16 & 7
        rx_watermark = self.registers.get(self.RXCTRL, 0) >> 16 & 7
        return int(self.tx_pending < tx_watermark) | int(len(self.rx_fifo) > rx_watermark) << 1

    def update_interrupt(self) -> None:
        self.soc.plic.set_level(plic.UARTHS_IRQ, bool(self._pending() & self.registers.get(self.IE, 0)))

    def read(self, offset: int) -> int:
        if offset == self.TXDATA:
            if self.tx_pending < self.tx_fifo_bytes:
                return 0
            self.soc.poll_busy()
            return 1 << 31
        if offset == self.RXDATA:
            if not self.rx_fifo:
                return 1 << 31
            byte = self.rx_fifo.popleft()
            self.update_interrupt()
            return byte
        if offset == self.IP:
            return self._pending()
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.TXDATA:
            self.transmit(value & 0xFF)
        elif offset != self.RXDATA:
            super().write(offset, value)
        self.update_interrupt()


class Uart(SerialLine):
    """A 16550-like UART (DesignWare), 16-byte FIFOs."""

    rx_fifo_bytes = 16
    tx_fifo_bytes = 16
    RBR, IER, IIR, LCR, LSR, USR, TFL, RFL, SRR, DLF = 0x00, 0x04, 0x08, 0x0C, 0x14, 0x7C, 0x80, 0x84, 0x88, 0xC0
    STHR = 0x30

    def __init__(self, soc: Soc, name: str, base: int, irq: int):
        super().__init__(soc, name, base)
        self.irq = irq

    def reset(self) -> None:
        self.divisor = 0
        super().reset()

    def byte_cycles(self) -> int:
        divisor = self.divisor + self.registers.get(self.DLF, 0) / 16
        baud = self.soc.sysctl.apb0_hz / (16 * divisor) if divisor else CONSOLE_BAUD
        return self.soc.cycles(BITS_PER_BYTE / baud)

    def update_interrupt(self) -> None:
        enabled = self.registers.get(self.IER, 0)
        received = enabled & 1 and bool(self.rx_fifo)
        empty = enabled & 2 and self.tx_pending == 0
        self.soc.plic.set_level(self.irq, bool(received or empty))

    def read(self, offset: int) -> int:
        latch = self.registers.get(self.LCR, 0) & 0x80
        if offset == self.RBR:
            if latch:
                return self.divisor & 0xFF
            byte = self.rx_fifo.popleft() if self.rx_fifo else 0
            self.update_interrupt()
            return byte
        if offset == self.IER and latch:
            return self.divisor >> 8
        if offset == self.IIR:
            enabled = self.registers.get(self.IER, 0)
            if enabled & 1 and self.rx_fifo:
                return 0xC4
            return 0xC2 if enabled & 2 and not self.tx_pending else 0xC1
        if offset == self.LSR:
            full = self.tx_pending >= self.tx_fifo_bytes
            # With programmable THRE interrupts (IER bit 7) bit 5 says that the FIFO is full, else that it is empty.
            threshold = full if self.registers.get(self.IER, 0) & 0x80 else not self.tx_pending
            if full:
                self.soc.poll_busy()
            return int(bool(self.rx_fifo)) | threshold << 5 | (not self.tx_pending) << 6
        if offset == self.USR:
            return 2 | (4 if not self.tx_pending else 0) | (8 if self.rx_fifo else 0)
        if offset == self.TFL:
            return min(self.tx_pending, self.tx_fifo_bytes)
        if offset == self.RFL:
            return len(self.rx_fifo)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        latch = self.registers.get(self.LCR, 0) & 0x80
        if offset == self.RBR:
            if latch:
                self.divisor = (self.divisor & 0xFF00) | value & 0xFF
            else:
                self.transmit(value & 0xFF)
        elif offset == self.IER and latch:
            self.divisor = (self.divisor & 0xFF) | (value & 0xFF) << 8
        elif self.STHR <= offset < self.STHR + 64:
            self.transmit(value & 0xFF)
        else:
            super().write(offset, value)
        self.update_interrupt()
