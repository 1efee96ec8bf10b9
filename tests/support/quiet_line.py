"""Two serial lines for tests: one that nobody answers, and one that brings answers written down beforehand."""

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


class Talking(QuietLine):
    """A line that brings these pieces, one at each look, and then nothing. It keeps what is written and when."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.sent: list[tuple[float, bytes]] = []

    def read(self, timeout_s: float) -> bytes:
        return self.pieces.pop(0) if self.pieces else super().read(timeout_s)

    def write(self, data: bytes) -> None:
        self.sent.append((round(self.time_s, 2), data))

    def discard_input(self) -> None:
        """Only a first piece b"discarded" goes: the others stand for what arrives later."""
        self.pieces = self.pieces[1:] if self.pieces[:1] == [b"discarded"] else self.pieces
