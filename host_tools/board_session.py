"""The board that a command talks to over the link: at a serial port, or simulated in this process."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR
from common.text import ROOT, printable, runnable
from common.transport import LineLostError, SerialTransport, TracingTransport, Transport
from host_tools.board_link import RATES, BoardLink, start_target
from host_tools.known_boards import board_named, choose_port, serial_ports
from host_tools.payload import SETTINGS
from host_tools.repl import STARTS, Note
from model_build.build_folder import BuildFolder
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.boards.simulated_session import SimulatedSession
from sim.open_board import FOLDERS, BoardChoice, open_session
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import scene_camera

EMULATED_FOLDER = ROOT / FOLDERS["emu"]
"""`flash.py --board emu` keeps its board here."""

BOOT_S = 6.0
"""A simulated or emulated board has this much of its own time to reach its prompt or to start our program."""


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --port, --board, --state, --baud and --trace."""
    parser.add_argument("--port", help="serial port or URL of the board (default: the only one found)")
    parser.add_argument(
        "--board", default="auto", help="kind of board; `sim`: simulated; `emu`: that of flash.py (default: auto)"
    )
    parser.add_argument(
        "--state", type=Path, default=EMULATED_FOLDER, metavar="DIR", help="folder of the emulated board"
    )
    parser.add_argument(
        "--chip", type=Path, metavar="FILE", help="sim, emu: its chip does as this silicon profile says"
    )
    parser.add_argument(
        "--baud", type=int, default=RATES[0], help=f"fastest rate to try for the data (default: {RATES[0]})"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write everything that passes the line to FILE")


def say(text: str) -> None:
    """Write a remark to stderr, beside the output."""
    print(printable(runnable(text)), file=sys.stderr)


@contextlib.contextmanager
def open_board(arguments: argparse.Namespace, build: Path | None, note: Note = say) -> Iterator[BoardLink]:
    """A board with target.py running, at the fastest rate that works; back at its prompt afterwards.

    `build` is the build folder that a simulated board carries. UserError (exit 2) if no board answers.
    """
    with contextlib.ExitStack() as stack:
        transport = stack.enter_context(open_transport(arguments, build))
        if arguments.trace:
            transport = TracingTransport(transport, stack.enter_context(arguments.trace.open("w", encoding="utf-8")))
        link = start_target(transport, note)
        stack.callback(link.close)
        link.speed_up(arguments.baud)
        yield link


@contextlib.contextmanager
def open_transport(
    arguments: argparse.Namespace, build: Path | None, live: bool = False, needs_network: bool = True
) -> Iterator[Transport]:
    """The line to the board that --port and --board name; UserError (exit 2) if there is none.

    live: a simulated board runs main.py and prints its pose lines. needs_network: without a build there is no
    simulated board.
    """
    if arguments.board == "sim" and not arguments.port:
        if build is None and needs_network:
            raise UserError("a simulated board needs --build DIR, the build of the network to put on it", exit_code=2)
        prepare = _start_main if live else lambda session: None
        with simulated_board(build, prepare, chip_of(arguments)) as transport:
            yield transport
        return
    if arguments.board == "emu" and not arguments.port:
        yield emulated_board(arguments.state, chip_of(arguments))
        return
    if arguments.chip:
        raise UserError("--chip is for --board sim and --board emu; a real board has its own chip", exit_code=2)
    try:
        port = arguments.port
        if port is None:
            port = choose_port(board_named(arguments.board), serial_ports())[0].device
        serial = SerialTransport(port)
    except UserError as error:
        raise UserError(str(error), exit_code=2) from None
    try:
        yield serial
    except LineLostError as lost:
        lost.exit_code = 2
        raise
    finally:
        serial.close()


def chip_of(arguments: argparse.Namespace) -> SiliconProfile:
    """The silicon profile that --chip names; the assumed one if it names none."""
    return SiliconProfile.load(arguments.chip) if arguments.chip else ASSUMED


def install_files(build: Path | None, flash_dir: Path) -> None:
    """Copy the files of a flashed board, without main.py, so that the board comes to its prompt at once."""
    for path in FIRMWARE_DIR.glob("*.py"):
        if path.name != "main.py":
            shutil.copy(path, flash_dir)
    if build is not None:
        shutil.copy(BuildFolder(build).manifest, flash_dir)


@contextlib.contextmanager
def flashed_board(kind: str, folder: Path | None) -> Iterator[Transport]:
    """The board of `flash.py --board sim` or `emu`, as it was left; UserError (exit 2) if there is none."""
    folder = folder or ROOT / FOLDERS[kind]
    _memory_of(kind, folder)
    if kind == "emu":
        yield emulated_board(folder)
        return
    session = open_session(BoardChoice(kind), folder, scene_camera())
    try:
        yield BoardTransport(session.board)
    finally:
        session.close()


def _memory_of(kind: str, folder: Path) -> Path:
    memory = folder / "flash.bin"
    if not memory.is_file():
        raise UserError(f"{memory} is not there; make that board first: `flash.py --board {kind}`", exit_code=2)
    return memory


def emulated_board(folder: Path, silicon: SiliconProfile = ASSUMED) -> Transport:
    """The K210 emulator with stock MaixPy and what was flashed; UserError (exit 2) if nothing was."""
    from sim.k210.emulated_session import soldered_board  # loads Unicorn
    from sim.k210.k210_board import K210Board

    memory = _memory_of("emu", folder)
    # The board works on a copy of its memory: the scripts that a command writes to it are gone afterwards.
    profile = soldered_board(folder, None, None)
    board = K210Board(
        flash=bytearray(memory.read_bytes()),
        camera=profile.camera,
        source=scene_camera().frame,
        profile=profile,
        silicon=silicon,
    )
    return _started(BoardTransport(board))


def _started(transport: Transport) -> Transport:
    """The line, once the board has its prompt or runs our program.

    Nothing interrupts the start, because at its first one CanMV writes its config.json and restarts.
    """
    said = b""
    while transport.now() < BOOT_S and b">>> " not in said and STARTS not in said:
        said += transport.read(0.5)
    return transport


def _start_main(session: SimulatedSession) -> None:
    shutil.copy(FIRMWARE_DIR / "main.py", session.flash_dir)
    (session.flash_dir / SETTINGS).write_text('{"repl": true, "start_delay_ms": 0}', encoding="utf-8")


@contextlib.contextmanager
def simulated_board(
    build: Path | None,
    prepare: Callable[[SimulatedSession], None] = lambda session: None,
    silicon: SiliconProfile = ASSUMED,
) -> Iterator[Transport]:
    """A simulated board with the build flashed (None: without a network); its camera shows a rendered scene.

    `prepare` gets the session before power-on.
    """
    folder = Path(tempfile.mkdtemp(prefix="maix-board-"))
    session = SimulatedSession(folder, silicon=silicon)
    try:
        if build is not None:
            built = BuildFolder(build)
            address = built.load_manifest().kmodel.flash_address
            kmodel = built.kmodel.read_bytes()
            session.devices.flash[address : address + len(kmodel)] = kmodel
        session.board.set_camera(scene_camera())
        install_files(build, session.flash_dir)
        prepare(session)
        yield _started(BoardTransport(session.board))
    finally:
        session.forget()
