"""Make training crops from photos, with a teacher network's answers and the known keypoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from common.cli import positive
from common.errors import UserError
from common.text import runnable
from model_build.importers import open_network
from model_build.train.crops import CropStore, open_teacher, read_photos
from model_build.train.samples import RenderedScenes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `model_build make-crops`."""
    parser.description = (
        "Make training crops for `train --crops`: what a teacher network says of every part of them, and known "
        "keypoints over that. Can be stopped and goes on when called again; training may start meanwhile."
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="training photos")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], metavar="COCO.json",
        help="known keypoints; of several files, the first that has people in a photo is used for it",
    )  # fmt: skip
    parser.add_argument(
        "--aim",
        type=Path,
        action="append",
        default=[],
        metavar="COCO.json",
        help="predictions that tell where people are likely to be",
    )
    parser.add_argument(
        "--empty", default="", metavar="GLOB", help="photos that certainly show nobody, for example 'houses*'"
    )
    parser.add_argument("--twice", action="append", default=[], metavar="GLOB", help="photos to draw twice as often")
    parser.add_argument("--large", action="store_true", help="show people larger, for a network of people who are near")
    parser.add_argument("--leave-out", type=Path, metavar="FILE", help="names of photos to leave out, one per line")
    parser.add_argument("--teacher", default="posenet-075-tfjs", help="catalogue name or weights (default %(default)s)")
    parser.add_argument("--count", type=positive, default=14_000, help="crops in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write to, 0.4 MB per crop"
    )


def run(args: argparse.Namespace) -> int:
    """Make the crops that the folder does not hold yet."""
    left_out: set[str] = set()
    if args.leave_out:
        try:
            left_out = set(args.leave_out.read_text(encoding="utf-8").split())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {args.leave_out}: {error}") from None
    photos = read_photos(args.images, args.data, args.aim, args.empty, args.twice, left_out)
    network = open_network(args.teacher)
    store = CropStore(args.out, args.count)
    with tqdm(total=store.count, initial=store.made, unit=" crops", disable=not sys.stderr.isatty()) as bar:

        def progress(made: int) -> None:
            bar.update()
            if bar.disable and made % 500 == 0:
                print(f"{made} of {store.count} crops", flush=True)

        store.fill(photos, RenderedScenes(args.seed), open_teacher(network), progress, args.large)
    command = f"`python -m model_build train --crops {args.out.resolve()}`"
    print(runnable(f"{args.out}: {store.made} crops of {len(photos)} photos; next: {command}"))
    return 0
