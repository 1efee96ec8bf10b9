"""A simulated board in real time, behind a pseudo-terminal and an RFC 2217 port (`rfc2217://localhost:2217`).

Any web page can make a browser send a request to a TCP port of this machine. So that such a request is not taken for
keystrokes, a client is dropped unless it begins with IAC, as telnet clients of RFC 2217 do.

RFC 2217 (telnet with COM port control) carries baud rate, DTR and RTS in line with the data, so that programs
which open URLs with pyserial reset the board as they would a real one. A pseudo-terminal carries bytes and the
baud rate but has no modem lines, so the board is reset by its own buttons there.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serial.rfc2217 import IAC, IAC_DOUBLED, PortManager

from common.errors import UserError
from common.transport import BITS_PER_BYTE, CONSOLE_BAUD
from sim.parts.board import Board

PIECE_BYTES = 1024
"""Bytes are handed to the board in pieces of this length; the line's time is kept for each piece."""
POLL_S = 0.002
MAX_LAG_S = 0.5
GREETING_S = 5.0
"""An RFC 2217 client sends its options at once; a client that sends nothing for this long is dropped to admit
others."""
LINES_SETTLE_S = 0.08
"""pyserial's RFC 2217 client needs 0.05 s for each of the two modem lines, a USB port a fraction of a millisecond.
Changes that follow each other within this time reach the board as one."""
try:
    import fcntl
    import termios
    import tty
except ImportError:  # Windows has no pseudo-terminals.
    HAS_PTY = False
    PTY_BAUDS: dict[int, int] = {}
else:
    HAS_PTY = True
    PTY_BAUDS = {
        getattr(termios, name): int(name[1:]) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()
    }


class LiveBoard:
    """A board in real time, with a lock; `start()` switches it on."""

    def __init__(self, board: Board):
        self.board = board
        self.lock = threading.RLock()
        self.received_bytes = 0
        self.failure: Exception | None = None  # what ended the board's thread
        self._line_free_s = 0.0
        self._pending_lines: tuple[bool, bool, float] | None = None
        self._sinks: list[Callable[[bytes], None]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._pump, daemon=True)

    def start(self) -> None:
        """Switch the board on and start its thread."""
        with self.lock:
            self.board.power_on(self.now())
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and switch the board off."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        with self.lock:
            self.board.power_off()

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def add_sink(self, sink: Callable[[bytes], None]) -> None:
        """Give everything that the board sends to `sink` as well."""
        with self.lock:
            self._sinks.append(sink)

    def remove_sink(self, sink: Callable[[bytes], None]) -> None:
        with self.lock:
            self._sinks.remove(sink)

    def set_lines(self, dtr: bool, rts: bool) -> None:
        """Set both modem lines once they have settled, or data follows."""
        with self.lock:
            self._pending_lines = (dtr, rts, self.now() + LINES_SETTLE_S)

    def _apply_lines(self, at_once: bool = False) -> None:
        if self._pending_lines is not None and (at_once or self.now() >= self._pending_lines[2]):
            dtr, rts, _ = self._pending_lines
            self._pending_lines = None
            self.board.set_lines(dtr, rts, self.now())

    def press_reset(self, boot: bool = False) -> None:
        """Press the reset button, with the boot button held or not."""
        with self.lock:
            self.board.press_reset(self.now(), boot)

    def set_baud(self, baud: int) -> None:
        with self.lock:
            self.board.set_host_baud(baud)

    def send(self, data: bytes, was_waiting: bool = False) -> None:
        """Bytes from the host; returns when the line has carried them.

        `was_waiting`: the bytes arrived before the last ones had been carried, so the line was never idle; time that
        this computer lost in between is made up.
        """
        now = self.now()
        if not was_waiting or self._line_free_s < now - MAX_LAG_S:
            self._line_free_s = max(self._line_free_s, now)
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            self._line_free_s += len(piece) * BITS_PER_BYTE / self.board.host_baud
            # Sleeping overshoots by more than a piece takes, so it sleeps for the time of several pieces.
            ahead_s = self._line_free_s - self.now()
            if ahead_s > POLL_S or (ahead_s > 0 and at + PIECE_BYTES >= len(data)):
                time.sleep(ahead_s)
            with self.lock:
                self._apply_lines(at_once=True)
                self.board.receive(piece, self.now())
                self.received_bytes += len(piece)

    def _pump(self) -> None:
        try:
            self._follow_clock()
        except Exception as error:
            self.failure = error

    def _follow_clock(self) -> None:
        while not self._stopped.wait(POLL_S):
            with self.lock:
                self._apply_lines()
                data = self.board.take_output(self.now())
                sinks = list(self._sinks) if data else []
            for sink in sinks:
                sink(data)


class PtyLine:
    """The board on a pseudo-terminal; `path` is what programs open, `link` a fixed name for it."""

    def __init__(self, live: LiveBoard, link: Path | None = None):
        self.live = live
        self.master, self._slave = os.openpty()
        # The slave stays open here, because reading the master would fail if no process had it open.
        tty.setraw(self._slave)
        attributes = termios.tcgetattr(self._slave)
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
        fcntl.fcntl(self.master, fcntl.F_SETFL, os.O_NONBLOCK)
        self.path = os.ttyname(self._slave)
        self.link = link
        if link is not None:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(self.path)
        self._stopped = threading.Event()
        live.add_sink(self._out)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _out(self, data: bytes) -> None:
        # No process reads, so the bytes are lost, as on a wire.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self.master, data)

    def _read(self) -> None:
        while not self._stopped.is_set():
            was_waiting = bool(select.select([self.master], [], [], 0)[0])
            if not was_waiting and not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self.master, 4096)
            except OSError:
                continue
            baud = PTY_BAUDS.get(termios.tcgetattr(self.master)[5])
            if baud:
                self.live.set_baud(baud)
            self.live.send(data, was_waiting)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self.live.remove_sink(self._out)
        if self.link is not None:
            self.link.unlink(missing_ok=True)
        os.close(self.master)
        os.close(self._slave)


class _RemotePort:
    """Stands for the serial port in PortManager; its settings go to the board."""

    bytesize, parity, stopbits = 8, "N", 1
    xonxoff = rtscts = break_condition = False
    cts = dsr = cd = True
    ri = False

    def __init__(self, live: LiveBoard):
        self._live = live
        self._baud = CONSOLE_BAUD
        self._dtr = self._rts = False

    @property
    def baudrate(self) -> int:
        return self._baud

    @baudrate.setter
    def baudrate(self, baud: int) -> None:
        self._baud = baud
        self._live.set_baud(baud)

    @property
    def dtr(self) -> bool:
        return self._dtr

    @dtr.setter
    def dtr(self, on: bool) -> None:
        self._dtr = bool(on)
        self._live.set_lines(self._dtr, self._rts)

    @property
    def rts(self) -> bool:
        return self._rts

    @rts.setter
    def rts(self, on: bool) -> None:
        self._rts = bool(on)
        self._live.set_lines(self._dtr, self._rts)

    def reset_input_buffer(self) -> None:
        """Nothing is buffered here."""

    def reset_output_buffer(self) -> None:
        """Nothing is buffered here."""


class _Connection:
    def __init__(self, client: socket.socket):
        self._client = client
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._client.sendall(data)


class Rfc2217Line:
    """The board on a TCP port of this machine, one client at a time; port 0 means any free port."""

    def __init__(self, live: LiveBoard, port: int = 0):
        self.live = live
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The sender must notice the line's rate, so the kernel must not buffer megabytes.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        try:
            self._listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be opened ({error.strerror}); choose another: --port N") from None
        self._listener.listen(1)
        self.port = self._listener.getsockname()[1]
        self.url = f"rfc2217://127.0.0.1:{self.port}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            if not select.select([self._listener], [], [], 0.1)[0]:
                continue
            client, _ = self._listener.accept()
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._is_rfc2217(client):
                    self._talk(client)
            # The cable stays plugged in; a port that no program has open releases both lines.
            self.live.set_lines(False, False)

    def _talk(self, client: socket.socket) -> None:
        connection = _Connection(client)
        manager = PortManager(_RemotePort(self.live), connection)

        def out(data: bytes) -> None:
            connection.write(data.replace(IAC, IAC_DOUBLED))

        self.live.add_sink(out)
        try:
            while not self._stopped.is_set():
                was_waiting = bool(select.select([client], [], [], 0)[0])
                if not was_waiting and not select.select([client], [], [], 0.1)[0]:
                    continue
                data = client.recv(8192)
                if not data:
                    return
                self._take(manager, data, was_waiting)
        except OSError:
            return
        finally:
            self.live.remove_sink(out)

    def _is_rfc2217(self, client: socket.socket) -> bool:
        """Whether the first byte is telnet's, unlike that of a web browser or a person."""
        deadline_s = time.monotonic() + GREETING_S
        while not self._stopped.is_set() and time.monotonic() < deadline_s:
            if select.select([client], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    return bool(client.recv(1, socket.MSG_PEEK) == IAC)
                return False
        return False

    def _take(self, manager: PortManager, data: bytes, was_waiting: bool) -> None:
        """Data to the board, control to the port, in the order in which they came.

        PortManager's filter looks at each byte, which is too slow for 1.5 Mbaud, so it gets only the control
        sequences.
        """
        plain = bytearray()
        at = 0
        while at < len(data):
            if manager.mode == 0 and manager.suboption is None:
                control = data.find(IAC, at)
                if control < 0:
                    plain += data[at:]
                    break
                plain += data[at:control]
                at = control
                if data[at : at + 2] == IAC_DOUBLED:
                    plain += IAC
                    at += 2
                    continue
                self.live.send(bytes(plain), was_waiting)
                plain.clear()
            for byte in manager.filter(data[at : at + 1]):
                plain += byte
            at += 1
        self.live.send(bytes(plain), was_waiting)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._listener.close()
