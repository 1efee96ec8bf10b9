"""What it costs to see no ghosts: AP and poses without a person, for several least scores and numbers of keypoints.

    uv run python -m benchmarks.ghosts --build DIR --people DIR … [--names 'coco*' …] [--empty PICTURE…]

Each DIR holds photos/ and keypoints.json in COCO form; --names chooses among its photos. Those without people count
ghosts, and so do the pictures of --empty. Every picture goes through the chip's integers once, and is decoded with each
setting.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.people import MAX_POSES, average_precision
from common.arrays import Numbers
from common.cli import guarded
from common.decoder_options import DecoderOptions
from common.pictures import Letterbox, letterbox, load_picture, to_planes
from model_build.accuracy import Truth, load_truth
from model_build.build_folder import BuildFolder
from model_build.decoding import Decode, make_decoder
from model_build.evaluate import open_stages

KEYPOINTS = (0, 3, 4, 5, 6)
SCORES = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)


@dataclass(frozen=True)
class Group:
    """Pictures that are counted together. identities: theirs in the ground truth, if there is any. heads: of each one,
    with the place where letterbox() put it. empty: indices of the pictures without people."""

    name: str
    truth: Truth | None
    identities: list[int]
    heads: list[tuple[Mapping[str, Numbers], Letterbox]]
    empty: list[int]

    def figures(self, decode: Decode) -> str:
        """AP, if there is ground truth, and the pictures with ghosts of those without people."""
        poses = [[pose.in_source(box) for pose in decode(heads)] for heads, box in self.heads]
        ghosts = f"{sum(bool(poses[i]) for i in self.empty):4} of {len(self.empty):3}"
        if self.truth is None:
            return ghosts
        found = dict(zip(self.identities, poses, strict=True))
        return f"{average_precision(self.truth, found)(np.arange(len(found))):7.3f}{ghosts}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--build", required=True, type=Path, metavar="DIR", help="build folder")
    parser.add_argument("--people", required=True, nargs="+", type=Path, metavar="DIR", help="photos/, keypoints.json")
    parser.add_argument("--names", nargs="*", default=["*"], metavar="PATTERN", help="of the photos in --people")
    parser.add_argument("--empty", nargs="*", default=[], type=Path, metavar="PICTURE", help="more without people")
    args = parser.parse_args()
    build = BuildFolder(args.build)
    manifest = build.load_manifest()
    options = DecoderOptions(max_poses=MAX_POSES, min_keypoints=0)
    chip = next(stage for stage in open_stages(build, options) if stage.name == "chip")

    def seen(paths: list[Path]) -> list[tuple[Mapping[str, Numbers], Letterbox]]:
        """Heads of each picture."""
        all_heads = []
        for path in tqdm(paths, unit=" photos", disable=not sys.stderr.isatty(), leave=False):
            fitted, box = letterbox(load_picture(path), chip.width, chip.height, chip.mount)
            all_heads.append((chip.heads(to_planes(fitted)), box))
        return all_heads

    groups = []
    for folder in args.people:
        truth = load_truth(folder / "keypoints.json")
        names = {key: name for key, name in truth.file_names.items() if any(fnmatch(name, p) for p in args.names)}
        truth = replace(truth, file_names=names, people={key: truth.people[key] for key in names})
        identities = sorted(names)
        empty = [i for i, identity in enumerate(identities) if not truth.people[identity]]
        photos = [folder / "photos" / names[identity] for identity in identities]
        groups.append(Group(str(folder), truth, identities, seen(photos), empty))
    if args.empty:
        groups.append(Group("--empty", None, [], seen(args.empty), list(range(len(args.empty)))))
    settings = [replace(options, min_keypoints=count) for count in KEYPOINTS]
    settings += [DecoderOptions(max_poses=MAX_POSES, min_pose_score=score) for score in SCORES]
    print(f"{args.build}: AP, and pictures with ghosts of those without people, in")
    print("  least score  least keypoints  " + "  ".join(group.name for group in groups))
    for one in settings:
        decode = make_decoder(manifest, one)
        figures = "   ".join(group.figures(decode) for group in groups)
        print(f"  {one.min_pose_score:11.2f}{one.min_keypoints:17}{figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
