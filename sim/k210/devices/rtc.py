"""RTC: a calendar that runs on virtual time."""

from __future__ import annotations

import datetime

from sim.k210.device import Device

DATE, TIME, INITIAL_COUNT, CURRENT_COUNT, EXTENDED = 0x00, 0x04, 0x10, 0x14, 0x28
EPOCH = datetime.datetime(2000, 1, 1)


class Rtc(Device):
    """date {week 3, day 5 @8, month 4 @16, year 12 @20}, time {second 6 @10, minute 6 @16, hour 5 @24},
    extended {century 5, leap 1}."""

    def reset(self) -> None:
        super().reset()
        self.origin = EPOCH
        self.origin_cycles = self.soc.now if hasattr(self, "origin_cycles") else 0

    def _now(self) -> datetime.datetime:
        elapsed = (self.soc.now - self.origin_cycles) / self.soc.sysctl.cpu_hz
        return self.origin + datetime.timedelta(seconds=int(elapsed))

    def read(self, offset: int) -> int:
        if offset == DATE:
            now = self._now()
            return now.isoweekday() % 7 | now.day << 8 | now.month << 16 | (now.year % 100) << 20
        if offset == TIME:
            now = self._now()
            return now.second << 10 | now.minute << 16 | now.hour << 24
        if offset == EXTENDED:
            year = self._now().year
            return year // 100 | int(year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)) << 5
        if offset == CURRENT_COUNT:
            elapsed = (self.soc.now - self.origin_cycles) / self.soc.sysctl.cpu_hz
            return int(elapsed * 26_000_000) % max(1, self.registers.get(INITIAL_COUNT, 26_000_000))
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        now = self._now()
        try:
            if offset == DATE:
                year = now.year // 100 * 100 + (value >> 20 & 0xFFF) % 100
                now = now.replace(year=year, month=value >> 16 & 15, day=value >> 8 & 31)
            elif offset == TIME:
                now = now.replace(hour=value >> 24 & 31, minute=value >> 16 & 63, second=value >> 10 & 63)
            elif offset == EXTENDED:
                now = now.replace(year=max(1, value & 31) * 100 + now.year % 100)
            else:
                return
        except ValueError:
            return  # no such date: the chip would count on from nonsense
        self.origin, self.origin_cycles = now, self.soc.now
