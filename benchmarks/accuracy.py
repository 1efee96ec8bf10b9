"""Accuracy of every stage, and what each quantization choice is worth: the tables of docs/accuracy-log.md.

    MAIX_POSENET_DATA=… uv run python -m benchmarks.accuracy [--write]

Takes weights, photos and ground truth from the folder MAIX_POSENET_DATA (other weights come from the cache or a
download). There are two folds, so that no picture is used both for calibration and for measurement: the ground-truth
set is measured on builds calibrated on the photos, and the photos on builds calibrated on the ground-truth set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.marked import put
from common.arrays import Bytes, Numbers
from common.cli import guarded
from common.decoder_options import DecoderOptions
from common.errors import UserError
from common.files import write_atomic
from common.pictures import letterbox, load_picture, pictures_in, to_planes
from common.pose import Pose
from model_build import nncase_witness, tflite_writer
from model_build.accuracy import Truth, agreement, load_truth, truth_scores
from model_build.build import build_network, lay_out, make_manifest
from model_build.calibration import CalibrationSet, from_folder
from model_build.channel_quantization import Choices, quantize
from model_build.decoding import make_decoder
from model_build.engines.kpu import KpuEngine
from model_build.evaluate import Evaluation, StageResult, evaluate, open_stages
from model_build.float_forward import forward
from model_build.importers import open_network
from model_build.kpu import kmodel_v3, kmodel_v5
from model_build.kpu.lower import lower
from model_build.manifest import Manifest
from model_build.network import HEADS, Network
from model_build.reference_decoder import ReferenceDecoder

NETWORKS = ("posenet-075-tfjs", "posenet-075-coral", "posenet-050", "demo")
SIZES = ((256, 192), (320, 240))
OPTIONS = DecoderOptions(max_poses=10)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy-log.md"

CHOICES: tuple[tuple[str, str | Choices], ...] = (
    ("as built", Choices()),
    ("weights rounded to nearest", Choices(compensated_rounding=False)),
    ("no bias correction", Choices(bias_correction=False)),
    ("one step a layer for weights", Choices(per_channel_weights=False)),
    ("one range a layer for activations", Choices(per_channel_activations=False)),
    ("a range for each channel, however weak", Choices(range_floor=0.02)),
    ("ranges without margin", Choices(range_margin=1.0)),
    ("ranges with 30 % margin", Choices(range_margin=1.3)),
    ("ranges with 100 % margin", Choices(range_margin=2.0)),
    ("first layer's ranges from pictures alone", Choices(camera_reach=False)),
    ("99.99th percentile instead of the maximum", Choices(range_percentile=99.99)),
    ("heads over their whole range", Choices(limit_heads=False)),
    ("nncase, no_clip", "no_clip"),
    ("nncase, kld_m2", "kld_m2"),
)
"""Row of the second table → our quantization with these choices, or one of nncase's methods."""

SURE_LOGIT = 0.0
"""Heads are compared at cells whose heatmap says at least this in float: where decoding reads them."""

Pictures = list[tuple[str, int | None, Numbers]]


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
        self.photos: Pictures = [(path.name, None, load_picture(path)) for path in pictures_in(folder / "photos")]
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


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture as the network gets it, uint8 (3, h, w), and the poses that float PoseNet finds in it."""

    planes: Bytes
    heads: dict[str, Numbers]
    poses: list[Pose]


def choice_rows(network: Network, width: int, height: int, data: Data) -> Iterable[tuple[str, list[str]]]:
    """Rows of (choice, cells): the chip stage against float over both folds, with each picture and its mirror image."""
    folds = ((data.truth_calibration, data.photos), (data.photo_calibration, data.truth_pictures))
    shown: list[list[Shown]] = []
    for label, choice in CHOICES:
        found: list[list[Pose]] = []
        errors: dict[str, list[Numbers]] = {"heatmap": [], "short_offset": []}
        for index, (calibration, pictures) in enumerate(folds):
            if isinstance(choice, Choices):
                program = lower(quantize(network, calibration.views(width, height), choice))
            else:
                tflite, shown_to_it = tflite_writer.write(network, width, height), calibration.at(width, height)
                program = kmodel_v5.read(nncase_witness.compile_tflite(tflite, shown_to_it, choice))
            model, plan = lay_out(program, width, height)
            kmodel = kmodel_v3.write(model)
            manifest = make_manifest(network, width, height, program, model, plan, kmodel)
            if index == len(shown):
                shown.append(show(network, width, height, pictures, manifest))
            engine, decode = KpuEngine(kmodel), make_decoder(manifest, OPTIONS)
            for picture in shown[index]:
                heads = dict(zip(HEADS, engine.run(picture.planes), strict=True))
                found.append(decode(heads))
                sure = picture.heads["heatmap"] >= SURE_LOGIT
                real = manifest.dequantize(heads)
                low, high = Choices().heatmap_logits
                for name, cells in (("heatmap", sure), ("short_offset", np.concatenate([sure, sure]))):
                    limits = (low, high) if name == "heatmap" else (-np.inf, np.inf)
                    errors[name].append((np.clip(picture.heads[name], *limits) - np.clip(real[name], *limits))[cells])
        result = agreement([picture.poses for fold in shown for picture in fold], found)
        yield (
            label,
            [
                *(f"{np.sqrt(np.mean(np.concatenate(errors[name]) ** 2)):.3f}" for name in errors),
                f"{result.distance_px(50):.2f}",
                f"{result.distance_px(95):.2f}",
                f"{result.distance_px(100):.1f}",
                f"{result.same_people} of {result.pictures}",
                f"{result.same_set} of {result.pictures}",
            ],
        )


def show(network: Network, width: int, height: int, pictures: Pictures, manifest: Manifest) -> list[Shown]:
    """Pass each picture and its mirror image through the float network, in NumPy, which needs no TFLite file."""
    decode = make_decoder(manifest, OPTIONS, float_heads=True)
    shown = []
    for _, _, picture in pictures:
        fitted, _ = letterbox(picture, width, height)
        for view in (fitted, np.ascontiguousarray(fitted[:, ::-1])):
            heads = {name: head.transpose(2, 0, 1) for name, head in forward(network, view).items()}
            shown.append(Shown(to_planes(view), heads, decode(heads)))
    return shown


def decoding_rows(network: Network, width: int, height: int, data: Data) -> Iterable[tuple[str, list[str]]]:
    """Rows of (vectors read, cells): truth and agreement, with vectors of the nearest cell and between cells."""
    program = lower(quantize(network, data.photo_calibration.views(width, height)))
    model, plan = lay_out(program, width, height)
    kmodel = kmodel_v3.write(model)
    manifest = make_manifest(network, width, height, program, model, plan, kmodel)
    engine = KpuEngine(kmodel)
    seen = []
    for _, identity, picture in data.truth_pictures:
        assert identity is not None
        fitted, box = letterbox(picture, width, height)
        planes = to_planes(fitted)
        real = {name: head.transpose(2, 0, 1) for name, head in forward(network, fitted).items()}
        seen.append((identity, box, real, manifest.dequantize(dict(zip(HEADS, engine.run(planes), strict=True)))))
    for label, nearest in (("of the nearest cell, as tfjs", True), ("between cells, as here", False)):
        decoder = ReferenceDecoder(network.output_stride, network.edges, max_poses=OPTIONS.max_poses, nearest=nearest)
        poses: list[list[list[Pose]]] = [[], []]
        scores = []
        for stage, kept in enumerate(poses):
            by_picture = {}
            for identity, box, *heads in seen:
                found = decoder.multi(*(np.asarray(heads[stage][name], np.float64) for name in HEADS))
                kept.append([Pose(pose.score, pose.keypoints, pose.scores) for pose in found])
                by_picture[identity] = [pose.in_source(box) for pose in kept[-1]]
            scores.append(truth_scores(data.truth, by_picture))
        near = agreement(*poses)
        yield (
            label,
            [
                *(f"{one.ap:.3f}" for one in scores),
                *(f"{one.mean_oks:.3f}" for one in scores),
                *(f"{one.pck:.3f}" for one in scores),
                f"{near.distance_px(50):.2f}",
                f"{near.distance_px(95):.2f}",
            ],
        )


def figure(value: float, digits: int) -> str:
    return "–" if value != value else f"{value:.{digits}f}"


def stage_table(rows: list[tuple[str, str, StageResult]]) -> str:
    """The first table as Markdown: every stage against truth and float."""
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
    """The second table as Markdown: what each choice of quantization is worth."""
    lines = [
        "| network | choice | heatmap | offset px | median px | p95 px | worst px | same people | same poses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join([network, label, *cells]) + " |" for network, label, cells in rows]
    return "\n".join(lines)


def decoding_table(rows: list[tuple[str, str, str, list[str]]]) -> str:
    """The third table as Markdown: what reading vectors between cells is worth."""
    lines = [
        "| network | size | vectors | AP float | AP kmodel | mean OKS float | kmodel | PCK@0.2 float | kmodel "
        "| median px | p95 px |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join([network, size, label, *cells]) + " |" for network, size, label, cells in rows]
    return "\n".join(lines)


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
    decodings: list[tuple[str, str, str, list[str]]] = []
    for name in arguments.decodings:
        for width, height in SIZES:
            for label, cells in decoding_rows(open_network(name), width, height, data):
                decodings.append((name, f"{width}×{height}", label, cells))
                print(decoding_table(decodings[-1:]).splitlines()[-1], flush=True)
    if arguments.write and decodings:
        write_atomic(PAGE, put(PAGE.read_text(encoding="utf-8"), "decodings", decoding_table(decodings)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=NETWORKS, metavar="NAME", help="rows of the first table")
    parser.add_argument("--choices", nargs="*", default=NETWORKS[:2], metavar="NAME", help="rows of the second table")
    parser.add_argument("--decodings", nargs="*", default=NETWORKS[:3], metavar="NAME", help="rows of the third table")
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{PAGE.name}")
    return guarded(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(guarded(main))
