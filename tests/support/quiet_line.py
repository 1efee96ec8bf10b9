"""A serial line that nobody answers."""

from __future__ import annotations


class QuietLine:
    """A common.transport.Transport whose clock moves only while somebody waits."""

    name = "/dev/quiet"
    has_lines = True

    def __init__(self) -> None:
        self.time_s = 0.0
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def read(self, timeout_s: float) -> bytes:
        self.time_s += timeout_s
        return b""

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds

    def now(self) -> float:
        return self.time_s

    def discard_input(self) -> None: ...

    def set_baud(self, baud: int) -> None: ...

    def set_lines(self, dtr: bool, rts: bool) -> None: ...

    def close(self) -> None: ...
