"""Accuracy of every stage, and what each quantization choice is worth: the tables of docs/accuracy.md.

    MAIX_POSENET_DATA=… uv run python -m benchmarks.accuracy [--write]

Takes weights, photos and ground truth from the folder MAIX_POSENET_DATA (weights otherwise from the cache or by
download). Two folds, so that no picture is both calibrated on and measured: the ground-truth set is measured on
builds calibrated on the photos, the photos on builds calibrated on the ground-truth set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from host_tools.cli import guarded
from host_tools.errors import UserError
from host_tools.files import write_atomic
from model_build import quantize
from model_build.accuracy import Truth, agreement, load_truth
from model_build.build import build_network, lay_out, make_manifest
from model_build.calibration import CalibrationSet, from_folder
from model_build.evaluate import Evaluation, Stage, StageResult, evaluate, open_stages, picture_files
from model_build.importers import open_network
from model_build.kpu import kmodel_v3
from model_build.network import HEADS, Network
from model_build.tables import Choices
from sim.decoding import Options, Pose, make_decoder
from sim.engines.kpu import KpuEngine
from sim.pictures import load_picture

NETWORKS = ("posenet-075-tfjs", "posenet-075-coral", "posenet-050", "demo")
SIZES = ((256, 192), (320, 240))
OPTIONS = Options(max_poses=10)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"

TEN = Choices(range_margin=1.1)
CHOICES: tuple[tuple[str, str | Choices], ...] = (
    ("as built: ranges with 30 % margin", Choices()),
    ("ranges with 10 % margin", TEN),
    ("10 %, one range a layer for activations", replace(TEN, per_channel_activations=False)),
    ("10 %, a range for each channel, however weak", replace(TEN, range_floor=0.02)),
    ("10 %, one step a layer for weights", replace(TEN, per_channel_weights=False)),
    ("10 %, no bias correction", replace(TEN, bias_correction=False)),
    ("10 %, heads over their whole range", replace(TEN, limit_heads=False)),
    ("ranges without margin", Choices(range_margin=1.0)),
    ("10 %, 99.99th percentile instead of the maximum", replace(TEN, range_percentile=99.99)),
    ("nncase, no_clip", "no_clip"),
    ("nncase, kld_m2", "kld_m2"),
)
"""Row of the second table → our tables with these choices, or one of nncase's methods."""

Pictures = list[tuple[str, int | None, np.ndarray]]


class Data:
    """Photos and ground truth of the folder MAIX_POSENET_DATA."""

    def __init__(self) -> None:
        folder = Path(os.environ.get("MAIX_POSENET_DATA") or "missing")
        if not (folder / "photos").is_dir() or not (folder / "keypoints").is_dir():
            raise UserError(f"{folder} holds no photos/ and keypoints/; set MAIX_POSENET_DATA to the folder that does")
        truth_images = folder / "keypoints" / "images"
        self.truth: Truth = load_truth(folder / "keypoints" / "person_keypoints.json")
        self.photo_calibration = from_folder(folder / "photos")
        self.truth_calibration = from_folder(truth_images)
        self.photos: Pictures = [(path.name, None, load_picture(path)) for path in picture_files(folder / "photos")]
        self.truth_pictures: Pictures = [
            (name, identity, load_picture(truth_images / name))
            for identity, name in sorted(self.truth.file_names.items())
        ]


def stage_rows(network: Network, width: int, height: int, data: Data) -> list[StageResult]:
    """All stages of one network at one size: ground truth from one fold, distances from the other."""
    with tempfile.TemporaryDirectory() as name:

        def fold(part: str, calibration: CalibrationSet, pictures: Pictures, truth: Truth | None) -> Evaluation:
            build = build_network(network, width, height, Path(name) / part, calibration)
            return evaluate(open_stages(build, OPTIONS), pictures, truth)

        with_truth = fold("photos", data.photo_calibration, data.truth_pictures, data.truth)
        with_photos = fold("truth", data.truth_calibration, data.photos, None)
    return [
        replace(photos, truth=truth.truth)
        for photos, truth in zip(with_photos.results, with_truth.results, strict=True)
    ]


def choice_rows(network: Network, width: int, height: int, data: Data) -> Iterable[tuple[str, list[str]]]:
    """(choice, cells): agreement of the chip stage with float over both folds, for each choice."""
    folds = ((data.truth_calibration, data.photos), (data.photo_calibration, data.truth_pictures))
    program = quantize.quantize(network, width, height, data.photo_calibration.first(2), "no_clip")
    for label, choice in CHOICES:
        expected: list[list[Pose]] = []
        found: list[list[Pose]] = []
        for calibration, pictures in folds:
            if isinstance(choice, Choices):
                made = quantize.recompute(program, network, calibration.views(width, height), choice)
            else:
                made = quantize.quantize(network, width, height, calibration, choice)
            model, plan = lay_out(made, width, height)
            kmodel = kmodel_v3.write(model)
            manifest = make_manifest(network, width, height, made, model, plan, kmodel)
            engine = KpuEngine(kmodel)

            def run(planes: np.ndarray, engine: KpuEngine = engine) -> dict[str, np.ndarray]:
                return dict(zip(HEADS, engine.run(planes), strict=True))

            stages = [
                float_stage(network, width, height, manifest),
                Stage("chip", width, height, run, make_decoder(manifest, OPTIONS)),
            ]
            evaluation = evaluate(stages, pictures)
            for index, scale in enumerate(evaluation.scales):
                for stage, kept in (("float", expected), ("chip", found)):
                    poses = evaluation.poses[stage][index]
                    kept.append([replace(pose, keypoints=pose.keypoints * scale) for pose in poses])
        result = agreement(expected, found)
        yield label, [
            f"{result.distance_px(50):.2f}",
            f"{result.distance_px(95):.2f}",
            f"{result.distance_px(100):.1f}",
            f"{result.same_people} of {result.pictures}",
            f"{result.same_set} of {result.pictures}",
        ]


def float_stage(network: Network, width: int, height: int, manifest: object) -> Stage:
    """The float network in NumPy, which needs no TFLite file."""
    from model_build.float_forward import forward
    from model_build.manifest import Manifest

    assert isinstance(manifest, Manifest)

    def run(planes: np.ndarray) -> dict[str, np.ndarray]:
        heads = forward(network, np.ascontiguousarray(planes.transpose(1, 2, 0)))
        return {name: head.transpose(2, 0, 1) for name, head in heads.items()}

    return Stage("float", width, height, run, make_decoder(manifest, OPTIONS, float_heads=True))


def figure(value: float, digits: int) -> str:
    return "–" if value != value else f"{value:.{digits}f}"


def stage_table(rows: list[tuple[str, str, StageResult]]) -> str:
    """Markdown."""
    lines = [
        "| network | size | stage | AP | AP50 | AR | mean OKS | PCK@0.2 "
        "| same people | same poses | median px | p95 px |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network, size, row in rows:
        truth, near = row.truth, row.against_float
        assert truth is not None
        cells = [
            network, size, row.stage, figure(truth.ap, 3), figure(truth.ap50, 3), figure(truth.ar, 3),
            figure(truth.mean_oks, 3), figure(truth.pck, 3), f"{near.same_people} of {near.pictures}",
            f"{near.same_set} of {near.pictures}", figure(near.distance_px(50), 2), figure(near.distance_px(95), 2),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def choice_table(rows: list[tuple[str, str, list[str]]]) -> str:
    """Markdown."""
    lines = [
        "| network | choice | median px | p95 px | worst px | same people | same poses |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join([network, label, *cells]) + " |" for network, label, cells in rows]
    return "\n".join(lines)


def put(page: str, name: str, table: str) -> str:
    """Replace what stands between the markers `<!-- name -->` and `<!-- end -->`."""
    begin = f"<!-- {name} -->\n"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition("<!-- end -->")
    if not found or not closed:
        raise UserError(f"{PAGE} has no place marked {begin.strip()} … <!-- end -->")
    return f"{head}{begin}{table}\n{closed}{tail}"


def run(arguments: argparse.Namespace) -> int:
    data = Data()
    rows: list[tuple[str, str, StageResult]] = []
    for name in arguments.networks:
        for width, height in SIZES:
            network = open_network(name)
            for row in stage_rows(network, width, height, data):
                rows.append((name, f"{width}×{height}", row))
            print(stage_table(rows[-4:]), flush=True)
    if arguments.write and rows:
        write_atomic(PAGE, put(PAGE.read_text(encoding="utf-8"), "stages", stage_table(rows)))
    choices: list[tuple[str, str, list[str]]] = []
    for name in arguments.choices:
        for label, cells in choice_rows(open_network(name), *SIZES[0], data):
            choices.append((name, label, cells))
            print(choice_table(choices[-1:]).splitlines()[-1], flush=True)
    if arguments.write and choices:
        write_atomic(PAGE, put(PAGE.read_text(encoding="utf-8"), "choices", choice_table(choices)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, metavar="NAME", help="rows of the first table")
    parser.add_argument("--choices", nargs="*", default=NETWORKS[:2], metavar="NAME", help="rows of the second table")
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{PAGE.name}")
    return guarded(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
