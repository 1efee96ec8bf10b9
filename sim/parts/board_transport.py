"""A line straight into a board in this process, on the board's own clock (`common.transport.Transport`)."""

from __future__ import annotations

from sim.parts.board import Board


class BoardTransport:
    """The host's end of a board's line; a board without power is switched on."""

    has_lines = True

    def __init__(self, board: Board, name: str | None = None):
        self.board = board
        self.name = name or board.name
        if not board.powered:
            board.power_on()

    def write(self, data: bytes) -> None:
        self.board.receive(data)

    def read(self, timeout_s: float) -> bytes:
        self.board.run_for(timeout_s, lambda: self.board.has_output)
        return self.board.take_output()

    def discard_input(self) -> None:
        self.board.take_output()

    def set_baud(self, baud: int) -> None:
        self.board.set_host_baud(baud)

    def set_lines(self, dtr: bool, rts: bool) -> None:
        # One after the other, like a host's two ioctls.
        self.board.set_lines(dtr, self.board.pins.rts)
        self.board.set_lines(dtr, rts)

    def sleep(self, seconds: float) -> None:
        self.board.run_for(seconds)

    def now(self) -> float:
        return self.board.seconds

    def close(self) -> None:
        self.set_lines(False, False)
