"""PLIC: 65 level-triggered sources for two targets (machine mode of each hart)."""

from __future__ import annotations

from sim.k210.device import Device

SOURCES = 66
PENDING, ENABLES, TARGETS = 0x1000, 0x2000, 0x200000
ENABLE_STRIDE, TARGET_STRIDE = 0x100, 0x2000  # machine mode only: supervisor targets lie between

# Source numbers (Kendryte SDK, plic.h)
I2C0_IRQ, UART1_IRQ, TIMER0A_IRQ, RTC_IRQ, WDT0_IRQ = 8, 11, 14, 20, 21
GPIO_IRQ, DVP_IRQ, KPU_IRQ, DMA0_IRQ, UARTHS_IRQ, GPIOHS0_IRQ = 23, 24, 25, 27, 33, 34


class Plic(Device):
    """The registers: priorities, enables, threshold and claim/complete."""

    size = 0x400000

    def reset(self) -> None:
        super().reset()
        self.priority = [0] * SOURCES
        self.level = 0  # these three: a bit per source
        self.in_service = 0
        self.enable = [0, 0]
        self.threshold = [0, 0]

    def set_level(self, source: int, level: bool) -> None:
        """Set the line of a source, as a device drives it."""
        bit = 1 << source
        if bool(self.level & bit) != bool(level):
            self.level ^= bit
            self.soc.external_changed(stop=True)

    def best(self, target: int) -> int:
        """The source that `target` would get: highest priority above the threshold, lowest number first."""
        candidates = self.level & self.enable[target] & ~self.in_service
        winner, highest = 0, self.threshold[target]
        while candidates:
            source = (candidates & -candidates).bit_length() - 1
            if self.priority[source] > highest:
                winner, highest = source, self.priority[source]
            candidates &= candidates - 1
        return winner

    def pending(self, target: int) -> bool:
        """Whether the target's external interrupt line is high."""
        return bool(self.level) and self.best(target) != 0

    def read(self, offset: int) -> int:
        if offset >= TARGETS:
            target, register = divmod(offset - TARGETS, TARGET_STRIDE)
            if target > 1:
                return 0
            if register == 0:
                return self.threshold[target]
            source = self.best(target)
            if source:
                self.in_service |= 1 << source
                self.soc.external_changed(stop=False)
            return source
        if offset >= ENABLES:
            target, register = divmod(offset - ENABLES, ENABLE_STRIDE)
            return (self.enable[target] >> (8 * register)) & 0xFFFFFFFF if target < 2 and register < 12 else 0
        if offset >= PENDING:
            return (self.level & ~self.in_service) >> (8 * (offset - PENDING)) & 0xFFFFFFFF
        return self.priority[offset >> 2] if offset >> 2 < SOURCES else 0

    def write(self, offset: int, value: int) -> None:
        if offset >= TARGETS:
            target, register = divmod(offset - TARGETS, TARGET_STRIDE)
            if target < 2:
                if register == 0:
                    self.threshold[target] = value
                elif register == 4 and value < SOURCES:
                    self.in_service &= ~(1 << value)
        elif offset >= ENABLES:
            target, register = divmod(offset - ENABLES, ENABLE_STRIDE)
            if target < 2 and register < 12:
                shift = 8 * register
                self.enable[target] = (self.enable[target] & ~(0xFFFFFFFF << shift)) | value << shift
        elif offset < PENDING and offset >> 2 < SOURCES:
            self.priority[offset >> 2] = value & 7
        # Handlers write this and return by mret, where an interrupt that has become pending is taken.
        self.soc.external_changed(stop=False)
