"""Compares a board with the simulator, stage by stage.

Exit status: 0 every stage of every picture is equal, 1 something differs, 2 it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.arrays import Picture
from common.cli import hindrances_exit_2
from common.decoder_options import DecoderOptions
from common.errors import UserError
from common.files import write_atomic
from common.pictures import letterbox, load_picture, pictures_in
from common.text import printable
from host_tools.board_frames import check_board, measure
from host_tools.board_link import BoardLink
from host_tools.board_session import add_board_arguments, open_board, say
from host_tools.diff import BoardFrame, PictureResult, SimulatedFrame, compare, to_json
from host_tools.diff_html import render_page
from host_tools.diff_text import render
from host_tools.expected_stages import Run, StageSimulator
from model_build.build_folder import BuildFolder
from model_build.engines import open_engine
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from model_build.manifest import Manifest
from model_build.scene import Scene


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `host_tools diff`."""
    add_board_arguments(parser)
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="build folder that was flashed")
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="pictures or folders to send")
    parser.add_argument("--camera", type=int, default=0, metavar="N", help="also N frames of the board's own camera")
    parser.add_argument(
        "--silicon", type=Path, metavar="FILE", help="compare with the chip of this profile (host_tools certify)"
    )
    parser.add_argument("--no-float", action="store_true", help="leave out the float network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures there, in one file")
    parser.add_argument("--verbose", action="store_true", help="show all stages of equal pictures as well")


def run(arguments: argparse.Namespace) -> int:
    """Measure the board, compare it with the simulator, and report."""
    with hindrances_exit_2():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    build = BuildFolder(arguments.build)
    pictures: list[tuple[str, Picture | None]] = list(load_pictures(arguments.pictures, build.load_manifest()))
    pictures += [(f"camera frame {i + 1}", None) for i in range(arguments.camera)]
    if not pictures:
        raise UserError("nothing to compare: give pictures, or --camera N for frames of the board's camera")
    silicon = SiliconProfile.load(arguments.silicon) if arguments.silicon else ASSUMED
    engines = open_engines(build, not arguments.no_float, silicon)
    show = progress_line(sys.stderr)
    with open_board(arguments, arguments.build, lambda text: show("", text)) as link:
        outcome = measure_pictures(link, build, pictures, engines, lambda text: show(text, ""))
        show("", "")
    results, context = outcome.results, outcome.context
    print(printable(render(results, context, arguments.verbose)))
    if arguments.json:
        write_atomic(arguments.json, json.dumps(to_json(results, context), indent=1) + "\n")
    if arguments.html:
        write_atomic(arguments.html, outcome.page())
    return 0 if all(result.first_fault is None for result in results) else 1


@dataclass
class Outcome:
    """What was measured and compared."""

    results: list[PictureResult]
    kept: list[tuple[BoardFrame, SimulatedFrame]]
    manifest: dict[str, Any]
    context: dict[str, Any]

    def page(self) -> str:
        """Everything with pictures, as one HTML file."""
        return render_page(self.results, self.kept, self.manifest, self.context)


def measure_pictures(
    link: BoardLink,
    build: BuildFolder,
    pictures: Sequence[tuple[str, Picture | None]],
    engines: tuple[Run, Run | None, str],
    show: Callable[[str], None],
) -> Outcome:
    """Every stage of every picture (None: of the board's camera) on the board and by `open_engines`' engines.

    `show` is called with the progress.
    """
    manifest = build.load_manifest().to_dict()
    kpu, real, words = engines
    check_board(link, manifest)
    simulator = make_simulator(manifest, kpu, real, link)
    results: list[PictureResult] = []
    kept: list[tuple[BoardFrame, SimulatedFrame]] = []
    for index, (name, picture) in enumerate(pictures):

        def progress(what: str, done: int, total: int, index: int = index, name: str = name) -> None:
            show(f"{index + 1}/{len(pictures)} {name}: {what} {100 * done // max(total, 1)} %")

        frame = measure(link, name, picture, manifest, progress)
        simulated = simulator.simulate(frame)
        results.append(compare(frame, simulated, manifest))
        kept.append((frame, simulated))
    context = make_context(link, manifest, words)
    context["remarks"] = remarks(link, results)
    return Outcome(results, kept, manifest, context)


def load_pictures(paths: Sequence[Path], manifest: Manifest) -> list[tuple[str, Picture]]:
    """Files, and all pictures of folders, letterboxed to the network's size as its camera sees them."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += pictures_in(path)
        else:
            files.append(path)
    return [
        (file.name, letterbox(load_picture(file), manifest.width, manifest.height, widening=manifest.widening)[0])
        for file in files
    ]


def rendered_pictures(count: int, width: int, height: int) -> list[tuple[str, Picture]]:
    """(name, picture uint8 (height, width, 3)) of frames of a rendered scene, 3 s apart."""
    scene = Scene(7)
    return [(f"scene {number + 1}", scene.frame(3.0 * number, width, height)) for number in range(count)]


def open_engines(
    build: BuildFolder, with_float: bool, silicon: SiliconProfile = ASSUMED
) -> tuple[Run, Run | None, str]:
    """(KPU simulator, float network or None, their description)."""
    kpu = open_engine("kpu", build, silicon)
    ours = "kpu engine"
    if silicon != ASSUMED:
        count = len(silicon.differences())
        ours += f" like a chip with {count} answer{'s' * (count != 1)} of its own"
    if not with_float:
        return kpu.run, None, ours
    if not build.tflite.is_file():
        say(f"{build.tflite} is not there: no comparison with the float network")
        return kpu.run, None, ours
    return kpu.run, open_engine("tflite", build).run, f"{ours}; float TFLite for context"


def make_simulator(manifest: dict[str, Any], kpu: Run, real: Run | None, link: BoardLink) -> StageSimulator:
    """The simulators with the board's own settings."""
    options = DecoderOptions.of_board(link.board["threshold"], link.board["max_poses"])
    return StageSimulator(manifest, kpu, real, options)


def make_context(link: BoardLink, manifest: dict[str, Any], engines: str) -> dict[str, Any]:
    """Facts that tell what was compared."""
    width, height = manifest["input"]["width"], manifest["input"]["height"]
    return {
        "board": f"{link.transport.name}, MaixPy {link.board['system']}",
        "network": f"{manifest['network']} {width}x{height}, kmodel CRC {manifest['kmodel']['crc32']:08x}",
        "simulator": engines,
        "line": {"host": link.line_figures(), "board": link.info()["line"]},
    }


def remarks(link: BoardLink, results: Sequence[PictureResult]) -> list[str]:
    """Remarks on the cause of a difference: whether the board's kmodel is the one that posenet.json belongs to."""
    heads = any(not stage.equal for result in results for stage in result.stages[1:5])
    if not heads:
        return []
    try:
        link.run(["check"], timeout_ms=120_000)
    except UserError as error:
        return [f"The board about its kmodel: {str(error).partition('cannot do it: ')[2]}"]
    return ["The kmodel in the board's flash has the CRC that posenet.json names."]


def progress_line(stream: Any) -> Callable[[str, str], None]:
    """A function (passing text, lasting text): the first rewritten in place on a terminal, the second kept."""
    terminal = stream.isatty()

    def show(passing: str, lasting: str) -> None:
        passing, lasting = printable(passing), printable(lasting)
        if terminal:
            stream.write("\r\x1b[K" + (lasting + "\n" if lasting else "") + passing)
            stream.flush()
        elif lasting:
            stream.write(lasting + "\n")

    return show
