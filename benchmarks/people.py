"""Networks on photos of real people: AP, OKS by size of person, ghosts, rendered people, with 95 % intervals.

    uv run python -m benchmarks.people --people DIR BUILD… [--stage float] [--json OUT]

DIR holds photos/ and keypoints.json, and keypoints_lspet.json if OKS of single people is wanted (COCO keypoint
form; pictures without people count ghosts). BUILD is a build folder, measured as the board runs it, or anything
that `build` takes (a catalogue name, a weights file), measured in floating point at --size.

Intervals are of 1,000 bootstrap samples of pictures, percentiles 2.5 and 97.5, seed 0. AP is pycocotools' own,
taken from its matches, so that a sample of pictures needs no new matching.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Numbers
from common.cli import guarded, parse_size
from common.decoder_options import DecoderOptions
from common.files import write_atomic
from common.pictures import load_picture
from common.pose import Pose
from model_build import tflite_writer
from model_build.accuracy import AnnotatedPerson, Truth, coco_results, load_truth, match, oks, oks_table, torso_px
from model_build.build_folder import BuildFolder
from model_build.engines.tflite import TfliteEngine
from model_build.evaluate import Stage, open_stages
from model_build.importers import open_network
from model_build.manifest import usual_field_width
from model_build.network import HEADS
from model_build.reference_decoder import ReferenceDecoder
from model_build.train.measure import test_scene

SAMPLES = 1000
GHOST_SCORE = 0.2
SIZES_PX = ((0.0, 48.0), (48.0, 96.0), (96.0, np.inf))
"""Longest side of a person's keypoints in the network's field."""
MAX_POSES = 10


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, sign: str) -> str:
        value, low, high = (format(part, f"{sign}.3f") for part in (self.value, self.low, self.high))
        return f"{value} ({low} … {high})"


def bootstrap(pictures: int, figure: Callable[[Numbers], float]) -> Figure:
    """The figure with its interval. `figure` is called with picture numbers, some of them several times."""
    return bootstraps(pictures, lambda numbers: np.array([figure(numbers)]))[0]


def bootstraps(pictures: int, figures: Callable[[Numbers], Numbers]) -> list[Figure]:
    """The same as `bootstrap` for several figures at once."""
    rng = np.random.default_rng(0)
    values = [figures(rng.integers(pictures, size=pictures)) for _ in range(SAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    return [
        Figure(float(v), float(a), float(b)) for v, a, b in zip(figures(np.arange(pictures)), low, high, strict=True)
    ]


class KeypointFigures:
    """AP, AP50 and AR over OKS 0.5…0.95 of pictures by number (in the order of their ids), from pycocotools' matches.

    `sides_px`: only people whose longest side, in the network's field, lies in this range count; the others, poses
    matched to them, and poses of other sizes matched to nobody are left out, as COCO does with areas.
    """

    def __init__(
        self,
        truth: Truth,
        poses: dict[int, list[Pose]],
        scales: dict[int, float],
        sides_px: tuple[float, float] = (0, np.inf),
    ):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        def outside(side_px: float) -> bool:
            return not sides_px[0] <= side_px < sides_px[1]

        results = coco_results(poses)
        self._pictures: list[dict[str, Any] | None] = [None] * len(poses)
        if not results:
            return
        annotated = json.loads(truth.path.read_text(encoding="utf-8"))
        annotated["annotations"] = [one for one in annotated["annotations"] if one["image_id"] in poses]
        for one in annotated["annotations"]:
            points = np.asarray(one["keypoints"], float).reshape(-1, 3)
            seen = points[points[:, 2] > 0, :2]
            side_px = float(np.ptp(seen, axis=0).max()) * scales[one["image_id"]] if len(seen) else 0.0
            one["iscrowd"] = int(bool(one.get("iscrowd")) or outside(side_px))
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = {"info": {}, **annotated}
            coco.createIndex()
            loaded = coco.loadRes(results)
            evaluation = COCOeval(coco, loaded, "keypoints")
            evaluation.params.imgIds = sorted(poses)
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.evaluate()
        self._recalls = evaluation.params.recThrs
        self._pictures = evaluation.evalImgs
        for identity, picture in zip(evaluation.params.imgIds, self._pictures, strict=True):
            if picture is None:
                continue
            sides = [max(loaded.anns[number]["bbox"][2:]) * scales[identity] for number in picture["dtIds"]]
            other = np.array([outside(side) for side in sides], bool)
            picture["dtIgnore"] = np.asarray(picture["dtIgnore"], bool) | (picture["dtMatches"] == 0) & other

    def __call__(self, numbers: Numbers) -> Numbers:
        """AP, AP50 and AR as float64 (3,); NaN where there is nobody of the size."""
        chosen = [picture for n in numbers if (picture := self._pictures[n]) is not None]
        people = sum(int((np.asarray(one["gtIgnore"]) == 0).sum()) for one in chosen)
        if not people:
            return np.full(3, np.nan)
        order = np.argsort(-np.concatenate([one["dtScores"] for one in chosen]), kind="mergesort")
        matched = np.concatenate([one["dtMatches"] for one in chosen], axis=1)[:, order] != 0
        ignored = np.concatenate([one["dtIgnore"] for one in chosen], axis=1)[:, order].astype(bool)
        right, wrong = np.cumsum(matched & ~ignored, axis=1), np.cumsum(~matched & ~ignored, axis=1)
        precisions, reached = [], []
        for good, bad in zip(right, wrong, strict=True):
            recall, precision = good / people, good / np.maximum(good + bad, np.spacing(1))
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(recall, self._recalls, side="left")
            inside = at < len(precision)
            precisions.append(float(np.where(inside, precision[np.minimum(at, len(precision) - 1)], 0).mean()))
            reached.append(float(recall[-1]))
        return np.array([np.mean(precisions), precisions[0], np.mean(reached)])


def average_precision(truth: Truth, poses: dict[int, list[Pose]]) -> Callable[[Numbers], float]:
    """AP alone, over people of all sizes."""
    figures = KeypointFigures(truth, poses, dict.fromkeys(poses, 1.0))
    return lambda numbers: float(figures(numbers)[0])


@dataclass(frozen=True)
class Found:
    """A person of the truth: longest side in the network's field, and OKS of the pose that found it (0 if none)."""

    side_px: float
    oks: float


def people_found(present: Sequence[AnnotatedPerson], poses: Sequence[Pose], scale: float) -> list[Found]:
    """Each person with its best pose; no pose counts for two people."""
    similarity = oks_table(present, poses)
    best = {row: float(similarity[row, column]) for row, column in match(similarity, 1e-6)}
    return [
        Found(float(np.ptp(person.keypoints[person.labelled, :2], axis=0).max()) * scale, best.get(row, 0.0))
        for row, person in enumerate(present)
    ]


def mean_oks(found: list[list[Found]], low_px: float, high_px: float) -> Figure:
    """The mean OKS of the people of a size; somebody who is not found counts as 0."""

    def figure(numbers: Numbers) -> float:
        values = [one.oks for n in numbers for one in found[n] if low_px <= one.side_px < high_px]
        return float(np.mean(values)) if values else float("nan")

    return bootstrap(len(found), figure)


def open_stage(name: str, stage: str, size: tuple[int, int], folder: Path) -> Stage:
    """The stage of a build folder, or a network in floating point."""
    options = DecoderOptions(max_poses=MAX_POSES)
    if (Path(name) / "posenet.json").is_file():
        return next(one for one in open_stages(BuildFolder(Path(name)), options) if one.name == stage)
    network = open_network(name)
    path = folder / "network.tflite"
    path.write_bytes(tflite_writer.write(network, *size))
    widening = usual_field_width(*size) / size[0]
    decoder = ReferenceDecoder(network.output_stride, network.edges, max_poses=MAX_POSES, widening=widening)

    def decode(heads: dict[str, Numbers]) -> list[Pose]:
        return decoder.multi(*(np.asarray(heads[head], np.float64) for head in HEADS))

    return Stage(name, *size, TfliteEngine(path).run, decode, widening=widening)  # type: ignore[arg-type]


def _size_name(low_px: float, high_px: float) -> str:
    if high_px < np.inf:
        return f", people {low_px:.0f} to {high_px:.0f} px"
    return f", people over {low_px:.0f} px" if low_px else ""


def measure(stage: Stage, people: Path, scenes: int) -> dict[str, Figure]:
    """All figures of one stage, by their names."""
    from tqdm import tqdm

    figures: dict[str, Figure] = {}
    truth = load_truth(people / "keypoints.json")
    poses: dict[int, list[Pose]] = {}
    found: list[list[Found]] = []
    scales: dict[int, float] = {}
    identities = sorted(truth.file_names)
    for identity in tqdm(identities, unit=" photos", disable=not sys.stderr.isatty(), leave=False):
        poses[identity], box = stage.poses(load_picture(people / "photos" / truth.file_names[identity]))
        found.append(people_found(truth.people[identity], poses[identity], box.scale))
        scales[identity] = box.scale
    for low, high in ((0, np.inf), *SIZES_PX):
        where = _size_name(low, high)
        keypoints = KeypointFigures(truth, poses, scales, (low, high))
        for name, value in zip(("AP", "AP50", "AR"), bootstraps(len(identities), keypoints), strict=True):
            figures[name + where] = value
        if where:
            figures["mean OKS" + where] = mean_oks(found, low, high)
    annotated = json.loads(truth.path.read_text(encoding="utf-8"))["annotations"]
    peopled = {int(one["image_id"]) for one in annotated}  # somebody without labelled keypoints is no ghost either
    empty = [[pose.score for pose in poses[i]] for i in identities if i not in peopled]
    if empty:
        with_ghost = np.array([any(score >= GHOST_SCORE for score in scores) for scores in empty])
        figures["ghosts in 100 pictures without people"] = bootstrap(
            len(empty), lambda numbers: 100 * float(with_ghost[numbers].mean())
        )
    single = people / "keypoints_lspet.json"
    if single.is_file():
        truth = load_truth(single)
        alone = []
        for identity in tqdm(sorted(truth.file_names), unit=" photos", disable=not sys.stderr.isatty(), leave=False):
            seen, box = stage.poses(load_picture(people / "photos" / truth.file_names[identity]))
            alone.append(people_found(truth.people[identity], seen, box.scale))
        figures["mean OKS, lspet"] = mean_oks(alone, 0, np.inf)
    if scenes:
        figures["PCK@0.2, rendered people"] = rendered_pck(stage, scenes)
    return figures


def rendered_pck(stage: Stage, scenes: int) -> Figure:
    """PCK@0.2 of all visible keypoints on rendered test scenes."""
    near, visible = np.zeros(scenes), np.zeros(scenes)
    for number in range(scenes):
        scene = test_scene(number, round(stage.width * stage.widening), stage.height)
        poses, _ = stage.poses(scene.picture)
        shown = [person.keypoints[:, 2] == 2 for person in scene.people]
        similarity = np.array(
            [
                [oks(pose.keypoints, person.keypoints, person.area, mask) for pose in poses]
                for person, mask in zip(scene.people, shown, strict=True)
            ]
        ).reshape(len(scene.people), len(poses))
        for row, column in match(similarity, 1e-6):
            person = scene.people[row]
            gap = np.linalg.norm(person.keypoints[:, :2] - poses[column].keypoints, axis=1)
            near[number] += int(((gap <= 0.2 * torso_px(person.keypoints)) & shown[row]).sum())
        visible[number] = sum(int(mask.sum()) for mask in shown)
    return bootstrap(scenes, lambda numbers: float(near[numbers].sum() / visible[numbers].sum()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="+", metavar="BUILD", help="build folder, catalogue name or weights file")
    parser.add_argument("--people", required=True, type=Path, metavar="DIR", help="photos/ and keypoints.json")
    parser.add_argument("--stage", default="chip", choices=("chip", "float"), help="stage of build folders")
    parser.add_argument("--size", default="320x240", help="size of what is no build folder (default %(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="rendered test scenes (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to OUT")
    args = parser.parse_args()
    all_figures: dict[str, dict[str, Figure]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            stage = open_stage(name, args.stage, parse_size(args.size), Path(folder))
            print(f"{name}, {stage.name} at {stage.width}x{stage.height}", flush=True)
            all_figures[name] = measure(stage, args.people, args.scenes)
            for what, figure in all_figures[name].items():
                print(f"  {what:42} {figure}", flush=True)
    if args.json:
        plain = {
            name: {what: [f.value, f.low, f.high] for what, f in figures.items()}
            for name, figures in all_figures.items()
        }
        write_atomic(args.json, json.dumps(plain, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
