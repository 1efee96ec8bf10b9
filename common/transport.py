"""A serial line as the tools use it: pyserial for a real port, an object of the board's for a simulated one.

Every wait goes through the transport, so that a simulated line can keep its own clock.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TextIO

from common.errors import UserError

CONSOLE_BAUD = 115200
BITS_PER_BYTE = 10
"""A byte takes this many bits on the line (8N1): a start bit, eight data bits and a stop bit."""
READ_SLICE_S = 0.02


LINE_ERRORS: tuple[type[Exception], ...] = (OSError,)
"""pyserial raises one of these when a port goes away while it is used."""
with contextlib.suppress(ImportError):  # on Windows
    import termios

    LINE_ERRORS += (termios.error,)
OPEN_ERRORS: tuple[type[Exception], ...] = (*LINE_ERRORS, ValueError)


class LineLostError(UserError):
    """The port itself went away: it was unplugged, or the simulator ended. Nothing more can be done on this line."""

    def __init__(self, port: str, cause: object):
        super().__init__(
            f"{port} went away ({cause}); plug it in again and run the same command: it continues where it stopped"
        )


class Transport(Protocol):
    """What the ISP and REPL clients need of a line."""

    name: str

    def write(self, data: bytes) -> None:
        """Send all of `data`; LineLostError if the port is gone."""

    def read(self, timeout_s: float) -> bytes:
        """Return whatever has arrived: at least one byte, unless `timeout_s` passes before."""

    def discard_input(self) -> None:
        """Discard what was received and has not been read."""

    def set_baud(self, baud: int) -> None:
        """Change the baud rate of this end of the line."""

    def set_lines(self, dtr: bool, rts: bool) -> None:
        """Set both modem lines; True is asserted, as in pyserial. DTR is set first."""

    def sleep(self, seconds: float) -> None:
        """Wait, by this line's clock."""

    def now(self) -> float:
        """Seconds on this line's clock."""

    def close(self) -> None:
        """Release the modem lines and close the port."""


class SerialTransport:
    """A pyserial port or URL (`rfc2217://…`, `socket://…`, `/dev/ttyUSB0`, a pseudo-terminal).

    DTR and RTS are released before the port is opened. pyserial would assert them, which holds some boards in reset. A
    pseudo-terminal has no modem lines; `has_lines` says whether there are any.
    """

    def __init__(self, port: str, baud: int = CONSOLE_BAUD):
        import serial

        self.name = port
        try:
            self._serial = serial.serial_for_url(port, baudrate=baud, timeout=READ_SLICE_S, do_not_open=True)
            self._serial.dtr = False
            self._serial.rts = False
            with contextlib.suppress(AttributeError, ValueError, NotImplementedError):
                self._serial.exclusive = True
            self._serial.open()
            self.has_lines = self._probe_lines()
        except OPEN_ERRORS as error:
            raise open_failure(port, error) from None

    def _probe_lines(self) -> bool:
        try:
            self._serial.dtr = False
            return not self.name.startswith("socket://")
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return False

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        try:
            yield
        except LINE_ERRORS as error:
            raise LineLostError(self.name, error) from None

    def write(self, data: bytes) -> None:
        with self._using():
            self._serial.write(data)
            self._serial.flush()

    def read(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        with self._using():
            # pyserial's own time-out is left alone: changing it sets up the whole port again, which takes 0.1 s by RFC
            # 2217.
            while not (first := self._serial.read(1)) and time.monotonic() < deadline:
                pass
            return first + self._serial.read(self._serial.in_waiting) if first else b""

    def discard_input(self) -> None:
        with self._using():
            while self._serial.in_waiting:
                self._serial.read(self._serial.in_waiting)

    def set_baud(self, baud: int) -> None:
        with self._using():
            try:
                self._serial.baudrate = baud
            except ValueError as error:
                raise UserError(f"{self.name}: {baud} baud refused by the port ({error}); try a lower one") from None

    def set_lines(self, dtr: bool, rts: bool) -> None:
        if not self.has_lines:
            return
        with self._using():
            self._serial.dtr = dtr
            self._serial.rts = rts

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        with contextlib.suppress(*LINE_ERRORS):
            self._serial.close()


class TracingTransport:
    """A transport around another one, which writes everything that passes to a text file."""

    def __init__(self, inner: Transport, out: TextIO):
        self.inner = inner
        self.name = inner.name
        self.has_lines = getattr(inner, "has_lines", True)
        self._out = out
        self._start_s = inner.now()

    def _note(self, mark: str, text: str) -> None:
        self._out.write(f"{self.inner.now() - self._start_s:10.4f} {mark} {text}\n")
        self._out.flush()

    def _bytes(self, mark: str, data: bytes) -> None:
        shown = data if len(data) <= 96 else data[:64]
        self._note(mark, f"{len(data):6d} {shown.hex(' ')}{'' if shown is data else ' …'}  {shown!r}")

    def write(self, data: bytes) -> None:
        self._bytes(">", data)
        self.inner.write(data)

    def read(self, timeout_s: float) -> bytes:
        data = self.inner.read(timeout_s)
        if data:
            self._bytes("<", data)
        return data

    def discard_input(self) -> None:
        self.inner.discard_input()

    def set_baud(self, baud: int) -> None:
        self._note("#", f"{baud} baud")
        self.inner.set_baud(baud)

    def set_lines(self, dtr: bool, rts: bool) -> None:
        self._note("#", f"DTR {int(dtr)} RTS {int(rts)}")
        self.inner.set_lines(dtr, rts)

    def sleep(self, seconds: float) -> None:
        self.inner.sleep(seconds)

    def now(self) -> float:
        return self.inner.now()

    def close(self) -> None:
        self._note("#", "closed")
        self.inner.close()


def open_failure(port: str, error: Exception) -> UserError:
    """The error for a port that cannot be opened: why, and what to do."""
    text = str(error)
    code = getattr(error, "errno", None)
    # pyserial tells Windows' numbers only in its text: PermissionError(13, '… in any language …', None, 5).
    numbers = re.search(r"\((\d+), .*, None, (\d+)\)", text)
    windows = int(numbers.group(2)) if numbers else getattr(error, "winerror", None)
    if windows in (31, 121):  # a device that does not work; a time-out in the driver
        return UserError(
            f"{port} is there but does not work (Windows error {windows}): install its driver anew (CH340, FTDI or "
            f"CP210x, from the maker), or use another cable or USB port"
        )
    if windows != 5 and (code == errno.EACCES or "Permission denied" in text):
        return UserError(
            f"{port}: no permission; add yourself to its group (sudo usermod -aG {_group_of(port)} $USER), "
            f"log out and in"
        )
    if windows == 5 or code in (errno.EBUSY, errno.EAGAIN) or "lock" in text or "busy" in text.lower():
        holder = _holder_of(port)
        return UserError(f"{port} is in use{f' by {holder}' if holder else ''}; close that program and try again")
    if windows in (2, 3) or code == errno.ENOENT or "No such file" in text or "FileNotFound" in text:
        return UserError(f"{port}: no such port; `python -m host_tools ports` lists those there are")
    if "://" in port:
        return UserError(f"{port} cannot be reached ({text}); is the simulated board or the port server running?")
    return UserError(f"{port} cannot be opened ({text}); check the cable and `python -m host_tools ports`")


def _group_of(port: str) -> str:
    """The group that may use a port: dialout, or uucp on some Linuxes."""
    try:
        group = Path(port).group()
    except (OSError, KeyError, NotImplementedError):
        group = "root"
    return "dialout" if group == "root" else group


def _holder_of(port: str) -> str:
    """`name (pid N)` of another process that has the port open, as far as /proc tells."""
    try:
        wanted = Path(port).resolve()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    if descriptor.resolve() == wanted:
                        name = (process / "comm").read_text(encoding="utf-8").strip()
                        return f"{name} (pid {process.name})"
    except OSError:
        pass
    return ""
