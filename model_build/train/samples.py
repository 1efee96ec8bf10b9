"""Training pictures: rendered scenes, or a user's own folder with COCO keypoint JSON.

Sample `index` of a source depends only on (seed, index), so that training can be stopped, resumed and
repeated. This module does not import TensorFlow, so the worker processes that render load nothing heavier than OpenCV.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from common.arrays import Bytes, Flags, Floats
from common.errors import FormatError, UserError
from common.skeleton import KEYPOINTS, MIRRORED
from model_build.scene import Scene
from model_build.train.targets import Targets, make_targets

TEST_SEED = 1_000_000_000
"""Scenes for measuring have seeds from this one on; scenes for training have smaller ones."""


@dataclass(frozen=True)
class Sample:
    """picture: uint8 (h, w, 3) RGB; keypoints_px: float32 (P, K, 2); labelled: bool (P, K)."""

    picture: Bytes
    keypoints_px: Floats
    labelled: Flags


class Source(Protocol):
    """A source of training pictures; `name` is recorded with the weights."""

    @property
    def name(self) -> str: ...

    def sample(self, index: int, width_px: int, height_px: int) -> Sample: ...


FRAMES_PER_SCENE = 4
"""A room takes longer to draw than the people in it, so this many consecutive samples show one room at different
times."""


@lru_cache(maxsize=2)
def _scene(seed: int, number: int, flat_light: bool) -> tuple[Scene, float]:
    """The scene of this number, and the height of its frames divided by that of a crop."""
    rng = np.random.default_rng([seed, number, 0])
    scene = Scene(int(rng.integers(TEST_SEED)), flat_light=flat_light)
    return scene, float(rng.uniform(1.0, 1.25))


@dataclass(frozen=True)
class RenderedScenes:
    """Crops of rendered 4:3 frames, 192 to 240 lines high when the crop has 192."""

    seed: int
    flat_light: bool = False
    name: str = "rendered scenes"

    def sample(self, index: int, width_px: int, height_px: int) -> Sample:
        scene, zoom = _scene(self.seed, index // FRAMES_PER_SCENE, self.flat_light)
        rng = np.random.default_rng([self.seed, index])
        frame_height = int(height_px * zoom)
        frame_width = max(width_px, frame_height * 4 // 3)
        time_s = float(rng.uniform(0, 60))
        frame = scene.frame(time_s, frame_width, frame_height)
        people = scene.people(time_s, frame_width, frame_height)
        points = np.stack([person.keypoints_px for person in people])
        chosen = points[rng.integers(len(people)), 5:13].mean(axis=0)
        left = int(chosen[0] - width_px * rng.uniform(0.25, 0.75))
        left = min(max(left, 0), frame_width - width_px)
        top = int(rng.integers(frame_height - height_px + 1))
        points = points - np.array([left, top], np.float32)
        picture = frame[top : top + height_px, left : left + width_px]
        return Sample(picture, points, _inside(points, width_px, height_px))


def _inside(points: Floats, width_px: int, height_px: int) -> Flags:
    inside: Flags = ((points >= -0.5) & (points < np.array([width_px, height_px]) - 0.5)).all(axis=-1)
    return inside


@dataclass(frozen=True)
class CocoPicture:
    """One annotated picture: path, and per person keypoints float32 (P, K, 2) and labels bool (P, K)."""

    path: Path
    keypoints_px: Floats
    labelled: Flags


@dataclass(frozen=True)
class CocoFolder:
    """Pictures of a folder with COCO keypoint JSON, randomly scaled, turned, mirrored, cropped and lit."""

    seed: int
    pictures: tuple[CocoPicture, ...]
    name: str = "COCO keypoint JSON"

    def sample(self, index: int, width_px: int, height_px: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        entry = self.pictures[rng.integers(len(self.pictures))]
        picture = _load_rgb(entry.path)
        points, labelled = entry.keypoints_px, entry.labelled
        # The scale shows the whole picture or less of it, around one of the people or the middle.
        scale = min(width_px / picture.shape[1], height_px / picture.shape[0]) * np.exp(rng.uniform(0, 0.9))
        middle = np.array([picture.shape[1] / 2, picture.shape[0] / 2])
        known = labelled.any(axis=1)
        if known.any():
            person = rng.choice(np.flatnonzero(known))
            middle = points[person][labelled[person]].mean(axis=0)
        angle = rng.normal() * 0.15
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.diag([mirror, 1.0])
        target = np.array([width_px, height_px]) * rng.uniform(0.35, 0.65, 2)
        matrix = np.column_stack([turn, target - turn @ middle])
        warped = cv2.warpAffine(
            picture, matrix, (width_px, height_px), flags=cv2.INTER_AREA, borderValue=(128, 128, 128)
        )
        lit = np.clip(warped * rng.uniform(0.6, 1.3) + rng.normal() * 10, 0, 255).astype(np.uint8)
        points = (points @ turn.T + matrix[:, 2]).astype(np.float32)
        if mirror < 0:
            points, labelled = points[:, MIRRORED], labelled[:, MIRRORED]
        return Sample(lit, points, labelled & _inside(points, width_px, height_px))


def _load_rgb(path: Path) -> Bytes:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise UserError(f"{path} is not a picture that OpenCV can read; replace it or take it out of the JSON")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def read_coco(json_path: Path, images_dir: Path, seed: int = 0) -> CocoFolder:
    """Pictures and people of a COCO keypoint JSON (https://cocodataset.org/#format-data).

    Raises UserError if the file or a picture is missing, FormatError if the JSON is not of this form.
    Pictures without people are kept, because a network must learn those too.
    """
    try:
        data = json.loads(json_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {json_path}: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{json_path} is not JSON: {error}") from error
    try:
        people: dict[int, list[Floats]] = {int(image["id"]): [] for image in data["images"]}
        names = {int(image["id"]): str(image["file_name"]) for image in data["images"]}
        for annotation in data["annotations"]:
            if "keypoints" in annotation and not annotation.get("iscrowd"):
                flat = np.array(annotation["keypoints"], np.float32).reshape(len(KEYPOINTS), 3)
                people[int(annotation["image_id"])].append(flat)
    except (KeyError, TypeError, ValueError) as error:
        wanted = "images (id, file_name) and annotations (image_id, keypoints of 17 × x, y, v)"
        raise FormatError(f"{json_path} is not COCO keypoint JSON: {error!r}; it must hold {wanted}") from error
    pictures = []
    for image_id, name in names.items():
        path = images_dir / Path(name).name
        if not path.is_file():
            raise UserError(f"{json_path} names {name}, which is not in {images_dir}; check --images")
        stacked = np.stack(people[image_id]) if people[image_id] else np.zeros((0, len(KEYPOINTS), 3), np.float32)
        pictures.append(CocoPicture(path, stacked[:, :, :2], stacked[:, :, 2] > 0))
    if not any(picture.labelled.any() for picture in pictures):
        raise UserError(f"{json_path} holds no person with keypoints; there is nothing to train on")
    return CocoFolder(seed, tuple(pictures), f"{json_path.name}, {len(pictures)} pictures")


@dataclass(frozen=True)
class Batch(Targets):
    """Arrays of a training step, batch first: pictures uint8, targets as in Targets or float32.

    heatmap_weight: where the heatmap counts; short_weight: how much the short offsets of a cell count.
    """

    pictures: Bytes
    heatmap_weight: Floats
    short_weight: Floats


@runtime_checkable
class BatchSource(Protocol):
    """A source that makes whole batches itself."""

    @property
    def name(self) -> str: ...

    def batch(self, indices: Sequence[int], width_px: int, height_px: int) -> Batch: ...


def make_batch(source: Source | BatchSource, indices: Sequence[int], width_px: int, height_px: int) -> Batch:
    """Samples with their targets, stacked."""
    cv2.setNumThreads(1)
    if isinstance(source, BatchSource):
        return source.batch(indices, width_px, height_px)
    samples = [source.sample(index, width_px, height_px) for index in indices]
    targets: list[Targets] = [
        make_targets(sample.keypoints_px, sample.labelled, width_px, height_px) for sample in samples
    ]
    arrays = {name: np.stack([getattr(one, name) for one in targets]) for name in Targets.__dataclass_fields__}
    heatmap = arrays["heatmap"]
    return Batch(
        **arrays,
        pictures=np.stack([sample.picture for sample in samples]),
        heatmap_weight=np.ones_like(heatmap),
        short_weight=heatmap,
    )
