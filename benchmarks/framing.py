"""What a closer look is worth: AP on photos for the whole frame, digital zoom and a sensor's window.

    uv run python -m benchmarks.framing --people DIR BUILD… [--json OUT]

DIR holds photos/ and keypoints.json in COCO form. Each photo is a field of view; the board's own framing
(firmware/framing.py) chooses the part of it that the network sees, as often as it wants. The peer is the float network
on the whole frame, in the same run. Intervals are of 1,000 bootstrap samples of pictures, 95 %; what is gained against
the peer is compared on the same sample each time.

- one view: the view holds everybody who was found, as `"framing": "auto"` does.
- one by one: each of the best one or two people, or everybody, is looked at alone, as `"framing": "each"` does.

The gain depends on how many pixels a photo has beyond 320x240: a photo of 400x300 px can be zoomed by 1.25 before it is
blurred, an OV2640 by 2.5.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from benchmarks.people import MAX_POSES, KeypointFigures, bootstraps
from common.arrays import Numbers
from common.cli import guarded
from common.decoder_options import DecoderOptions
from common.files import write_atomic
from common.firmware_modules import firmware_module
from common.pictures import load_picture
from common.pose import Pose
from model_build.accuracy import load_truth
from model_build.build_folder import BuildFolder
from model_build.evaluate import open_stages
from sim.framing import LEAST_UNITS, UNITS, Field, Looker, in_picture

Way = Callable[[str], list[Pose]]
Figures = Callable[[Numbers], Numbers]


def points(pose: SimpleNamespace) -> Numbers:
    """A pose's keypoints: int64 (K, 2) in 1/256 px."""
    return np.array(pose.frame[1:], np.int64).reshape(-1, 3)[:, :2]


def distance(one: SimpleNamespace, other: SimpleNamespace) -> float:
    """The median distance between the keypoints of two poses, in 1/256 px."""
    return float(np.median(np.abs(points(one) - points(other)).max(axis=1)))


def extent(pose: SimpleNamespace) -> float:
    """The larger side of a pose's box, in 1/256 px."""
    return float(np.ptp(points(pose), axis=0).max())


def ways(build: BuildFolder, photos: Path) -> dict[str, Way]:
    """Name → poses of a photo by its file name."""
    stages = {stage.name: stage for stage in open_stages(build, DecoderOptions(max_poses=MAX_POSES))}
    chip = stages["chip"]
    looker = Looker(chip.heads, chip.decode)

    def seen(name: str, digital: bool) -> Field:
        return Field(load_picture(photos / name), chip.width, chip.height, digital)

    return {
        "float, whole frame": lambda name: stages["float"].poses(load_picture(photos / name))[0],
        "chip, whole frame": lambda name: chip.poses(load_picture(photos / name))[0],
        "chip, digital zoom, one view": lambda name: looker.framed(seen(name, True)),
        "chip, sensor zoom, one view": lambda name: looker.framed(seen(name, False)),
        "chip, sensor zoom, one by one, 1 person": lambda name: one_by_one(looker, seen(name, False), 1),
        "chip, sensor zoom, one by one, 2 people": lambda name: one_by_one(looker, seen(name, False), 2),
        "chip, sensor zoom, one by one, everybody": lambda name: one_by_one(looker, seen(name, False), MAX_POSES),
    }


def one_by_one(looker: Looker, seen: Field, people: int) -> list[Pose]:
    """Poses as a board gets them that looks at its people in turn: each of the best `people` is looked at alone."""
    framing = firmware_module("framing").Framing(
        seen.field_width, seen.height, UNITS, LEAST_UNITS, settle=1, patience=1, look_ms=1 << 29
    )
    from_afar = looker.look(seen, framing.whole, framing)
    poses: list[SimpleNamespace] = []
    for number, pose in enumerate(from_afar):
        near = [pose]
        framing.view = framing.wanted = framing.whole
        if number < people and framing.update([pose], 0):
            near = looker.look(seen, framing.wanted, framing) or near
        closest = min(near, key=lambda one: distance(one, pose))
        if all(distance(closest, other) > 0.25 * extent(other) for other in poses):
            poses.append(closest)
    return in_picture(poses, seen)


def _with_gain(figures: Figures, base: Figures, numbers: Numbers) -> Numbers:
    """AP, AP50, and AP minus that of the base, over the pictures with these numbers."""
    ap, ap50, _ = figures(numbers)
    return np.array([ap, ap50, ap - base(numbers)[0]])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("builds", nargs="+", type=Path, metavar="BUILD", help="build folders")
    parser.add_argument("--people", required=True, type=Path, metavar="DIR", help="photos/ and keypoints.json")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to OUT")
    args = parser.parse_args()
    truth = load_truth(args.people / "keypoints.json")
    identities = sorted(truth.file_names)
    figures: dict[str, dict[str, list[float]]] = {}
    for path in args.builds:
        print(f"{path}\n  {'':42} AP                      AP50                    AP against float", flush=True)
        base: Figures | None = None
        for what, way in ways(BuildFolder(path), args.people / "photos").items():
            names = tqdm(identities, unit=" photos", disable=not sys.stderr.isatty(), leave=False)
            poses = {identity: way(truth.file_names[identity]) for identity in names}
            seen = KeypointFigures(truth, poses, dict.fromkeys(poses, 1.0))
            base = base or seen
            ap, ap50, gain = measured = bootstraps(len(identities), partial(_with_gain, seen, base))
            print(f"  {what:42} {ap}   {ap50}   {gain:+}", flush=True)
            figures.setdefault(str(path), {})[what] = [
                value for figure in measured for value in (figure.value, figure.low, figure.high)
            ]
    if args.json:
        write_atomic(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
