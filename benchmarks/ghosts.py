"""What it costs to see no ghosts: AP and poses without a person, for several least scores and numbers of keypoints.

    uv run python -m benchmarks.ghosts --build DIR --people DIR [--empty PICTURE…]

--people holds photos/ and keypoints.json in COCO form; its pictures without people, and those of --empty, count ghosts.
Every picture goes through the chip's integers once, and is decoded with each setting.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.people import MAX_POSES, average_precision
from common.cli import guarded
from common.decoder_options import DecoderOptions
from common.pictures import letterbox, load_picture, to_planes
from common.pose import Pose
from model_build.accuracy import load_truth
from model_build.build_folder import BuildFolder
from model_build.decoding import make_decoder
from model_build.evaluate import open_stages

KEYPOINTS = (0, 3, 4, 5, 6)
SCORES = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--build", required=True, type=Path, metavar="DIR", help="build folder")
    parser.add_argument("--people", required=True, type=Path, metavar="DIR", help="photos/ and keypoints.json")
    parser.add_argument("--empty", nargs="*", default=[], type=Path, metavar="PICTURE", help="more without people")
    args = parser.parse_args()
    build = BuildFolder(args.build)
    manifest = build.load_manifest()
    options = DecoderOptions(max_poses=MAX_POSES, min_keypoints=0)
    chip = next(stage for stage in open_stages(build, options) if stage.name == "chip")
    truth = load_truth(args.people / "keypoints.json")
    identities = sorted(truth.file_names)
    paths = [args.people / "photos" / truth.file_names[identity] for identity in identities] + args.empty
    seen = []
    for path in tqdm(paths, unit=" photos", disable=not sys.stderr.isatty(), leave=False):
        fitted, box = letterbox(load_picture(path), chip.width, chip.height, chip.mount)
        seen.append((chip.heads(to_planes(fitted)), box))
    empty = [i for i, identity in enumerate(identities) if not truth.people[identity]]
    empty += range(len(identities), len(paths))
    settings = [replace(options, min_keypoints=count) for count in KEYPOINTS]
    settings += [DecoderOptions(max_poses=MAX_POSES, min_pose_score=score) for score in SCORES]
    print(f"{args.build}, {len(identities)} photos, {len(empty)} pictures without people")
    print("  least score  least keypoints     AP  with ghosts  named")
    for one in settings:
        decode = make_decoder(manifest, one)
        poses: list[list[Pose]] = [[pose.in_source(box) for pose in decode(heads)] for heads, box in seen]
        found = dict(zip(identities, poses, strict=False))
        ghosts = [paths[i].name for i in empty if poses[i]]
        ap = average_precision(truth, found)(np.arange(len(identities)))
        named = " ".join(ghosts) if len(ghosts) <= 4 else ""
        print(f"  {one.min_pose_score:11.2f}{one.min_keypoints:17}{ap:7.3f}{len(ghosts):13}  {named}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
