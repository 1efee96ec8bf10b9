"""A simulated board on a pseudo-terminal and an RFC 2217 port, for flash.py, kflash, mpremote or a terminal.

It starts with MaixPy in flash and an empty /flash; --state keeps it between runs. Stop it with Ctrl-C.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

from common.cli import positive, tcp_port
from common.errors import UserError
from common.pose_lines import LineSplitter, poses_in
from common.text import printable
from common.transport import CONSOLE_BAUD
from common.wiring import AUTOMATIC
from model_build import catalog
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.k210.profiles import PROFILES
from sim.live.board_page import WebView
from sim.live.line_server import HAS_PTY, LiveBoard, PtyLine, Rfc2217Line
from sim.open_board import FOLDERS, KINDS, BoardChoice, open_session
from sim.parts.camera_sensors import CAMERAS
from sim.parts.camera_source import open_camera
from sim.parts.session import Session, save_frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m sim board`."""
    parser.add_argument(
        "--board", default="sim", choices=KINDS, help="sim: MaixPy played by MicroPython; emu: a K210 emulator"
    )
    parser.add_argument(
        "--firmware",
        metavar="FILE|NAME",
        help="emu: stock MaixPy: .bin, .kfpkg, or a name like " + catalog.MINIMUM_MAIXPY,
    )
    parser.add_argument("--profile", choices=sorted(PROFILES), help="emu: which board it is (default bit)")
    parser.add_argument("--camera", choices=sorted(CAMERAS), help="emu: which camera it has (default the board's)")
    parser.add_argument(
        "--silicon", type=Path, metavar="FILE", help="its chip computes as this profile says (host_tools certify)"
    )
    parser.add_argument(
        "--real-stub",
        action="store_true",
        help="emu: run the flash program that a host uploads instead of answering in its place",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="the folder of its memory (default build/sim-board, build/emu-board)"
    )
    parser.add_argument("--blank", action="store_true", help="a new board comes without MaixPy")
    parser.add_argument("--images", metavar="FILE|DIR|VIDEO|scene|webcam:N", help="what the camera sees")
    parser.add_argument("--hold", type=positive, default=10, help="frames for which each picture of a folder is shown")
    parser.add_argument("--sd", type=Path, metavar="DIR|FILE", help="SD card: a folder; emu: an image file")
    parser.add_argument("--wiring", default="dan", choices=AUTOMATIC, help="how DTR and RTS are wired")
    parser.add_argument("--port", type=tcp_port, default=2217, help="TCP port of the RFC 2217 line (default 2217)")
    parser.add_argument("--link", type=Path, help="fixed name for the pseudo-terminal")
    parser.add_argument("--web", type=tcp_port, metavar="PORT", help="show LCD, console and times on a local web page")
    parser.add_argument("--lcd", type=Path, metavar="DIR", help="save every LCD frame there as PNG")
    parser.add_argument("--frames", type=positive, help="end after this many pose lines")
    parser.add_argument("--seconds", type=float, help="end after this many seconds")
    parser.add_argument("--loader", action="store_true", help="start in the serial loader, as with BOOT held")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="FAULT", help="see docs/flashing.md; repeatable"
    )
    parser.add_argument("--quiet", action="store_true", help="do not show the console")


def run(args: argparse.Namespace) -> int:
    """Serve the board until Ctrl-C, --frames or --seconds."""
    session = _open(args)
    live = LiveBoard(session.board)
    console = ConsoleText(show=not args.quiet)
    live.add_sink(console.take)
    with ExitStack() as stack:
        stack.callback(session.close)
        stack.callback(live.stop)
        _open_lines(args, session, live, stack)
        live.start()
        if args.loader:
            live.press_reset(boot=True)
        try:
            _wait(args, live, console)
        except KeyboardInterrupt:
            print()
    return 0


def _open(args: argparse.Namespace) -> Session:
    """The board that the options describe, from its folder; UserError if they contradict each other."""
    state = args.state or FOLDERS[args.board]
    camera = open_camera(args.images, args.hold)
    if args.board == "sim" and args.real_stub:
        raise UserError("--real-stub is for --board emu", 2)
    if args.board == "emu" and args.firmware is None and not args.blank and not (state / "flash.bin").is_file():
        raise UserError("a new emulated board has no firmware: give a MaixPy image with --firmware FILE", 2)
    entry = catalog.find(args.firmware, "firmware") if args.firmware else None
    firmware = catalog.obtain(entry) if entry else Path(args.firmware) if args.firmware else None
    choice = BoardChoice(
        args.board, args.wiring, args.fault, firmware, args.sd, with_maixpy=not args.blank,
        fast_loader=not args.real_stub, profile=args.profile, camera=args.camera,
        silicon=SiliconProfile.load(args.silicon) if args.silicon else ASSUMED,
    )  # fmt: skip
    session = open_session(choice, state, camera)
    if session.note:
        # Its prompt is on a TCP port: anyone who can reach it could do anything to this computer.
        raise UserError(
            "on this computer the simulated board's program runs without a sandbox, so it is not put on a port; "
            "use --board emu, or `flash.py --board sim`"
        )
    return session


def _open_lines(args: argparse.Namespace, session: Session, live: LiveBoard, stack: ExitStack) -> None:
    """Open the serial ports and the web page, and print where they are; the stack closes them."""
    terminal = PtyLine(live, args.link) if HAS_PTY else None
    if terminal is not None:
        stack.callback(terminal.close)
    port = Rfc2217Line(live, args.port)
    stack.callback(port.close)
    if args.web is not None:
        page = WebView(live, session.page(), args.web, args.images or "scene:7")
        stack.callback(page.close)
        print(f"web page: {page.url}", flush=True)
    if args.lcd is not None:
        save_frames(session.board.lcd, args.lcd)
    if terminal is not None:
        print(f"terminal: {terminal.link or terminal.path}   ({CONSOLE_BAUD} baud; no reset lines)")
    print(f"port:     {port.url}   (with reset lines)", flush=True)


def _wait(args: argparse.Namespace, live: LiveBoard, console: ConsoleText) -> None:
    """Return when enough frames have come or the time is over; raise the error with which the board failed."""
    started = time.monotonic()
    while args.frames is None or console.pose_lines < args.frames:
        time.sleep(0.05)
        if isinstance(live.failure, UserError):
            raise UserError(
                f"the board's program cannot go on: {live.failure}; give another --firmware, or another --state"
            )
        if live.failure is not None:
            raise live.failure
        if args.seconds is not None and time.monotonic() - started > args.seconds:
            if args.frames is not None:
                raise UserError(
                    f"{console.pose_lines} of {args.frames} frames in {args.seconds:g} s; is main.py on it?"
                )
            return


class ConsoleText:
    """Counts pose lines, and shows the board's other text."""

    def __init__(self, show: bool):
        self.show = show
        self.pose_lines = 0
        self._splitter = LineSplitter()

    def take(self, data: bytes) -> None:
        """Take bytes that the board has sent."""
        for text in self._splitter.lines(data):
            if poses_in(text) is not None:
                self.pose_lines += 1
            elif self.show and text:
                print(f"  | {printable(text)}", flush=True)
