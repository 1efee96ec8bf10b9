"""System controller (clocks, resets, DMA request routing) and the OTP block."""

from __future__ import annotations

from sim.k210.device import Device

IN0_HZ = 26_000_000
PLL0, PLL1, PLL2, PLL_LOCK = 0x08, 0x0C, 0x10, 0x18
CLK_SEL0, SOFT_RESET, CLK_TH0, CLK_TH1, CLK_TH2 = 0x20, 0x30, 0x38, 0x3C, 0x40
RESET_STATUS, DMA_SEL0, DMA_SEL1 = 0x60, 0x64, 0x68
LOCKED = 0x00030303
SOFT_RESET_STATUS = 1 << 4
# Values that the start-up code finds after reset: PLL0 at 780 MHz, halved for the CPU.
RESET_PLL0 = 59 << 4 | 1 << 10  # 26 MHz x 60 / 2
DEFAULT_CLK_SEL0 = 1  # aclk from PLL0 / 2


class Sysctl(Device):
    """Registers are stored; frequencies are derived from them as the SDK derives them."""

    def reset(self) -> None:
        status = self.registers.get(RESET_STATUS, 0)
        super().reset()
        self.registers.update({PLL0: RESET_PLL0, CLK_SEL0: DEFAULT_CLK_SEL0, RESET_STATUS: status})
        self._update()

    def read(self, offset: int) -> int:
        return LOCKED if offset == PLL_LOCK else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == SOFT_RESET and value & 1:
            self.registers[RESET_STATUS] = SOFT_RESET_STATUS
            self.soc.request_reset()
            return
        super().write(offset, value)
        if offset in (PLL0, PLL1, PLL2, CLK_SEL0):
            self._update()

    def _pll_hz(self, register: int) -> float:
        value = self.registers.get(register, 0)
        clkr, clkf, clkod = value & 15, value >> 4 & 63, value >> 10 & 15
        return IN0_HZ / (clkr + 1) * (clkf + 1) / (clkod + 1)

    def _update(self) -> None:
        select = self.registers.get(CLK_SEL0, 0)
        self.pll0_hz = self._pll_hz(PLL0)
        aclk = self.pll0_hz / (2 << (select >> 1 & 3)) if select & 1 else IN0_HZ
        self.cpu_hz = aclk
        self.apb0_hz = aclk / ((select >> 3 & 7) + 1)
        self.apb1_hz = aclk / ((select >> 6 & 7) + 1)

    @property
    def kpu_hz(self) -> float:
        """The KPU's clock: PLL1 divided by the AI threshold plus 1."""
        return self._pll_hz(PLL1) / ((self.registers.get(CLK_TH0, 0) >> 8 & 15) + 1)

    def spi_hz(self, index: int) -> float:
        """The source clock of an SPI block, before its own baud divider."""
        threshold = self.registers.get(CLK_TH1, 0) >> (8 * index) & 0xFF
        source = self.pll0_hz
        if index == 3 and not self.registers.get(CLK_SEL0, 0) >> 12 & 1:
            source = IN0_HZ
        return source / (2 * (threshold + 1))

    def timer_hz(self, index: int) -> float:
        """The clock of a timer block."""
        source = self.pll0_hz if self.registers.get(CLK_SEL0, 0) >> (13 + index) & 1 else IN0_HZ
        return source / (2 * ((self.registers.get(CLK_TH2, 0) >> (8 * index) & 0xFF) + 1))

    def dma_request(self, channel: int) -> int:
        """The peripheral whose handshake a DMA channel uses (SDK: sysctl_dma_select)."""
        if channel == 5:
            return self.registers.get(DMA_SEL1, 0) & 63
        return self.registers.get(DMA_SEL0, 0) >> (6 * channel) & 63


class Otp(Device):
    """One-time memory: always ready, all bytes from a fixed pattern (the unique id of this emulated chip)."""

    READY = 0xFFFFFFFF

    def read(self, offset: int) -> int:
        return self.registers.get(offset, self.READY)
