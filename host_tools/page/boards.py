"""The server part of the page's "Flash" and "Watch": which boards there are, and requests to work with them."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.cli import parse_size
from common.errors import UserError
from common.page_server import Answer, Handler, Request
from common.text import ROOT
from host_tools import package
from host_tools.flashing import Ui
from host_tools.known_boards import BOARDS, Port, board_named, check_port, serial_ports, why_no_port
from host_tools.page import settings_form
from host_tools.page.station import LineStation, SimulatedStation, Station
from host_tools.page.try_view import names_offered
from host_tools.payload import Payload, build_folder, payload_of
from model_build import catalog
from model_build.rotation import MOUNTS
from sim.parts.session import BoardInUseError

LOOK_AGAIN_S = 2.0
MOST_SIMULATED = 8


@dataclass(frozen=True)
class Order:
    """What to put on boards: a network at a size, and a MaixPy or none."""

    network: str
    size: str
    mount: int
    firmware: str
    board: str = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Order:
        """An order from a request; UserError if it asks for something that is not offered."""
        network, size, firmware = (values.get(name) for name in ("network", "size", "firmware"))
        mount = values.get("mount")
        if network not in names_offered() or not isinstance(size, str):
            raise UserError(f"no network is called {network!r:.40}; known networks: {', '.join(names_offered())}")
        parse_size(size)
        if firmware not in ("none", *(entry.name for entry in catalog.FIRMWARE)):
            raise UserError(f"no MaixPy is called {firmware!r:.40}")
        if mount not in MOUNTS:
            raise UserError(f"mount is {mount!r:.40}; it can be {', '.join(map(str, MOUNTS))}")
        return cls(str(network), size, int(mount), str(firmware), board_named(str(values.get("board", "auto"))).name)


class Payloads:
    """Makes the payload of an order, once for all boards that wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def get(self, order: Order, ui: Ui) -> Payload:
        """The payload, whose network is built if it is missing; one thread builds while the others wait."""
        with self._lock:
            return payload_of(order.network, order.size, order.firmware, None, ui, mount=order.mount)

    def build(self, order: Order, ui: Ui) -> Path:
        """The build folder of the network alone."""
        with self._lock:
            return build_folder(order.network, parse_size(order.size), None, ui, order.mount)


class Boards:
    """All boards of the page."""

    def __init__(
        self,
        folder: Path = ROOT / "build",
        find_ports: Callable[[], list[Port]] = serial_ports,
        payloads: Payloads | None = None,
    ):
        """folder: where simulated boards store their memory."""
        self._folder = folder
        self._find_ports = find_ports
        self._stations: dict[str, Station] = {}
        self._lock = threading.Lock()
        self._looked_s = -LOOK_AGAIN_S
        self._why_none = ""
        self.payloads = payloads or Payloads()
        self._plans: dict[Order, dict[str, Any] | UserError] = {}
        self._planning: dict[Order, str] = {}

    def handlers(self) -> dict[str, Handler]:
        """The handlers for common.page_server.PageServer."""
        commands = {"look": self._look, "restore": self._restore, "diff": self._diff, "certify": self._certify}
        handlers: dict[str, Handler] = {
            "GET /boards": lambda request: Answer.json(self.to_dict()),
            "POST /boards/add": self.add,
            "POST /boards/remove": self.remove,
            "POST /boards/flash": self.flash,
            "POST /boards/plan": self.plan,
            "POST /boards/package": self.package,
            "POST /boards/settings": self.write_settings,
            "GET /boards/report": lambda request: Answer(
                self._asked(request).report.encode("utf-8", "replace"), "text/html; charset=utf-8"
            ),
            "GET /settings": lambda request: Answer.json(settings_form.fields()),
            "GET /kinds": lambda request: Answer.json([[kind.name, kind.title] for kind in BOARDS.values()]),
            "GET /firmware": lambda request: Answer.json([[entry.name, entry.what] for entry in catalog.FIRMWARE]),
        }
        handlers |= {f"POST /boards/{name}": partial(self._command, command) for name, command in commands.items()}
        seen = ("GET /state", "GET /lcd.png", "POST /keys", "POST /camera", "POST /reset")
        return handlers | {path: partial(self._seen, path) for path in seen}

    def close(self) -> None:
        """Release all boards."""
        for station in list(self._stations.values()):
            station.close()

    # -- which boards there are

    def to_dict(self) -> dict[str, Any]:
        """All boards; looks for ports again every few seconds."""
        with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_AGAIN_S:
                self._looked_s = time.monotonic()
                self._look_for_ports()
            return {"boards": [one.to_dict() for one in self._stations.values()], "why_none": self._why_none}

    def _look_for_ports(self) -> None:
        found = {station.key: station for station in stations_at(self._find_ports())}
        for key, station in found.items():
            self._stations.setdefault(key, station)
        for key, known in list(self._stations.items()):
            if isinstance(known, LineStation) and known.ports and key not in found and known.state == "idle":
                del self._stations[key]
        self._why_none = "" if found else why_no_port()

    def station(self, key: str) -> Station:
        """The board with this key; UserError if there is none."""
        station = self._stations.get(key)
        if station is None:
            raise UserError(f"the board {key!r:.60} is not here any more")
        return station

    def add(self, request: Request) -> Answer:
        """Add a board: {"kind": "sim"}, or {"port": a port's name or URL}."""
        values = request.json()
        with self._lock:
            if values.get("kind") == "sim":
                return Answer.json(self.add_simulated().to_dict())
            device = values.get("port")
            if not isinstance(device, str) or not device.strip():
                raise UserError("name a port, for example /dev/ttyUSB0, COM3 or rfc2217://…")
            device = device.strip()
            check_port(device, self._find_ports())
            if device not in self._stations:
                self._stations[device] = station_at(device)
            return Answer.json(self._stations[device].to_dict())

    def add_simulated(self, faults: tuple[str, ...] = ()) -> Station:
        """Add a simulated board, whose memory is a folder under build/."""
        for number in range(1, MOST_SIMULATED + 1):
            key = f"sim-{number}"
            if key in self._stations:
                continue
            # A page in another process may have that board: this one takes the next.
            with contextlib.suppress(BoardInUseError):
                station = SimulatedStation(
                    key, f"Simulated board {number}", self._folder / f"page-board-{number}", faults
                )
                self._stations[key] = station
                return station
        raise UserError(f"{MOST_SIMULATED} simulated boards are the most that can run at once; remove one first")

    def remove(self, request: Request) -> Answer:
        """Remove a board from the page."""
        station = self.station(_key(request.json()))
        station.check_free()
        station.close()
        with self._lock:
            self._stations.pop(station.key, None)
        return Answer.json({})

    # -- working with them

    def flash(self, request: Request) -> Answer:
        """Flash several boards at once: {"keys": […], and the order's values}."""
        values = request.json()
        order = Order.of(values)
        keys = values.get("keys")
        if not isinstance(keys, list) or not keys:
            raise UserError("choose a board first")
        stations = [self.station(str(key)) for key in keys]
        for station in stations:
            station.check_free()
        for station in stations:
            station.flash(lambda ui: self.payloads.get(order, ui), order.board)
        return Answer.json({})

    def package(self, request: Request) -> Answer:
        """An order as one .kfpkg for other flashers, as `flash.py --kfpkg` writes it."""
        order = Order.of(request.json())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "poses.kfpkg"
            package.write(path, self.payloads.get(order, Ui()), order.board)
            return Answer(path.read_bytes(), "application/octet-stream")

    def plan(self, request: Request) -> Answer:
        """What an order writes to a board; {"wait": words} while its network is being built."""
        order = Order.of(request.json())
        with self._lock:
            made = self._plans.pop(order, None)
            if made is None and order not in self._planning:
                self._planning[order] = "looking for the network"
                threading.Thread(target=self._make_plan, args=(order,), daemon=True).start()
            words = self._planning.get(order, "")
        if isinstance(made, UserError):
            raise made
        return Answer.json(made if made is not None else {"wait": words})

    def _make_plan(self, order: Order) -> None:
        def say(text: str) -> None:
            self._planning[order] = text

        made: dict[str, Any] | UserError
        try:
            payload = self.payloads.get(order, Ui(step=say, detail=say))
            parts = [
                {"name": part.name, "address": f"0x{part.address_bytes:06X}", "bytes": len(part.data)}
                for part in payload.wanted.flash_parts
            ]
            made = {"parts": parts, "files": len(payload.files), "bytes": sum(map(len, payload.files.values()))}
        except UserError as error:
            made = error
        with self._lock:
            self._plans[order] = made
            del self._planning[order]

    def write_settings(self, request: Request) -> Answer:
        """Write settings.json: {"key": board, "settings": {…}}."""
        values = request.json()
        data = settings_form.checked(values.get("settings"))
        self.station(_key(values)).write_settings(data)
        return Answer.json({})

    def _command(self, command: Any, request: Request) -> Answer:
        values = request.json()
        command(self.station(_key(values)), values)
        return Answer.json({})

    def _look(self, station: Station, values: Mapping[str, Any]) -> None:
        station.look()

    def _restore(self, station: Station, values: Mapping[str, Any]) -> None:
        station.restore()

    def _diff(self, station: Station, values: Mapping[str, Any]) -> None:
        order = Order.of(values)
        station.diff(lambda ui: self.payloads.build(order, ui))

    def _certify(self, station: Station, values: Mapping[str, Any]) -> None:
        station.certify(self._folder / "certify" / "page")

    # -- watching them

    def _asked(self, request: Request) -> Station:
        return self.station(request.query.get("board", ""))

    def _seen(self, path: str, request: Request) -> Answer:
        station = self._asked(request)
        if station.view is None:
            raise UserError(station.error or f"{station.title} shows nothing yet; look at it or flash it first")
        return station.view.handlers[path](request)


def stations_at(ports: Sequence[Port]) -> list[LineStation]:
    """One board for each USB adapter that may be a board's."""
    adapters: dict[tuple[str, str, str], list[Port]] = {}
    for port in ports:
        if port.bridge:
            adapters.setdefault(port.adapter, []).append(port)
    made = []
    for group in adapters.values():
        kinds = " or ".join(board.title for board in group[0].boards) or group[0].bridge
        devices = ", ".join(port.device for port in group)
        detail = f"{kinds} (USB {group[0].usb_id}; {devices})"
        made.append(LineStation(group[0].key, group[0].device, detail, group))
    return made


def station_at(device: str) -> LineStation:
    """A board at a port that the user named, which may be a URL."""
    return LineStation(device, device, "a port that you named", device=device)


def _key(values: Mapping[str, Any]) -> str:
    key = values.get("key")
    if not isinstance(key, str):
        raise UserError("the request names no board")
    return key
