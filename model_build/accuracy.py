"""Accuracy of poses: against ground truth (COCO keypoints) and against another stage's poses.

Poses are those of model_build.decoding, here in pixels of the source picture.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Flags, Floats
from common.errors import FormatError, UserError
from common.pose import Pose

COCO_SIGMAS = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
) / 1000  # fmt: skip
"""OKS needs one constant for each keypoint; these are in COCO's order, which is also PoseNet's
(cocodataset.org/#keypoints-eval)."""

MATCH_OKS = 0.5
"""Two poses are of the same person if their OKS reaches this."""

SURE_SCORE = 0.5
"""Distances count only keypoints whose score in the reference reaches this."""

SURE_POSE = 0.5
"""Poses with a lower score are near the decoder's minimum, 0.4, where any noise can add or remove them."""

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 5, 6, 11, 12


@dataclass(frozen=True, eq=False)
class AnnotatedPerson:
    """Ground truth. keypoints: float64 (K, 3), rows of x_px, y_px, COCO visibility 0, 1 or 2; area in px²."""

    keypoints: Floats
    area: float

    @property
    def labelled(self) -> Flags:
        """Which keypoints are labelled, bool (K,)."""
        return self.keypoints[:, 2] > 0


def oks(keypoints: Floats, reference: Floats, area: float, counted: Flags) -> float:
    """Object keypoint similarity, 0…1: mean of exp(−d² / (2·area·(2σ)²)) over the counted keypoints."""
    if not counted.any():
        return 0.0
    squared = ((keypoints[:, :2] - reference[:, :2]) ** 2).sum(axis=1)
    sigmas = COCO_SIGMAS if len(keypoints) == len(COCO_SIGMAS) else np.full(len(keypoints), 0.07)
    similarity = np.exp(-squared / (2 * max(area, 1.0) * (2 * sigmas) ** 2))
    return float(similarity[counted].mean())


def extent_area(pose: Pose) -> float:
    """An estimate of a person's area in px²: half the box of the sure keypoints, because people fill about half of
    it."""
    sure = pose.keypoints[pose.scores >= SURE_SCORE]
    points = sure if len(sure) >= 2 else pose.keypoints
    width, height = np.ptp(points[:, 0]), np.ptp(points[:, 1])
    return float(max(width * height * 0.5, max(width, height) ** 2 * 0.1, 100.0))


def match(similarity: Floats, least: float) -> list[tuple[int, int]]:
    """Greedy one-to-one matching, best pairs first: similarity (rows, columns) → [(row, column)]."""
    pairs = []
    left = similarity.copy()
    while left.size and left.max() >= least:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row, :] = -1
        left[:, column] = -1
    return pairs


@dataclass(frozen=True)
class Agreement:
    """How a stage's poses compare with the reference stage's, over a set of pictures."""

    pictures: int
    same_set: int
    """The number of pictures in which every pose of either stage has a matching pose in the other."""
    same_people: int
    """The same as same_set, but only poses that score at least SURE_POSE need a matching pose."""
    poses: int
    matched: int
    distances_px: tuple[float, ...]

    def distance_px(self, percentile: float) -> float:
        """A percentile of the keypoint distance, in the pixels in which the poses were given."""
        return float(np.percentile(self.distances_px, percentile)) if self.distances_px else float("nan")


def agreement(reference: Sequence[Sequence[Pose]], other: Sequence[Sequence[Pose]]) -> Agreement:
    """Compare two stages picture by picture; distances over keypoints that the reference is sure of."""
    same_set = same_people = matched = 0
    distances: list[float] = []
    for expected, found in zip(reference, other, strict=True):
        similarity = np.array([[_pose_oks(e, f) for f in found] for e in expected], np.float64).reshape(
            len(expected), len(found)
        )
        pairs = match(similarity, MATCH_OKS)
        matched += len(pairs)
        same_set += len(pairs) == len(expected) == len(found)
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        alone = [pose for i, pose in enumerate(expected) if i not in rows]
        alone += [pose for i, pose in enumerate(found) if i not in columns]
        same_people += all(pose.score < SURE_POSE for pose in alone)
        for row, column in pairs:
            sure = expected[row].scores >= SURE_SCORE
            difference = expected[row].keypoints[sure] - found[column].keypoints[sure]
            distances += list(np.hypot(difference[:, 0], difference[:, 1]))
    return Agreement(len(reference), same_set, same_people, sum(map(len, other)), matched, tuple(distances))


def _pose_oks(expected: Pose, found: Pose) -> float:
    sure = expected.scores >= SURE_SCORE
    counted = sure if sure.any() else np.ones(len(sure), bool)
    return oks(found.keypoints, expected.keypoints, extent_area(expected), counted)


@dataclass(frozen=True)
class TruthScores:
    """COCO figures (0…1; NaN where there is nothing to measure) and means over people that were found."""

    ap: float
    ap50: float
    ar: float
    people: int
    found: int
    mean_oks: float
    pck: float


@dataclass(frozen=True, eq=False)
class Truth:
    """A COCO keypoint data set: file name of each picture by id, people by picture id."""

    path: Path
    file_names: Mapping[int, str]
    people: Mapping[int, tuple[AnnotatedPerson, ...]]


def load_truth(path: Path) -> Truth:
    """Read COCO person keypoints (person_keypoints_*.json); FormatError if it is something else."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        file_names = {int(image["id"]): str(image["file_name"]) for image in data["images"]}
        people: dict[int, list[AnnotatedPerson]] = {identity: [] for identity in file_names}
        for annotation in data["annotations"]:
            keypoints = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
            if not annotation.get("iscrowd") and (keypoints[:, 2] > 0).any():
                people[int(annotation["image_id"])].append(AnnotatedPerson(keypoints, float(annotation["area"])))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --data takes a COCO person-keypoints JSON") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{path} is not a COCO person-keypoints JSON: {error!r:.120}") from None
    return Truth(path, file_names, {identity: tuple(found) for identity, found in people.items()})


def truth_scores(truth: Truth, poses: Mapping[int, Sequence[Pose]], pck_torso: float = 0.2) -> TruthScores:
    """Score poses by picture id against ground truth; AP, AP50 and AR by pycocotools over these pictures."""
    ap, ap50, ar = _coco_figures(truth, poses)
    similarities: list[float] = []
    near = counted = people = 0
    for identity, found in poses.items():
        present = truth.people[identity]
        people += len(present)
        similarity = oks_table(present, found)
        for row, column in match(similarity, 1e-6):
            person, pose = present[row], found[column]
            similarities.append(float(similarity[row, column]))
            torso = torso_px(person.keypoints, person.labelled)
            if torso:
                gap = person.keypoints[:, :2] - pose.keypoints
                near += int((np.hypot(gap[:, 0], gap[:, 1]) <= pck_torso * torso)[person.labelled].sum())
                counted += int(person.labelled.sum())
    mean = float(np.mean(similarities)) if similarities else float("nan")
    pck = near / counted if counted else float("nan")
    return TruthScores(ap, ap50, ar, people, len(similarities), mean, pck)


def oks_table(people: Sequence[AnnotatedPerson], poses: Sequence[Pose]) -> Floats:
    """OKS of every pose with every person, (people, poses), over the person's labelled keypoints."""
    table = [[oks(pose.keypoints, one.keypoints, one.area, one.labelled) for pose in poses] for one in people]
    return np.array(table, np.float64).reshape(len(people), len(poses))


def torso_px(keypoints: Floats, known: Flags | None = None) -> float:
    """Mean length of the torso's two diagonals, shoulder to opposite hip, in pixels: what PCK is measured by.

    keypoints: (17, 2 or more), x and y first. known: bool (17,), the keypoints to use; None means all. The result is 0
    if neither diagonal is known.
    """
    lengths = [
        float(np.hypot(*(keypoints[shoulder, :2] - keypoints[hip, :2])))
        for shoulder, hip in ((LEFT_SHOULDER, RIGHT_HIP), (RIGHT_SHOULDER, LEFT_HIP))
        if known is None or (known[shoulder] and known[hip])
    ]
    return float(np.mean(lengths)) if lengths else 0.0


def coco_results(poses: Mapping[int, Sequence[Pose]]) -> list[dict[str, Any]]:
    """Poses by picture id in the form of COCO's results files."""
    return [
        {
            "image_id": identity,
            "category_id": 1,
            "keypoints": [float(v) for x, y in pose.keypoints for v in (x, y, 1.0)],
            "score": float(pose.score),
        }
        for identity, found in poses.items()
        for pose in found
    ]


def _coco_figures(truth: Truth, poses: Mapping[int, Sequence[Pose]]) -> tuple[float, float, float]:
    """AP, AP50, AR of COCO's own evaluation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = coco_results(poses)
    if not results:
        return 0.0, 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        # loadRes copies `info`, which not every file has.
        coco.dataset = {"info": {}, **json.loads(truth.path.read_text(encoding="utf-8"))}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.imgIds = sorted(poses)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ar = (float(evaluation.stats[i]) for i in (0, 1, 5))
    # pycocotools gives −1 if there is no ground truth to measure with.
    return tuple(figure if figure >= 0 else float("nan") for figure in (ap, ap50, ar))  # type: ignore[return-value]
