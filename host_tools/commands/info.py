"""Tells what is on a board: MaixPy build, free space, network, files. It only reads, but interrupts a running
program."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.text import printable, runnable
from common.transport import SerialTransport, Transport
from host_tools.board_session import flashed_board
from host_tools.flashing import Flasher
from host_tools.known_boards import ANY_BOARD, board_named, choose_port, serial_ports, wirings_for
from host_tools.repl import BoardRaisedError, ReplError
from model_build.manifest import FILE_NAME as MANIFEST
from sim.open_board import KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m host_tools info`."""
    parser.add_argument("--port", help="serial port or URL; needed only when several boards are connected")
    parser.add_argument(
        "--board", default="auto", help="kind of board, for its reset wiring; `sim`, `emu`: those of flash.py"
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="folder of the simulated or emulated board")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--no-restart", action="store_true", help="leave the board at its prompt afterwards")


def run(args: argparse.Namespace) -> int:
    """Ask the board and print the answers."""
    with contextlib.ExitStack() as stack:
        port = None
        restart = not args.no_restart
        if args.board in KINDS and not args.port:
            board, restart = ANY_BOARD, False  # The simulated board is switched off afterwards.
            transport: Transport = stack.enter_context(flashed_board(args.board, args.state))
        else:
            board = board_named(args.board)
            port = None if args.port else choose_port(board, serial_ports())[0]
            transport = SerialTransport(port.device if port else args.port)
            stack.callback(transport.close)
        try:
            facts = ask(Flasher(transport, wirings_for(board, port), board.bauds, board=board), restart=restart)
        except (ReplError, BoardRaisedError) as trouble:
            raise UserError(
                f"{transport.name}: the board does not answer as MaixPy does ({trouble}); press RESET and try again"
            ) from None
    if args.json:
        print(json.dumps(facts, indent=1))
    else:
        for name, value in facts.items():
            text = " ".join(value) if isinstance(value, list) else value
            print(f"{name.replace('_', ' '):18} {printable(runnable(str(text)))}")
    return 0


def ask(flasher: Flasher, restart: bool = True) -> dict[str, Any]:
    """Facts about the board at the other end; UserError if no MaixPy answers."""
    info = flasher.look()
    if info is None:
        flasher.isp.enter_rom()
        flasher.isp.boot_by_lines()
        raise UserError(f"the K210 answers but no MaixPy runs on it; with flash.py, {flasher.board.maixpy_remedy}")
    facts: dict[str, Any] = {
        "maixpy": info.version,
        "machine": info.machine,
        "kpu": "yes" if info.has_kpu else "no: this build cannot run networks",
        "firmware_bytes": info.firmware_end_bytes,
        "run_folder": info.run_dir,
        "free_bytes": info.free_bytes,
        "files": sorted(info.files),
    }
    repl = flasher.repl
    facts["network"] = "none"
    if MANIFEST in info.files:
        name, width, height, length, crc32, address = repl.ask_for(
            tuple,
            f"import ujson\nwith open({MANIFEST!r}) as g: j = ujson.load(g)\n"
            "m = j['kmodel']\n_r = (j['network'], j['input']['width'], j['input']['height'], m['bytes'],"
            " m['crc32'], m['flash_address'])\nj = None",
        )
        facts["network"] = f"{name} {width}x{height}"
        if info.has_flash_read:
            right = repl.flash_crc32(address, length) == crc32
            state = "right" if right else "DAMAGED or another one: run `flash.py` again"
            facts["kmodel"] = f"{length} bytes at 0x{address:06X}, crc32 {crc32:08x}: {state}"
    facts["gc_free_bytes"], facts["heap_free_bytes"] = repl.ask_for(
        tuple,
        "import gc\ngc.collect()\n"
        "_r = (gc.mem_free(), Maix.utils.heap_free() if hasattr(Maix.utils, 'heap_free') else 0)",
    )
    if restart:
        repl.start_main()
    return facts
