"""Puts pose estimation on a board: builds what is missing, flashes, verifies, starts, and shows that poses arrive.

flash.py                          flash the board that is connected
flash.py --board sim              the same steps on a simulated board, with the LCD as PNG files
flash.py --all                    flash all boards that are connected, for a class
flash.py --page                   serve a local web page for everything: try it, flash, watch
flash.py --dry-run                show what would be written where
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.cli import guarded, parse_size, positive, show_what_the_console_can, tcp_port
from common.errors import UserError
from common.files import check_file, check_folder
from common.flash_map import FILES_ADDRESS, FILES_BYTES, FLASH_BYTES, KMODEL_ADDRESS, KMODEL_BYTES
from common.flash_parts import check_parts
from common.pose_lines import poses_in
from common.text import ROOT, printable, runnable
from common.transport import CONSOLE_BAUD, LineLostError, SerialTransport, TracingTransport, Transport
from common.wiring import AUTOMATIC
from host_tools import package, report
from host_tools.board_link import RATES
from host_tools.bring_up import bring_up, start_poses
from host_tools.classroom import flash_all
from host_tools.commands import certify
from host_tools.commands.page import serve as serve_page
from host_tools.flashing import Flasher
from host_tools.isp_client import BAUD_FALLBACK, NoAnswerError
from host_tools.known_boards import (
    ANY_BOARD,
    BOARDS,
    BoardKind,
    Port,
    board_named,
    check_port,
    choose_port,
    other_channels,
    serial_ports,
    why_no_port,
    wirings_for,
)
from host_tools.page.boards import station_at, stations_at
from host_tools.payload import Payload, firmware_file, own_files, payload_of
from host_tools.show import Show
from host_tools.terminal import terminal
from model_build.catalog import DEFAULT_SIZE, DEMO, DEMO_SIZE, MINIMUM_MAIXPY
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from model_build.rotation import MOUNTS
from sim.k210.profiles import PROFILES, profile_named
from sim.open_board import FOLDERS, KINDS, BoardChoice, check_choice, open_session
from sim.parts.board import Display
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import TurnedCamera, open_camera
from sim.parts.session import Session, save_frames

DEFAULT_FRAMES = 5
BOARD_FRAMES = 2  # the tracker begins a person with the second picture
LCD_SETTLE_S, LCD_TRIES = 0.2, 25
ERASABLE = {"all": (0, 0), "files": (FILES_ADDRESS, FILES_BYTES), "kmodel": (KMODEL_ADDRESS, KMODEL_BYTES)}
"""Name → (address, length) in flash; (0, 0) is the whole chip."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="flash.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", default="auto", metavar="NAME", help=f"auto, sim, emu, {', '.join(BOARDS)}")
    parser.add_argument("--port", help="serial port or URL; needed only when several boards are connected")
    parser.add_argument("--list-boards", action="store_true", help="list the known boards and end")
    parser.add_argument(
        "--page", type=tcp_port, metavar="PORT", nargs="?", const=0, help="serve the local web page and do nothing else"
    )
    _add_contents(parser)
    _add_ways(parser)
    _add_simulated(parser)
    options = parser.parse_args(argv)
    options.state = options.state or ROOT / FOLDERS.get(options.board, FOLDERS["sim"])
    return options


def _add_contents(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("what to put on it")
    model.add_argument("--model", metavar="NAME|FILE|FOLDER", help="network, weights file, build folder or .kfpkg")
    sizes = "default {}x{}, demo {}x{}".format(*DEFAULT_SIZE, *DEMO_SIZE)
    model.add_argument("--size", metavar="WxH", help=f"input size in pixels ({sizes})")
    model.add_argument(
        "--firmware",
        default="none",
        metavar="NAME|FILE|URL|none",
        help="also write this MaixPy, for example " + MINIMUM_MAIXPY,
    )
    model.add_argument(
        "--mount", type=int, choices=MOUNTS, help="degrees by which the camera is turned clockwise, seen from behind it"
    )
    model.add_argument("--calibration", type=Path, metavar="DIR", help="photos for the quantization when building")


def _add_ways(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--report", action="store_true", help="print what an issue needs to know, and write nothing")
    how.add_argument(
        "--certify", action="store_true", help="afterwards ask the board what only a chip can tell (a minute)"
    )
    how.add_argument("--dry-run", action="store_true", help="list addresses, sizes, hashes; touch nothing")
    how.add_argument(
        "--kfpkg", type=Path, metavar="OUT", help="write one package with everything, for kflash_gui or kflash, and end"
    )
    how.add_argument("--erase", choices=sorted(ERASABLE), help="erase first: the chip, the files or the kmodel area")
    how.add_argument("--baud", type=positive, help=f"fastest rate to try (default {BAUD_FALLBACK[0]})")
    how.add_argument(
        "--all", nargs="*", metavar="PORT", help="flash all connected boards at once, or those at these ports"
    )
    how.add_argument("--no-start", action="store_true", help="flash and verify only")
    how.add_argument("--reset-heap", action="store_true", help="set the heap of MaixPy's programs to its usual size")
    how.add_argument("--restore", action="store_true", help="restore the board's own program and end (M5StickV)")
    how.add_argument("--terminal", action="store_true", help="stay connected to the board's console afterwards")
    how.add_argument("--trace", type=Path, metavar="FILE", help="write every byte on the line to a file")


def _add_simulated(parser: argparse.ArgumentParser) -> None:
    sim = parser.add_argument_group("simulated board")
    sim.add_argument("--images", metavar="FILE|DIR|VIDEO|scene|photo", help="what the camera sees (default photo)")
    sim.add_argument(
        "--frames", type=positive, help=f"frames to show before ending (sim {DEFAULT_FRAMES}, else {BOARD_FRAMES})"
    )
    sim.add_argument("--lcd", type=Path, metavar="DIR", help="folder for the LCD's PNG files")
    sim.add_argument("--state", type=Path, metavar="DIR", help="the simulated board's memory")
    sim.add_argument("--wiring", default="dan", choices=AUTOMATIC, help="its reset wiring")
    sim.add_argument("--profile", metavar="NAME", help="emu: its board, for example m5stickv; see docs/emulator.md")
    sim.add_argument("--camera", metavar="NAME", help="emu: its camera, for example ov2640 (default the board's)")
    sim.add_argument(
        "--silicon", type=Path, metavar="FILE", help="its chip computes as this profile says; see docs/certify.md"
    )
    sim.add_argument("--fault", action="append", default=[], metavar="FAULT", help="see docs/flashing.md; repeatable")


# -- the line ------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """An open line to a board, what is known about it, and how to close it."""

    transport: Transport
    wirings: tuple[str, ...]
    bauds: tuple[int, ...]
    board: BoardKind = ANY_BOARD
    port: Port | None = None
    lcd: Display | None = None
    close: Callable[[], None] = lambda: None
    others: Sequence[Port] = ()
    """Other ports of the same adapter, where the board may be if it does not answer here."""


def open_line(options: argparse.Namespace, show: Show) -> Line:
    """Open the line to the board that the options name, real or simulated."""
    if options.board in KINDS:
        return open_simulated(options, show)
    board = board_named(options.board)
    ports = serial_ports()
    if options.port is None:
        port, why = choose_port(board, ports)
        show.detail(f"{port.device} ({why})")
        return open_port(port.device, port, board, other_channels(port, ports))
    return open_port(options.port, next((found for found in ports if found.device == options.port), None), board)


def open_port(device: str, port: Port | None, board: BoardKind, others: Sequence[Port] = ()) -> Line:
    """Open a serial port by its name."""
    transport = SerialTransport(device)
    return Line(transport, wirings_for(board, port), board.bauds, board, port, others=others, close=transport.close)


def open_simulated(options: argparse.Namespace, show: Show) -> Line:
    """Make a board in this process: simulated, or the K210 emulator with a stock MaixPy image (ten times slower)."""
    firmware = None
    if options.board == "emu" and not (options.state / "flash.bin").is_file():
        own = profile_named(options.profile or "bit").maixpy
        firmware = firmware_file(own if options.firmware == "none" else options.firmware)
    choice = BoardChoice(
        options.board,
        options.wiring,
        options.fault,
        firmware,
        profile=options.profile,
        camera=options.camera,
        silicon=SiliconProfile.load(options.silicon) if options.silicon else ASSUMED,
    )
    camera = TurnedCamera(open_camera(options.images or default_images(options)), options.mount)
    session = open_session(choice, options.state, camera)
    if session.note:
        show.detail(session.note)
    return Line(
        BoardTransport(session.board),
        ANY_BOARD.wirings,
        ANY_BOARD.bauds,
        simulated_kind(session),
        lcd=session.board.lcd,
        close=session.close,
    )


def simulated_kind(session: Session) -> BoardKind:
    """The board that a simulated or emulated one stands for: what its messages recommend must run on it."""
    profile = getattr(session.board, "profile", PROFILES["bit"])
    own = "" if profile.maixpy == PROFILES["bit"].maixpy else profile.maixpy
    return replace(ANY_BOARD, title=profile.title, own_maixpy=own)


def default_images(options: argparse.Namespace) -> str:
    """A photo of a person, or rendered people for a network that knows no others."""
    return "scene" if options.network == DEMO else "photo"


# -- doing ---------------------------------------------------------------------------------------------------


def print_report(options: argparse.Namespace) -> int:
    """--report: print facts about this computer, and about the board if one answers."""
    for line in report.of_computer():
        print(line, flush=True)
    show = Show()
    options.network, options.mount = "", 0
    try:
        line_to_board = open_line(options, show)
    except UserError as error:
        print(f"board         {printable(str(error))}")
        return 0
    try:
        for line in report.of_board(new_flasher(options, line_to_board, line_to_board.transport, show)):
            print(line, flush=True)
    finally:
        line_to_board.close()
    return 0


def list_boards() -> int:
    """--list-boards: print the table of boards."""
    print(f"{'name':10} {'USB ids':22} {'wirings tried':16} board")
    for board in BOARDS.values():
        ids = " ".join(f"{vendor:04x}:{product:04x}" for vendor, product in board.usb)
        print(f"{board.name:10} {ids:22} {' '.join(board.wirings):16} {board.title}")
    print(f"{'sim':10} {'':22} {'':16} simulated: firmware/ in a real MicroPython, KPU computed")
    print(f"{'emu':10} {'':22} {'':16} emulated: a K210 that runs the stock MaixPy image")
    return 0


def show_plan(payload: Payload) -> None:
    """--dry-run: print what would be written where."""
    check_parts(payload.wanted.flash_parts)
    print(f"{payload.name}: nothing is written")
    for line in payload.to_make:
        print(f"not there yet: {line}")
    print("\nflash parts")
    print(f"  {'address':>10} {'end':>10} {'bytes':>9} {'4K sectors':>10} {'crc32':8}  sha256")
    for part in sorted(payload.wanted.flash_parts, key=lambda part: part.address_bytes):
        print(
            f"  0x{part.address_bytes:08X} 0x{part.end_bytes:08X} {len(part.data):9d} {len(part.sectors):10d} "
            f"{zlib.crc32(part.data):08x}  {hashlib.sha256(part.data).hexdigest()}  {part.name}"
        )
    print(f"no overlaps; 0x{FILES_ADDRESS:X}…0x{FLASH_BYTES:X} is MaixPy's file system")
    if payload.files:
        print("\nfiles on /flash")
        for name, data in payload.files.items():
            print(f"  {len(data):9d} {zlib.crc32(data):08x}  {name}")


def check_erase(options: argparse.Namespace) -> None:
    """UserError if nothing would be left that can start."""
    if options.erase == "all":
        raise UserError("--erase all removes MaixPy too; choose one to write: --firmware NAME|FILE", exit_code=2)


def check_arguments(options: argparse.Namespace) -> None:
    """UserError now for what would be refused later, because a build takes minutes."""
    if options.size:
        parse_size(options.size)
    for name, path in (("--kfpkg", options.kfpkg), ("--trace", options.trace)):
        if path is not None:
            check_file(path, name)
    for name, path in (("--state", options.state), ("--lcd", options.lcd)):
        if path is not None:
            check_folder(path, name)
    if options.firmware == "none" and not str(options.model).endswith(".kfpkg"):
        check_erase(options)
    if options.board not in KINDS:
        board = board_named(options.board)
        given = (("--fault", options.fault), ("--images", options.images), ("--silicon", options.silicon))
        for name, value in given:
            if value:
                raise UserError(f"{name} is for a simulated board; add --board sim", exit_code=2)
        if not (options.dry_run or options.kfpkg or options.report):
            named = [options.port] if options.port else options.all
            for device in named or ():
                check_port(device, serial_ports())
            if named is None:
                choose_port(board, serial_ports())
        return
    if options.port:
        raise UserError(f"--port {options.port}: --board {options.board} is not a board on a port", exit_code=2)
    check_choice(BoardChoice(options.board, faults=options.fault, profile=options.profile, camera=options.camera))
    if options.images and not (options.dry_run or options.kfpkg or options.no_start):
        open_camera(options.images)


def flash(options: argparse.Namespace) -> int:
    """Do everything that the options ask for; returns the exit code."""
    if options.page is not None:
        return serve_page(options.page)
    if options.list_boards:
        return list_boards()
    check_arguments(options)
    if options.report:
        return print_report(options)
    show = Show()
    if options.restore:
        return restore_board(options, show)
    payload = payload_of(
        options.model, options.size, options.firmware, options.calibration, show.ui(),
        for_camera=not options.no_start, mount=options.mount, dry_run=options.dry_run,
    )  # fmt: skip
    options.network, options.mount = payload.name, payload.mount
    if payload.firmware is None and not payload.to_make:
        check_erase(options)
    if options.dry_run:
        show_plan(payload)
        return 0
    if options.kfpkg:
        return write_kfpkg(options.kfpkg, payload, options)
    if options.all is not None:
        return flash_class(options.all, payload, show)
    line = flash_connected(options, payload, show)
    if options.certify:
        show.step("asking the board what only a board can tell")
        return certify_board(options, payload, line)
    return 0


def restore_board(options: argparse.Namespace, show: Show) -> int:
    """--restore: give the board its own program back."""
    options.network, options.mount = DEMO, options.mount or 0
    show.step("finding the board")
    line = open_line(options, show)
    try:
        new_flasher(options, line, line.transport, show).restore(own_files())
    finally:
        line.close()
    return 0


def flash_connected(options: argparse.Namespace, payload: Payload, show: Show) -> Line:
    """Flash the board that is connected, at whichever port of its adapter it answers; returns its line, closed."""
    show.step("finding the board")
    line = open_line(options, show)
    try:
        on_line(options, line, payload, show)
    except NoAnswerError:
        for port in line.others:
            silent = line.transport.name
            show.detail(f"{silent} does not answer, trying {port.device}, another port of the same adapter")
            with contextlib.suppress(NoAnswerError):
                line = open_port(port.device, port, board_named(options.board))
                on_line(options, line, payload, show)
                return line
        raise
    return line


def certify_board(options: argparse.Namespace, payload: Payload, line: Line) -> int:
    """--certify: the same as `python -m host_tools certify`, with the network that has just been flashed."""
    return certify.run(
        argparse.Namespace(
            board=options.board,
            port=None if options.board in KINDS else line.transport.name,
            state=options.state,
            chip=options.silicon,
            baud=options.baud or RATES[0],
            trace=None,
            build=payload.folder,
            out=ROOT / certify.DEFAULT_OUT,
            again=False,
        )
    )


def flash_class(devices: Sequence[str], payload: Payload, show: Show) -> int:
    """--all: flash several boards; returns exit code 1 if one failed."""
    stations = [station_at(device) for device in devices] or stations_at(serial_ports())
    if not stations:
        raise UserError(f"no board is connected; {why_no_port() or 'plug them in, or name their ports: --all PORT …'}")
    show.step(f"flashing {len(stations)} board(s)")
    return 1 if flash_all(stations, payload, sys.stdout) else 0


def on_line(options: argparse.Namespace, line: Line, payload: Payload, show: Show) -> None:
    """Flash and start the board, then close the line."""
    try:
        with contextlib.ExitStack() as stack:
            transport = line.transport
            if options.trace:
                options.trace.parent.mkdir(parents=True, exist_ok=True)
                transport = TracingTransport(transport, stack.enter_context(options.trace.open("w", encoding="utf-8")))
            with_board(options, line, new_flasher(options, line, transport, show), payload, show)
    finally:
        line.close()


def new_flasher(options: argparse.Namespace, line: Line, transport: Transport, show: Show) -> Flasher:
    """A flasher for this line."""
    bauds = tuple(baud for baud in line.bauds if options.baud is None or baud <= options.baud)
    show.clock = transport.now
    return Flasher(transport, line.wirings, bauds or (CONSOLE_BAUD,), show.ui(), board=line.board)


def write_kfpkg(path: Path, payload: Payload, options: argparse.Namespace) -> int:
    """--kfpkg OUT: write one package with everything, for other flashers."""
    for line in package.write(path, payload, options.board, with_scripts=not options.no_start):
        print(line)
    return 0


def with_board(options: argparse.Namespace, line: Line, flasher: Flasher, payload: Payload, show: Show) -> None:
    """Flash and start the board; with --terminal open the console afterwards, even after a failure."""
    try:
        flash_and_start(options, line, flasher, payload, show)
    except (LineLostError, NoAnswerError):
        raise
    except UserError as error:
        if options.terminal:
            print(f"error: {printable(runnable(str(error)))}", file=sys.stderr)
            terminal(flasher.transport)
        raise
    if options.terminal:
        terminal(flasher.transport)


def flash_and_start(options: argparse.Namespace, line: Line, flasher: Flasher, payload: Payload, show: Show) -> None:
    """Write, verify, copy and start, as far as the options ask for it."""
    if options.erase:
        show.step(f"erasing {options.erase}")
        flasher.isp.erase(*ERASABLE[options.erase])
        flasher.isp.reboot()
    bring_up(flasher, payload, options.board, line.port)
    if options.reset_heap:
        show.step("setting MaixPy's heap")
        flasher.reset_heap()
    if payload.files and not options.no_start:
        run_poses(options, line, flasher, payload, show)


def run_poses(options: argparse.Namespace, line: Line, flasher: Flasher, payload: Payload, show: Show) -> None:
    """Start main.py and show the poses that arrive."""
    lcd_dir = None
    if line.lcd is not None:
        lcd_dir = options.lcd or options.state / "lcd"
        save_frames(line.lcd, lcd_dir)
    wanted_frames = options.frames or (DEFAULT_FRAMES if options.board == "sim" else BOARD_FRAMES)
    seen = {"frames": 0, "best": 0}

    def on_line(text: str) -> bool:
        poses = poses_in(text)
        if poses is None:
            if text.startswith("posenet: "):
                show.detail(text)
            return False
        seen["frames"] += 1
        seen["best"] = max(seen["best"], len(poses))
        show.detail(f"frame {seen['frames']}: {describe(poses)}")
        return seen["frames"] >= wanted_frames

    start_poses(flasher, payload, options.board, on_line)
    pictures = [] if lcd_dir is None else shown_frames(flasher.transport, lcd_dir, seen["frames"])
    show.detail(f"{seen['frames']} frame(s), at most {seen['best']} pose(s) in one")
    if pictures:
        print(f"LCD picture: {pictures[-1]}")


def shown_frames(transport: Transport, folder: Path, count: int) -> list[Path]:
    """Pictures of the LCD in order. Waits for `count` of them, because a frame's line arrives before its picture."""
    pictures: list[Path] = []
    for _ in range(LCD_TRIES):
        transport.sleep(LCD_SETTLE_S)
        pictures = sorted(folder.glob("frame-*.png"))
        if len(pictures) >= count:
            break
    return pictures


def describe(poses: list[dict[str, Any]]) -> str:
    """`2 poses: 87 % (nose 160,42), …`."""
    if not poses:
        return "no pose"
    texts = [f"{pose['score']} % (nose {pose['keypoints'][0][0]},{pose['keypoints'][0][1]})" for pose in poses]
    return f"{len(poses)} pose{'s' if len(poses) > 1 else ''}: {', '.join(texts)}"


def main(argv: list[str] | None = None) -> int:
    """Returns exit code 0, 1 (it failed) or 2 (it was called wrongly)."""
    show_what_the_console_can()
    options = arguments(argv)
    return guarded(lambda: flash(options))


if __name__ == "__main__":
    sys.exit(main())
