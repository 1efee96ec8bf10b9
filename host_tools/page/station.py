"""One board on the page: jobs on it, each in a thread of its own, and its live view between jobs.

A job opens the line, works, and leaves the board running; then the live view shows the board until the next job needs
the line. A job that fails says why in one line and does not disturb other boards.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.live_view import LiveView
from common.pictures import CAMERA_SIZE
from common.pose_lines import LONGEST_LINE_BYTES, LineCounters, LineSplitter, parse_line, poses_in
from common.skeleton import EDGES
from common.text import printable
from common.transport import CONSOLE_BAUD, LineLostError, SerialTransport, Transport
from host_tools import certify
from host_tools.board_link import RATES, start_target
from host_tools.bring_up import bring_up, start_poses
from host_tools.certify_html import render_page
from host_tools.commands.certify import ask_board
from host_tools.commands.diff import measure_pictures, open_engines, rendered_pictures
from host_tools.commands.info import ask as ask_facts
from host_tools.flashing import Flasher, Ui
from host_tools.isp_client import NoAnswerError
from host_tools.known_boards import ANY_BOARD, Port, board_named, wirings_for
from host_tools.live_page import WatchedBoard
from host_tools.payload import SETTINGS, Payload, own_files
from host_tools.repl import BoardRaisedError, ReplError
from model_build.build_folder import BuildFolder
from sim.live.board_page import WebView
from sim.live.line_server import LiveBoard
from sim.open_board import BoardChoice, open_session
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import open_camera

LOG_LINES = 60
DIFF_SCENES = 2


@dataclass(frozen=True)
class OpenLine:
    """An open line to a board, the reset wirings to try on it, and its port."""

    transport: Transport
    wirings: Sequence[str]
    port: Port | None = None


class Station(ABC):
    """A board on the page; `LineStation` and `SimulatedStation` are the two kinds."""

    kind = ""

    def __init__(self, key: str, title: str, detail: str):
        self.key, self.title, self.detail = key, title, detail
        self.state = "idle"
        self.doing = self.step = self.error = ""
        self.bar: tuple[str, int, int] | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.board = ANY_BOARD
        self.facts: dict[str, Any] | None = None
        self.settings: str | None = None
        self.report = ""
        self.view: LiveView | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._started_s = 0.0
        self.ui = Ui(self._step, self._detail, self._progress)

    # -- what each kind must do

    @abstractmethod
    def lines(self) -> Iterator[OpenLine]:
        """Lines to try in turn; each is closed before the next is opened."""

    @abstractmethod
    def go_live(self, flasher: Flasher) -> None:
        """Begin to show the board, which runs now; the view may keep the flasher's line."""

    @abstractmethod
    def go_quiet(self) -> None:
        """End the live view and release the line."""

    # -- what is shown

    def _step(self, text: str) -> None:
        self.step, self.bar = text, None
        self._detail(text)

    def _detail(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._started_s:6.1f} s  {printable(text)}")

    def _progress(self, what: str, done: int, total: int) -> None:
        self.bar = what, done, total

    def to_dict(self) -> dict[str, Any]:
        """The board's state as the page's script reads it."""
        return {
            "key": self.key, "title": self.title, "detail": self.detail, "kind": self.kind, "state": self.state,
            "doing": self.doing, "step": self.step, "bar": self.bar, "log": list(self.log), "error": self.error,
            "facts": self.facts, "settings": self.settings, "live": self.view is not None,
            "has_report": bool(self.report),
        }  # fmt: skip

    # -- jobs

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def check_free(self) -> None:
        """UserError if a job is running."""
        if self.is_busy:
            raise UserError(f"{self.title} is still busy: {self.doing}")

    def start(self, doing: str, job: Callable[[Flasher, OpenLine], None]) -> None:
        """Begin a job; UserError if another one runs."""
        with self._lock:
            self.check_free()
            self.state, self.doing, self.error, self.step, self.bar = "working", doing, "", "opening the line", None
            self.log.clear()
            self._started_s = time.monotonic()
            self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait until the job has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, job: Callable[[Flasher, OpenLine], None]) -> None:
        try:
            self.go_quiet()
            self._on_lines(job)
            self.state, self.bar = "live", None
        except LineLostError:
            self.fail(said_of_a_lost_line(self.title))
        except UserError as error:
            self.fail(str(error))
        except (ReplError, BoardRaisedError) as trouble:
            self.fail(f"the board does not answer as MaixPy does ({trouble}); press its RESET and try again")
        except Exception as error:  # a bug: the page shows it
            self.fail(f"this is a fault in the program: {type(error).__name__}: {error}")

    def _on_lines(self, job: Callable[[Flasher, OpenLine], None]) -> None:
        silent: NoAnswerError | None = None
        for line in self.lines():
            flasher = Flasher(line.transport, line.wirings, ui=self.ui, manual_wait_s=20, board=self.board)
            try:
                job(flasher, line)
                self.go_live(flasher)
                return
            except NoAnswerError as error:
                line.transport.close()
                silent = silent or error
            except BaseException:
                with contextlib.suppress(UserError, OSError):
                    line.transport.close()
                raise
        raise silent or UserError(f"{self.title} has no serial port that can be opened")

    def fail(self, text: str) -> None:
        """The job or the live view has failed, for this reason."""
        self.error, self.state, self.bar = printable(text), "failed", None
        self._detail(text)

    def look(self) -> None:
        """Begin to read what is on the board."""

        def job(flasher: Flasher, line: OpenLine) -> None:
            self.ui.step("looking at the board")
            self.facts = ask_facts(flasher, restart=False)
            self.settings = read_settings(flasher)
            flasher.repl.start_main()

        self.start("looking", job)

    def flash(self, payload: Callable[[Ui], Payload], board: str = "auto") -> None:
        """Begin to put a payload on a board of this kind (known_boards.BOARDS); the job ends with the first poses."""
        if not self.is_busy:
            self.board = board_named(board)

        def job(flasher: Flasher, line: OpenLine) -> None:
            wanted = payload(self.ui)
            bring_up(flasher, wanted, self.board.name, line.port)
            self.facts = None
            if wanted.files:
                start_poses(flasher, wanted, self.board.name, self._first_pose)
            self.step = "it shows poses" if wanted.files else "written and verified"

        self.start("flashing", job)

    def _first_pose(self, text: str) -> bool:
        if text.startswith("posenet: "):
            self._detail(text)
        return poses_in(text) is not None

    def restore(self) -> None:
        """Begin to remove our files from the board and bring back what was there before."""

        def job(flasher: Flasher, line: OpenLine) -> None:
            flasher.restore(own_files())
            self.facts = self.settings = None
            self.step = "our files are off the board"

        self.start("undoing", job)

    def write_settings(self, data: bytes) -> None:
        """Begin to write settings.json; the board then starts again."""

        def job(flasher: Flasher, line: OpenLine) -> None:
            self.ui.step("writing settings.json")
            if not flasher.reach_repl():
                raise UserError("MaixPy does not answer, so settings.json cannot be written; press RESET and try again")
            flasher.repl.install({SETTINGS: data}, flasher.repl.info())
            self.settings = read_settings(flasher)
            flasher.repl.start_main()
            self.step = "settings.json is written; the board runs with it"

        self.start("settings", job)

    def diff(self, build: Callable[[Ui], Path]) -> None:
        """Begin to compare the board with the simulator, stage by stage; `report` becomes a page."""

        def job(flasher: Flasher, line: OpenLine) -> None:
            folder = BuildFolder(build(self.ui))
            manifest = folder.load_manifest()
            engines = open_engines(folder, folder.tflite.is_file())
            pictures = rendered_pictures(DIFF_SCENES, manifest.width, manifest.height)
            self.ui.step("starting the measurement on the board")
            link = start_target(line.transport, self.ui.detail)
            try:
                link.speed_up(RATES[0])
                outcome = measure_pictures(link, folder, [*pictures, ("camera frame", None)], engines, self.ui.step)
            finally:
                link.close()
            self.report = outcome.page()
            self._restart(flasher)
            equal = all(result.first_fault is None for result in outcome.results)
            self.step = "every stage of every picture is equal" if equal else "something differs: see the report"

        self.start("comparing", job)

    def certify(self, folder: Path) -> None:
        """Begin to ask what only a chip can tell; `report` becomes a page."""

        def job(flasher: Flasher, line: OpenLine) -> None:
            self.ui.step("asking the board what only a board can tell")
            progress = certify.Progress(folder / "state.json")
            progress = ask_board(line.transport, progress, RATES[0], not isinstance(line.transport, BoardTransport))
            self.report = render_page(certify.conclude(progress))
            self._restart(flasher)
            self.step = "the board is certified: see the report"

        self.start("certifying", job)

    @staticmethod
    def _restart(flasher: Flasher) -> None:
        flasher.transport.set_baud(CONSOLE_BAUD)
        if flasher.reach_repl():
            flasher.repl.start_main()

    def close(self) -> None:
        """Release the board."""
        self.go_quiet()


def said_of_a_lost_line(name: str) -> str:
    """What to do after a cable was pulled."""
    return (
        f"the cable of {name} was pulled, or the board lost its power supply. Plug it in again and press the same "
        f"button: it continues where it stopped"
    )


def read_settings(flasher: Flasher) -> str:
    """settings.json of the board; empty if there is none."""
    if flasher.repl.file_states([SETTINGS])[SETTINGS] is None:
        return ""
    return printable(str(flasher.repl.ask(f"_r = open({SETTINGS!r}).read()")))[:LONGEST_LINE_BYTES]


class LineStation(Station):
    """A board at the serial ports of one adapter, or at a URL. Its live view reads the console."""

    kind = "port"

    def __init__(self, key: str, title: str, detail: str, ports: Sequence[Port] = (), device: str = ""):
        super().__init__(key, title, detail)
        self.ports = list(ports)
        self._device = device
        self._transport: Transport | None = None
        self._flasher: Flasher | None = None
        self._quiet = threading.Event()
        self._reader: threading.Thread | None = None

    def lines(self) -> Iterator[OpenLine]:
        if self._device:
            yield OpenLine(SerialTransport(self._device), wirings_for(self.board, None))
        for port in self.ports:
            yield OpenLine(SerialTransport(port.device), wirings_for(self.board, port), port)

    def go_live(self, flasher: Flasher) -> None:
        self._flasher, self._transport = flasher, flasher.transport
        watched = WatchedBoard(self.title, EDGES, CONSOLE_BAUD)
        self.view = LiveView(watched, LineControls(flasher), port=None)
        self._quiet.clear()
        arguments = (self._transport, watched, self.view)
        self._reader = threading.Thread(target=self._read, args=arguments, daemon=True)
        self._reader.start()

    def _read(self, transport: Transport, watched: WatchedBoard, view: LiveView) -> None:
        counters, splitter = LineCounters(), LineSplitter()
        try:
            transport.set_baud(CONSOLE_BAUD)
            while not self._quiet.is_set():
                data = transport.read(0.2)
                view.hear(data)
                for line in splitter.lines(data):
                    self._count(line, counters, watched)
        except UserError as error:
            self.view = None
            lost = isinstance(error, LineLostError)
            self.fail(said_of_a_lost_line(self.title) if lost else str(error))
            transport.close()

    @staticmethod
    def _count(text: str, counters: LineCounters, watched: WatchedBoard) -> None:
        try:
            line = parse_line(text)
        except UserError:
            counters.crc_errors += 1
            return
        if line is None:
            return
        counters.take(line)
        counted = {"fps": round(counters.fps, 1), "frames": counters.frames, "dropped": counters.dropped}
        watched.show(CAMERA_SIZE, line.poses, counted, None)

    def go_quiet(self) -> None:
        self._quiet.set()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(5)
        self.view = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class LineControls:
    """Keys and reset of a board at a serial port (`common.live_view.Controls`)."""

    source = ""

    def __init__(self, flasher: Flasher):
        self._flasher = flasher

    def sources(self) -> list[str]:
        return []

    def choose(self, source: str) -> None:
        raise UserError("this board has a camera of its own")

    def type(self, text: str) -> None:
        self._flasher.transport.write(text.encode("utf-8", "replace"))

    def reset(self, boot: bool) -> None:
        if boot:
            raise UserError("hold the board's BOOT button and press its RESET by hand")
        self._flasher.isp.boot_by_lines()


class SimulatedStation(Station):
    """A simulated board in this process. Jobs use its own clock, which skips waiting; the live view runs in real
    time."""

    kind = "sim"

    def __init__(self, key: str, title: str, folder: Path, faults: Sequence[str] = ()):
        super().__init__(key, title, "a simulated board: nothing needs to be connected")
        self.session = open_session(BoardChoice("sim", faults=list(faults)), folder, open_camera("scene:7"))
        if self.session.note:
            self.detail += "; " + self.session.note
        self._page = self.session.page()
        self._live: LiveBoard | None = None

    def lines(self) -> Iterator[OpenLine]:
        yield OpenLine(BoardTransport(self.session.board, self.title), wirings_for(self.board, None))

    def go_live(self, flasher: Flasher) -> None:
        self.session.board.power_off()
        self._live = LiveBoard(self.session.board)
        self.view = WebView(self._live, self._page, port=None)
        self._live.start()

    def go_quiet(self) -> None:
        view, self.view = self.view, None
        if self._live is not None:
            self._live.stop()
            self._live = None
        if view is not None:
            view.close()

    def close(self) -> None:
        self.go_quiet()
        self.session.close()
