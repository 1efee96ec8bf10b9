"""The known boards: their USB ids, wiring of DTR and RTS, and rates; and the choice made last time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import near
from common.errors import UserError
from common.files import write_atomic
from common.wiring import AUTOMATIC
from host_tools.isp_client import BAUD_FALLBACK
from model_build.catalog import (
    AMIGO_MAIXPY,
    CANMV,
    DNK210_CANMV,
    LILYGO_M1_MAIXPY,
    M5STICKV_MAIXPY,
    MINIMUM_MAIXPY,
    TWATCH_MAIXPY,
)
from sim.open_board import KINDS

BRIDGE_VENDORS = {
    0x1A86: "WCH CH340/CH552", 0x0403: "FTDI or CH552", 0x067B: "Prolific", 0x10C4: "Silicon Labs CP210x",
    0xC251: "CMSIS-DAP", 0x0D28: "DAPLink",
}  # fmt: skip
"""USB vendors of the bridges found on K210 boards (kflash.py's list)."""
FTDI_DOUBLE = (0x0403, 0x6010)
"""The bridge with two ports, FT2232H."""
BRLTTY_RULES = tuple(
    Path(folder) / name
    for folder in ("/usr/lib/udev/rules.d", "/lib/udev/rules.d")
    for name in ("85-brltty.rules", "90-brltty-device.rules", "90-brltty-usb-generic.rules")
)
ANY_MAIXPY_REMEDY = f"put a current one on it: --firmware {MINIMUM_MAIXPY}"


@dataclass(frozen=True)
class BoardKind:
    """One kind of board. `usb` lists (vendor, product); `port_index` is the K210's port of a bridge with two."""

    name: str
    title: str
    usb: tuple[tuple[int, int], ...]
    wirings: tuple[str, ...]
    port_index: int = 0
    bauds: tuple[int, ...] = BAUD_FALLBACK
    own_maixpy: str = ""
    """What to give as --firmware for this board, as the end of a sentence; empty: Sipeed's build for several boards."""

    @property
    def maixpy_remedy(self) -> str:
        """A text that tells how this board gets a MaixPy."""
        if self.own_maixpy:
            return f"put the build for {self.title} on it: --firmware {self.own_maixpy}"
        return ANY_MAIXPY_REMEDY


# USB ids and wiring of bit, dock, go and maixduino: kflash.py and PlatformIO's board files. The others are sold
# with the bridges named here and are tried with the likely wiring first, then with the rest.
BOARDS = {
    board.name: board
    for board in (
        BoardKind("bit", "Sipeed Maix Bit", ((0x1A86, 0x7523), (0x1A86, 0x7522)), ("dan", "kd233")),
        BoardKind("bit-mic", "Sipeed Maix Bit with microphone", ((0x1A86, 0x7523), (0x1A86, 0x7522)), ("kd233", "dan")),
        BoardKind("dock", "Sipeed Maix Dock (M1, M1W)", ((0x1A86, 0x7523),), ("dan",)),
        BoardKind("go", "Sipeed Maix Go", (FTDI_DOUBLE, (0xC251, 0xF001)), ("kd233", "goD"), port_index=1),
        BoardKind("maixduino", "Sipeed Maixduino", (FTDI_DOUBLE,), ("kd233",)),
        BoardKind(
            "m5stickv",
            "M5Stack M5StickV, UnitV",
            ((0x0403, 0x6001),),
            ("kd233", "dan"),
            own_maixpy=f"{M5STICKV_MAIXPY}, or maixpy_…_m5stickv.bin of MaixPy's releases",
        ),
        BoardKind(
            "amigo",
            "Sipeed Maix Amigo",
            (FTDI_DOUBLE,),
            ("kd233", "dan"),
            own_maixpy=f"{AMIGO_MAIXPY}, or maixpy_…_amigo….bin of MaixPy's releases",
        ),
        BoardKind("cube", "Sipeed Maix Cube", (FTDI_DOUBLE,), ("kd233", "dan")),
        BoardKind("trainer", "Maix trainer", (FTDI_DOUBLE,), ("dan",)),
        BoardKind("kd233", "Kendryte KD233", ((0x0403, 0x6001), (0x10C4, 0xEA60)), ("kd233",)),
    )
}
ANY_BOARD = BoardKind(
    "auto",
    "your board",
    (),
    AUTOMATIC,
    own_maixpy=f"{MINIMUM_MAIXPY} for Bit, Dock, Go, Maixduino and Cube, {M5STICKV_MAIXPY} for M5StickV and UnitV, "
    f"{AMIGO_MAIXPY} for an Amigo, {TWATCH_MAIXPY}, {LILYGO_M1_MAIXPY}, {CANMV} or {DNK210_CANMV}",
)


@dataclass(frozen=True)
class Port:
    """A serial port that may lead to a board."""

    device: str
    description: str
    vendor: int | None
    product: int | None
    serial_number: str
    location: str

    @property
    def usb_id(self) -> str:
        return f"{self.vendor:04x}:{self.product:04x}" if self.vendor is not None else "-"

    @property
    def bridge(self) -> str:
        return BRIDGE_VENDORS.get(self.vendor or 0, "")

    @property
    def boards(self) -> list[BoardKind]:
        """The boards that have such a bridge."""
        return [board for board in BOARDS.values() if (self.vendor, self.product) in board.usb]

    @property
    def _split(self) -> tuple[str, str]:
        """(serial number, channel). Windows appends A and B to one serial number for the two ports of an FTDI bridge,
        Linux appends the number of the USB interface to the place."""
        interface = self.location.partition(":")[2]
        is_numbered = interface and not interface.startswith("x")  # 1.0, 1.1; Windows gives x.0 for both
        if (self.vendor, self.product) == FTDI_DOUBLE and self.serial_number[-1:] in ("A", "B") and not is_numbered:
            return self.serial_number[:-1], self.serial_number[-1]
        return self.serial_number, interface

    @property
    def adapter(self) -> tuple[str, str, str]:
        """A key that is equal for all ports of one adapter."""
        return self.usb_id, self._split[0], self.location.partition(":")[0]

    @property
    def key(self) -> str:
        """A name of the port that lasts: the adapter's serial number, or otherwise its place; and the channel."""
        serial_number, channel = self._split
        place = serial_number or self.location.partition(":")[0] or self.device
        return f"{self.usb_id} {place} {channel}".rstrip()


def serial_ports(found: Sequence[Any] | None = None) -> list[Port]:
    """All serial ports of this computer, those with a K210's bridge first."""
    if found is None:
        import serial.tools.list_ports

        found = serial.tools.list_ports.comports()
    ports = [
        Port(info.device, info.description or "", info.vid, info.pid, info.serial_number or "", info.location or "")
        for info in found
    ]
    return sorted(ports, key=lambda port: (not port.boards, not port.bridge, _by_number(port.device)))


def check_port(device: str, ports: Sequence[Port]) -> None:
    """UserError if `device` is neither a URL nor a port of this computer."""
    names = [port.device for port in ports]
    if "://" in device or device in names or Path(device).exists():
        return
    there = ", ".join(names) or "none; is the board plugged in, with a cable that carries data?"
    raise UserError(f"{device}: no such port{near(device, names)}; ports here: {there}")


def _by_number(device: str) -> list[tuple[int, str]]:
    """A sort key that puts ttyUSB9 before ttyUSB10."""
    return [(int(part or 0), "") if index % 2 else (0, part) for index, part in enumerate(re.split(r"(\d+)", device))]


# -- what was chosen last time -------------------------------------------------------------------------------


def memory_path() -> Path:
    """The path $XDG_CONFIG_HOME/maix-posenet/boards.json."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "maix-posenet" / "boards.json"


def remembered(port: Port) -> dict[str, str]:
    """What is known about this adapter: {"board": …, "wiring": …}."""
    try:
        entry = json.loads(memory_path().read_text(encoding="utf-8"))[port.key]
        return {str(key): str(value) for key, value in entry.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def remember(port: Port, board: str, wiring: str) -> None:
    """Remember what worked; if the file cannot be written, nothing is remembered."""
    try:
        known = json.loads(memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    known[port.key] = {"board": board, "wiring": wiring}
    try:
        write_atomic(memory_path(), json.dumps(known, indent=1, sort_keys=True) + "\n")
    except OSError:
        return


def board_named(name: str) -> BoardKind:
    """The board of this name; ANY_BOARD for `auto`."""
    if name == "auto":
        return ANY_BOARD
    if name not in BOARDS:
        known = ["auto", *KINDS, *BOARDS]
        hint = near(name, known)
        raise UserError(f"no board is called {name!r}{hint}; known boards: {', '.join(known)}", exit_code=2)
    return BOARDS[name]


def choose_port(board: BoardKind, ports: Sequence[Port]) -> tuple[Port, str]:
    """The port to use and why; UserError if there is none, or several equally good ones."""
    likely = [port for port in ports if port.boards] or [port for port in ports if port.bridge]
    if board is not ANY_BOARD:
        likely = [port for port in ports if board in port.boards] or likely
    if not likely:
        others = ", ".join(port.device for port in ports) or "none at all"
        cause = why_no_port()
        raise UserError(
            f"no board is connected (serial ports: {others}); "
            + (cause or "plug it in with a cable that carries data, install its driver, or name the port: --port PORT")
        )
    known = [port for port in likely if remembered(port)]
    if len(known) == 1 and len(likely) > 1:
        return known[0], "used last time"
    if len({port.adapter for port in likely}) == 1 and len(likely) > 1:
        index = min(board.port_index, len(likely) - 1)
        return likely[index], f"port {index + 1} of the board's double bridge"
    if len(likely) > 1:
        listed = ", ".join(f"{port.device} ({port.usb_id})" for port in likely)
        raise UserError(f"several boards are connected: {listed}; choose one with --port PORT", exit_code=2)
    why = " or ".join(candidate.name for candidate in likely[0].boards) or likely[0].bridge
    return likely[0], f"USB {likely[0].usb_id}: {why}"


def other_channels(port: Port, ports: Sequence[Port]) -> list[Port]:
    """The other ports of the same adapter: where the board may be if it does not answer on this one."""
    return [other for other in ports if other != port and other.bridge and other.adapter == port.adapter]


def why_no_port(usb: Path = Path("/sys/bus/usb/devices"), rules: Sequence[Path] = BRLTTY_RULES) -> str:
    """On Linux, if a bridge is plugged in and has no port: which program took it, and what to do; otherwise empty."""
    for device in sorted(usb.glob("*/idVendor")):
        try:
            vendor, product = (
                int((device.parent / name).read_text(encoding="utf-8"), 16) for name in ("idVendor", "idProduct")
            )
        except (OSError, ValueError):
            continue
        if vendor not in BRIDGE_VENDORS or any(device.parent.glob("*/tty*")):
            continue
        found = f"USB {vendor:04x}:{product:04x} ({BRIDGE_VENDORS[vendor]}) is there and has no serial port: "
        if any(rule.exists() for rule in rules):
            return found + "brltty, for braille displays, takes it; sudo apt remove brltty, then plug it in again"
        return found + (
            "its driver is not loaded (sudo modprobe ch341 ftdi_sio cp210x, each in turn), or this is a container that "
            "was not given the device"
        )
    return ""


def wirings_for(board: BoardKind, port: Port | None) -> tuple[str, ...]:
    """Wirings to try, the one that worked last first."""
    last = remembered(port).get("wiring") if port is not None else None
    order = list(board.wirings) + [name for name in AUTOMATIC if name not in board.wirings]
    if last in order:
        order.remove(last)
        order.insert(0, last)
    return tuple(order)
