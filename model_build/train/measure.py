"""Accuracy on rendered test scenes, whose ground truth is exact: what each stage of the pipeline loses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.arrays import Bytes, Floats, Picture
from common.pose import Pose
from model_build.accuracy import AnnotatedPerson, match, oks, torso_px
from model_build.scene import VISIBLE, Scene
from model_build.train.samples import TEST_SEED

PCK_TORSO = 0.2


@dataclass(frozen=True)
class TestScene:
    """picture: uint8 (h, w, 3) RGB; people: ground truth in pixels of the picture, with COCO's visibility."""

    __test__ = False  # pytest would take the function for a test by its name.

    picture: Bytes
    people: tuple[AnnotatedPerson, ...]


def test_scene(number: int, width_px: int, height_px: int) -> TestScene:
    """The test scene of this number; training never sees its seed."""
    scene = Scene(TEST_SEED + number)
    time_s = number * 7.31 % 60
    people = tuple(
        AnnotatedPerson(
            np.column_stack([person.keypoints_px, person.visibility]).astype(np.float64),
            float(np.ptp(person.keypoints_px[:, 0]) * np.ptp(person.keypoints_px[:, 1]) * 0.5),
        )
        for person in scene.people(time_s, width_px, height_px)
    )
    return TestScene(scene.frame(time_s, width_px, height_px), people)


test_scene.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Accuracy:
    """Counts over a set of scenes.

    near, visible: visible keypoints within 0.2 of the torso, and all visible keypoints, of everybody in the
    scenes; keypoints of a person who is not found count as wrong. near_by_keypoint, visible_by_keypoint: int (17,).
    people, found: figures in the scenes, and those matched by a pose. extra: poses that match nobody.
    """

    scenes: int
    people: int
    found: int
    extra: int
    near_by_keypoint: Floats
    visible_by_keypoint: Floats

    @property
    def pck(self) -> float:
        """The figure PCK@0.2, between 0 and 1."""
        return float(self.near_by_keypoint.sum() / max(1, self.visible_by_keypoint.sum()))


def score(truth: Iterable[Sequence[AnnotatedPerson]], poses: Iterable[Sequence[Pose]]) -> Accuracy:
    """Compare the poses of each scene with its people, matched one to one, the most similar first."""
    near, visible = np.zeros(17, int), np.zeros(17, int)
    scenes = people = found = extra = 0
    for present, seen in zip(truth, poses, strict=True):
        shown = [person.keypoints[:, 2] == VISIBLE for person in present]
        similarity = np.array(
            [
                [oks(pose.keypoints, person.keypoints, person.area, mask) for pose in seen]
                for person, mask in zip(present, shown, strict=True)
            ]
        ).reshape(len(present), len(seen))
        pairs = match(similarity, 1e-6)
        for row, column in pairs:
            gap = np.linalg.norm(present[row].keypoints[:, :2] - seen[column].keypoints[:, :2], axis=1)
            near += (gap <= PCK_TORSO * torso_px(present[row].keypoints)) & shown[row]
        visible += np.sum(shown, axis=0, dtype=int)
        scenes += 1
        people += len(present)
        found += len(pairs)
        extra += len(seen) - len(pairs)
    return Accuracy(scenes, people, found, extra, near, visible)


Stage = Callable[[Picture], list[Pose]]
"""A stage makes poses from a picture, uint8 (h, w, 3) RGB."""


def measure(
    stages: dict[str, Stage], scenes: int, width_px: int, height_px: int, progress: Callable[[int], object]
) -> dict[str, Accuracy]:
    """Run every stage over the same test scenes; `progress` is called with 1 after each scene."""
    truth: list[tuple[AnnotatedPerson, ...]] = []
    poses: dict[str, list[list[Pose]]] = {name: [] for name in stages}
    for number in range(scenes):
        scene = test_scene(number, width_px, height_px)
        truth.append(scene.people)
        for name, stage in stages.items():
            poses[name].append(stage(scene.picture))
        progress(1)
    return {name: score(truth, found) for name, found in poses.items()}


def table(results: dict[str, Accuracy]) -> str:
    """Results as text, one row per stage, with the loss relative to the first."""
    first = next(iter(results.values()))
    lines = [f"{'stage':44} {'PCK@0.2':>8} {'loss':>6} {'people':>7} {'found':>6} {'extra':>6}"]
    for name, row in results.items():
        lines.append(
            f"{name:44} {row.pck:8.2%} {(first.pck - row.pck) * 100:6.2f} {row.people:7} {row.found:6} {row.extra:6}"
        )
    return "\n".join(lines)
