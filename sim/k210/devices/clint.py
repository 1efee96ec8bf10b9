"""CLINT: software interrupts between harts, the machine timer."""

from __future__ import annotations

from sim.k210.device import Device

CYCLES_PER_TICK = 50  # mtime counts CPU clock / 50
MSIP, MTIMECMP, MTIME = 0x0, 0x4000, 0xBFF8
FAR_FUTURE = (1 << 64) - 1


class Clint(Device):
    """The registers msip[2], mtimecmp[2] and mtime."""

    size = 0x10000

    def reset(self) -> None:
        super().reset()
        self.msip = [0, 0]
        self.mtimecmp = [FAR_FUTURE, FAR_FUTURE]
        self.compare_cycles = [FAR_FUTURE, FAR_FUTURE]
        self.latched_high = 0

    def read(self, offset: int) -> int:
        if offset == MTIME:
            ticks = self.soc.poll_time() // CYCLES_PER_TICK
            self.latched_high = ticks >> 32
            return ticks & 0xFFFFFFFF
        if offset == MTIME + 4:
            return self.latched_high
        if offset < 8:
            return self.msip[offset >> 2]
        if MTIMECMP <= offset < MTIMECMP + 16:
            return (self.mtimecmp[(offset >> 3) & 1] >> (8 * (offset & 4))) & 0xFFFFFFFF
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset < 8:
            self.msip[offset >> 2] = value & 1
            self.soc.attention()
        elif MTIMECMP <= offset < MTIMECMP + 16:
            hart, shift = (offset >> 3) & 1, 8 * (offset & 4)
            ticks = (self.mtimecmp[hart] & ~(0xFFFFFFFF << shift)) | value << shift
            self.mtimecmp[hart] = ticks
            self.compare_cycles[hart] = ticks * CYCLES_PER_TICK
            delay = self.compare_cycles[hart] - self.soc.now
            if delay < 1 << 50:
                self.soc.schedule(delay, self._expired)
            self.soc.attention()
        else:
            super().write(offset, value)

    def _expired(self) -> None:
        """The interrupt line is computed from mtimecmp before each slice; this event only ends a slice."""
