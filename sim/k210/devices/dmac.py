"""DMA controller (DesignWare AXI, 6 channels). A block moves at once when its peripheral is ready; the channel
reports completion after the time that the peripheral needs."""

from __future__ import annotations

from sim.k210.device import Device
from sim.k210.devices import plic

CHANNELS, FIRST_CHANNEL, CHANNEL_STRIDE = 6, 0x100, 0x100
CFG, CHEN, INTSTATUS, RESET = 0x10, 0x18, 0x30, 0x58
SAR, DAR, BLOCK_TS, CTL, CH_CFG = 0x00, 0x08, 0x10, 0x18, 0x20
CH_INTSTATUS_EN, CH_INTSTATUS, CH_INTSIGNAL_EN, CH_INTCLEAR = 0x80, 0x88, 0x90, 0x98
BLOCK_DONE, TRANSFER_DONE = 1, 2
MEM_TO_MEM, MEM_TO_PERIPHERAL = 0, 1  # everything else is from a peripheral to memory
BUS_BYTES_PER_CYCLE = 4  # memory-to-memory throughput, a model

# Handshake numbers (SDK: sysctl_dma_select_t)
SSI_RX = {0: 0, 2: 1, 6: 3}  # request → SPI index
SSI_TX = {1: 0, 3: 1, 7: 3}
SHA_RX_REQUEST = 21
AI_RX_REQUEST = 22


class Dmac(Device):
    """A controller with six channels, each of which moves one block."""

    def reset(self) -> None:
        super().reset()
        self.enabled = 0
        self.status = [0] * CHANNELS
        self.waiting = [False] * CHANNELS  # enabled, peripheral not ready yet
        for channel in range(CHANNELS):
            self.registers[FIRST_CHANNEL + channel * CHANNEL_STRIDE + CH_INTSIGNAL_EN] = 0xFFFFFFFF

    def _get(self, channel: int, register: int) -> int:
        return self.registers.get(FIRST_CHANNEL + channel * CHANNEL_STRIDE + register, 0)

    def _update_interrupts(self) -> None:
        for channel in range(CHANNELS):
            active = self.status[channel] & self._get(channel, CH_INTSTATUS_EN) & self._get(channel, CH_INTSIGNAL_EN)
            self.soc.plic.set_level(plic.DMA0_IRQ + channel, bool(active))

    def read(self, offset: int) -> int:
        if offset == CHEN:
            if self.enabled:
                self.soc.poll_busy()
            return self.enabled
        if offset == INTSTATUS:
            return sum(1 << c for c in range(CHANNELS) if self.status[c] & self._get(c, CH_INTSTATUS_EN))
        if offset == RESET:
            return 0
        if offset >= FIRST_CHANNEL:
            channel, register = divmod(offset - FIRST_CHANNEL, CHANNEL_STRIDE)
            if register == CH_INTSTATUS:
                if not self.status[channel] and self.enabled >> channel & 1:
                    self.soc.poll_busy()
                return self.status[channel]
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == CHEN:
            for channel in range(CHANNELS):
                if value >> (8 + channel) & 1:
                    bit = 1 << channel
                    if value & bit and not self.enabled & bit:
                        self.enabled |= bit
                        self._begin(channel)
                    elif not value & bit:
                        self.enabled &= ~bit
                        self.waiting[channel] = False
            return
        super().write(offset, value)
        if offset >= FIRST_CHANNEL:
            channel, register = divmod(offset - FIRST_CHANNEL, CHANNEL_STRIDE)
            if register == CH_INTCLEAR:
                self.status[channel] &= ~value
            if register >= CH_INTSTATUS_EN:
                self._update_interrupts()

    # -- moving data

    def _shape(self, channel: int) -> tuple[int, int, int, int]:
        """Source, destination, number of items, bytes of an item."""
        ctl = self._get(channel, CTL)
        return (self._get(channel, SAR), self._get(channel, DAR), self._get(channel, BLOCK_TS) + 1, 1 << (ctl >> 8 & 7))

    def _begin(self, channel: int) -> None:
        request = self.soc.sysctl.dma_request(channel)
        flow = self._get(channel, CH_CFG + 4) & 7
        source, destination, items, width = self._shape(channel)
        fixed_source = self._get(channel, CTL) >> 4 & 1
        if flow == MEM_TO_MEM:
            length = items * width
            data = bytes(self.soc.ram_slice(source, width if fixed_source else length))
            self.soc.ram_slice(destination, length)[:] = data * items if fixed_source else data
            self._complete_after(channel, length // BUS_BYTES_PER_CYCLE)
        elif flow == MEM_TO_PERIPHERAL:
            if fixed_source:
                data = bytes(self.soc.ram_slice(source, width)) * items
            else:
                data = bytes(self.soc.ram_slice(source, items * width))
            if request in SSI_TX:
                self.soc.spi[SSI_TX[request]].dma_transmit(channel, data, width)
            elif request == SHA_RX_REQUEST:
                self.soc.devices["sha256"].feed(data)  # type: ignore[attr-defined]
                self._complete_after(channel, len(data))
            else:
                self._complete_after(channel, items)  # a peripheral that swallows everything (I2S, UART)
        else:
            self.waiting[channel] = True
            if request in SSI_RX:
                self.soc.spi[SSI_RX[request]].kick()
            elif request == AI_RX_REQUEST:
                self.soc.kpu.kick()

    def receiver(self, request: int) -> int | None:
        """The channel that waits for this peripheral's data."""
        for channel in range(CHANNELS):
            if self.waiting[channel] and self.soc.sysctl.dma_request(channel) == request:
                return channel
        return None

    def room(self, channel: int) -> tuple[int, int]:
        """Items that a waiting channel wants, and bytes of each."""
        _, _, items, width = self._shape(channel)
        return items, width

    def deliver(self, channel: int, data: bytes, cycles: int) -> None:
        """A peripheral's data for a waiting channel; complete after `cycles`."""
        _, destination, items, width = self._shape(channel)
        length = items * width
        self.soc.ram_slice(destination, length)[:] = data[:length].ljust(length, b"\0")
        self.waiting[channel] = False
        self._complete_after(channel, cycles)

    def _complete_after(self, channel: int, cycles: int) -> None:
        self.soc.schedule(cycles, self.complete, channel)

    def complete(self, channel: int) -> None:
        """End a block: switch the channel off, set its status, and interrupt."""
        if self.enabled >> channel & 1:
            self.enabled &= ~(1 << channel)
            self.status[channel] |= BLOCK_DONE | TRANSFER_DONE
            self._update_interrupts()
