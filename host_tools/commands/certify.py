"""Asks a board, in about a minute, what only a chip can tell; writes its profile, a page, and a file for an issue.

Exit status: 0 everything is as assumed, 1 something is not, 2 it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from common.cli import hindrances_exit_2
from common.errors import UserError
from common.files import write_atomic
from common.text import printable
from common.transport import Transport
from host_tools import certify
from host_tools.board_frames import check_board, measure
from host_tools.board_link import PROBE, start_target
from host_tools.board_session import add_board_arguments, open_transport, say
from host_tools.certify import LCD_ANSWERS, Ask, Certificate, Progress, Result, Step
from host_tools.certify_html import render_page
from host_tools.commands.diff import make_simulator, open_engines, rendered_pictures
from host_tools.diff import compare
from host_tools.diff_text import describe_stage
from model_build.build_folder import BuildFolder
from model_build.kpu.silicon import SiliconProfile
from sim.parts.board_transport import BoardTransport

DEFAULT_OUT = Path("build/certify")
STATE, PAGE, REPORT, PROFILE = "state.json", "certify.html", "certify.json", "silicon.json"
PICTURES = 2
USUAL_WORDS = ("kpu_net __del__", "init i2c", "[MAIXPY]: find ")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `host_tools certify`."""
    add_board_arguments(parser)
    parser.add_argument(
        "--build", type=Path, metavar="DIR", help="also compare this build's network, which is on the board"
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"folder for the files (default: {DEFAULT_OUT})"
    )
    parser.add_argument("--again", action="store_true", help="ask everything again, even what is already known")


def run(arguments: argparse.Namespace) -> int:
    """Ask the board, save its answers, and write the certificate."""
    with hindrances_exit_2():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    state = arguments.out / STATE
    progress = Progress(state) if arguments.again else known_before(state)
    if arguments.build:
        BuildFolder(arguments.build).load_manifest()  # a wrong folder is reported at once
    with open_transport(arguments, arguments.build, needs_network=False) as transport:
        progress = ask_board(transport, progress, arguments.baud, arguments.board != "sim")
        if arguments.build and "network" not in progress.done:
            progress.done["network"] = ask_network(transport, arguments.build, progress, arguments.baud)
            progress.save()
            show(Step("network", "The whole network on stored pictures", lambda link: {}), progress.done["network"])
    certificate = certify.conclude(progress)
    write_atomic(arguments.out / REPORT, json.dumps(certificate.to_dict(), indent=1) + "\n")
    write_atomic(arguments.out / PROFILE, certificate.silicon.to_json())
    write_atomic(arguments.out / PAGE, render_page(certificate))
    print(printable(summary(certificate, arguments.out)))
    return 0 if not certificate.departures else 1


def known_before(path: Path) -> Progress:
    """What an earlier run saved; UserError if this program cannot have written it."""
    progress = Progress.load(path)
    try:
        certificate = certify.conclude(progress)
        render_page(certificate)
        summary(certificate, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); use --again to ask everything again") from None
    return progress


def remark(text: str) -> None:
    """Print a remark from the line, unless it is what MaixPy always prints about models and cameras."""
    if not any(usual in text for usual in USUAL_WORDS):
        say(text)


def show(step: Step, result: Result) -> None:
    """Print one line about a step."""
    print(printable(f"  {step.title}: {certify.describe(step, result)}"), flush=True)


def ask_board(transport: Transport, progress: Progress, fastest_baud: int, timed: bool = True) -> Progress:
    """Ask all steps that need no network. Known results are used if they come from the same board.

    timed: False for a simulated board, whose times are this computer's.
    """
    since_s = transport.now()
    link = start_target(transport, remark, PROBE)
    try:
        link.speed_up(fastest_baud)
        board = certify.identity(link)
        if not certify.same_board(progress, board):
            say("this is not the board that was asked before, so everything is asked again")
            progress = Progress(progress.path)
        elif progress.done:
            say(f"continuing: {len(progress.done)} steps are already known (--again asks them again)")
        progress.board = board
        print(printable("  " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in board.items())))
        for step, result in certify.run_steps(link, certify.steps(eyes(transport), timed), progress, since_s):
            show(step, result)
    finally:
        link.close()
    return progress


def ask_network(transport: Transport, build: Path, progress: Progress, fastest_baud: int) -> Result:
    """Run the network on the board on stored pictures, and compare each stage with the chip that was found."""
    since_s = transport.now()
    silicon: SiliconProfile = certify.conclude(progress).silicon
    folder = BuildFolder(build)
    manifest = folder.load_manifest().to_dict()
    width, height = manifest["input"]["width"], manifest["input"]["height"]
    kpu, _, _ = open_engines(folder, False, silicon)
    link = start_target(transport, say)
    try:
        link.speed_up(fastest_baud)
        check_board(link, manifest)
        simulator = make_simulator(manifest, kpu, None, link)
        fault, times = "", {}
        for picture_name, picture in rendered_pictures(PICTURES, width, height):
            frame = measure(link, picture_name, picture, manifest)
            result = compare(frame, simulator.simulate(frame), manifest)
            times = frame.times_us
            if result.first_fault and not fault:
                stage = next(stage for stage in result.stages if not stage.equal)
                fault = f"{frame.name}: {stage.stage} {describe_stage(stage)}"
    finally:
        link.close()
    progress.seconds += transport.now() - since_s
    name = f"{manifest['network']} {width}x{height}"
    return {"network": name, "pictures": PICTURES, "equal": not fault, "fault": fault, "us": times}


def eyes(transport: Transport) -> Ask:
    """A function that looks at the LCD: this program for a simulated board, otherwise the person at the terminal, if
    any."""
    if isinstance(transport, BoardTransport):
        board = transport.board
        return lambda what: certify.lcd_answer(board.lcd.image())
    if sys.stdin.isatty() and sys.stdout.isatty():
        return ask_person(input)
    return lambda what: "not_asked"


def ask_person(read: Callable[[str], str]) -> Ask:
    """Let a person choose an answer by number; the end of input, or an empty line, means "nobody looked"."""

    def ask(what: str) -> str:
        print(f"Look at {what}. What do you see?")
        answers = list(LCD_ANSWERS)
        for number, answer in enumerate(answers, 1):
            print(f"  {number}  {LCD_ANSWERS[answer]}")
        while True:
            try:
                said = read("number: ").strip()
            except EOFError:
                return "not_asked"
            if not said:
                return "not_asked"
            if said.isascii() and said.isdigit() and 1 <= int(said[:4]) <= len(answers):
                return answers[int(said[:4]) - 1]

    return ask


def summary(certificate: Certificate, out: Path) -> str:
    """The last lines of the output: what was found, and where the files are."""
    lines = []
    if certificate.departures:
        lines.append("NOT AS ASSUMED:")
        lines += [f"  {line}" for line in certificate.departures]
    else:
        lines.append(f"All as assumed: {len(certificate.findings)} questions.")
    lines += [f"  not answered: {line}" for line in certificate.unanswered]
    if certificate.time_factor is not None:
        lines.append(
            f"KPU time against the published model: {certificate.time_factor:.3f}; error of a layer's estimate "
            f"{certificate.old_error:.1%} before, {certificate.new_error:.1%} after the model was fitted again."
        )
    lines.append(f"{certificate.seconds:.0f} s on the line. For an issue: {out / REPORT}; to look at: {out / PAGE}")
    return "\n".join(lines)
