"""Accuracy stage by stage: float at its own size, float at the chip's, kmodel with float and integer decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.arrays import Numbers, Picture
from common.decoder_options import DecoderOptions
from common.pictures import Letterbox, letterbox, to_planes
from common.pose import Pose
from model_build.accuracy import Agreement, Truth, TruthScores, agreement, truth_scores
from model_build.build_folder import BuildFolder
from model_build.decoding import Decode, make_decoder
from model_build.engines import open_engine
from model_build.engines.tflite import TfliteEngine

STAGES = (
    ("float own size", "float network at PoseNet's own form of size, a multiple of the stride plus one"),
    ("float", "float network at the chip's size, padding rewritten: the reference of the columns 'vs float'"),
    ("kmodel", "kmodel by the KPU simulator, decoded in floating point"),
    ("chip", "kmodel by the KPU simulator, decoded by the board's integer decoder"),
)
"""The stages by name, each with a description, in order from float to the chip."""

REFERENCE = "float"

Heads = Mapping[str, Numbers]


@dataclass(frozen=True)
class Stage:
    """Computes heads and poses from pictures of width × height."""

    name: str
    width: int
    height: int
    heads: Callable[[Numbers], Heads]
    decode: Decode
    mount: int = 0
    widening: float = 1.0
    """The same as Manifest.widening."""

    def poses(self, picture: Picture) -> tuple[list[Pose], Letterbox]:
        """Poses in pixels of the picture, uint8 (h, w, 3)."""
        fitted, box = letterbox(picture, self.width, self.height, self.mount, self.widening)
        return [pose.in_source(box) for pose in self.decode(self.heads(to_planes(fitted)))], box


def open_stages(build: BuildFolder, options: DecoderOptions) -> list[Stage]:
    """The four stages of a build."""
    manifest = build.load_manifest()
    width, height = manifest.width, manifest.height
    kpu = open_engine("kpu", build)
    as_float = make_decoder(manifest, options, float_heads=True)
    as_integers = make_decoder(manifest, options)
    own_size = TfliteEngine(build.tflite, (width + 1, height + 1))
    how = manifest.mount, manifest.widening
    return [
        Stage("float own size", width + 1, height + 1, own_size.run, as_float, *how),
        Stage("float", width, height, open_engine("tflite", build).run, as_float, *how),
        Stage("kmodel", width, height, lambda planes: manifest.dequantize(kpu.run(planes)), as_float, *how),
        Stage("chip", width, height, kpu.run, as_integers, *how),
    ]


@dataclass(frozen=True)
class StageResult:
    """Figures of one stage, compared with the float stage and, if there is any, with ground truth."""

    stage: str
    against_float: Agreement
    truth: TruthScores | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All stages on a set of pictures; poses[stage][picture index] and worst pictures for drawing."""

    results: tuple[StageResult, ...]
    names: tuple[str, ...]
    poses: Mapping[str, Sequence[Sequence[Pose]]]
    scales: tuple[float, ...]


def evaluate(
    stages: Sequence[Stage], pictures: Iterable[tuple[str, int | None, Picture]], truth: Truth | None = None
) -> Evaluation:
    """Run every stage over (name, COCO image id or None, uint8 (h, w, 3)) pictures.

    Distances between stages are in pixels of the network's field, so that they do not depend on how large a photo
    happens to be; ground truth is compared in pixels of the photo, as COCO does.
    """
    found: dict[str, list[list[Pose]]] = {stage.name: [] for stage in stages}
    names, identities, scales = [], [], []
    for name, identity, picture in pictures:
        names.append(name)
        identities.append(identity)
        for stage in stages:
            poses, box = stage.poses(picture)
            found[stage.name].append(poses)
            if stage.name == REFERENCE:
                scales.append(box.scale)
    in_input = {
        stage: [[pose.scaled(scale) for pose in poses] for poses, scale in zip(per_picture, scales, strict=True)]
        for stage, per_picture in found.items()
    }
    results = []
    for stage in stages:
        scores = None
        if truth is not None:
            pairs = zip(identities, found[stage.name], strict=True)
            scores = truth_scores(truth, {identity: poses for identity, poses in pairs if identity is not None})
        results.append(StageResult(stage.name, agreement(in_input[REFERENCE], in_input[stage.name]), scores))
    return Evaluation(tuple(results), tuple(names), found, tuple(scales))


def worst_pictures(evaluation: Evaluation, stage: str, count: int) -> list[int]:
    """Indices of the pictures on which a stage differs most from float, worst first; missed people count as worst."""

    def badness(index: int) -> float:
        scale = evaluation.scales[index]
        pair = [[pose.scaled(scale) for pose in evaluation.poses[name][index]] for name in (REFERENCE, stage)]
        one = agreement([pair[0]], [pair[1]])
        return (0.0 if one.same_set else 1e6) + (max(one.distances_px) if one.distances_px else 0.0)

    return sorted(range(len(evaluation.names)), key=badness, reverse=True)[:count]


COLUMNS: tuple[tuple[str, str, Callable[[StageResult], float | int | str | None]], ...] = (
    ("stage", "<16", lambda r: r.stage),
    ("AP", "6.3f", lambda r: r.truth.ap if r.truth else None),
    ("AP50", "6.3f", lambda r: r.truth.ap50 if r.truth else None),
    ("AR", "6.3f", lambda r: r.truth.ar if r.truth else None),
    ("people", "6d", lambda r: r.truth.people if r.truth else None),
    ("found", "6d", lambda r: r.truth.found if r.truth else None),
    ("OKS", "6.3f", lambda r: r.truth.mean_oks if r.truth else None),
    ("PCK@0.2", "7.3f", lambda r: r.truth.pck if r.truth else None),
    ("poses", "6d", lambda r: r.against_float.poses),
    ("pictures", "6d", lambda r: r.against_float.pictures),
    ("same people", "6d", lambda r: r.against_float.same_people),
    ("same poses", "6d", lambda r: r.against_float.same_set),
    ("median px", "9.2f", lambda r: r.against_float.distance_px(50)),
    ("p95 px", "7.2f", lambda r: r.against_float.distance_px(95)),
    ("worst px", "8.2f", lambda r: r.against_float.distance_px(100)),
)
"""Each column is a heading, a format and a value. Text, JSON and the published pages are all made of this table."""


def table_text(results: Sequence[StageResult]) -> str:
    """The table as text, for people."""
    rows = [[heading for heading, _, _ in COLUMNS]]
    for result in results:
        cells = []
        for _, form, value in COLUMNS:
            number = value(result)
            missing = number is None or number != number
            cells.append("–" if missing else format(number, form).strip())
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))
    return "\n".join(lines)


def table_json(results: Sequence[StageResult]) -> list[dict[str, Any]]:
    """The table as a dictionary, for programs; NaN becomes null."""
    return [
        {
            heading: (None if (number := value(result)) is None or number != number else number)
            for heading, _, value in COLUMNS
        }
        for result in results
    ]
