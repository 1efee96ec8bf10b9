"""Accuracy against ground truth and against float, stage by stage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.arrays import Picture
from common.decoder_options import DEFAULTS, DecoderOptions
from common.drawing import draw_poses
from common.errors import UserError
from common.files import atomic_path, write_atomic
from common.pictures import letterbox, load_picture, pictures_in
from common.pose import Pose
from model_build.accuracy import Truth, load_truth
from model_build.build_folder import BuildFolder
from model_build.evaluate import (
    REFERENCE,
    STAGES,
    Evaluation,
    evaluate,
    open_stages,
    table_json,
    table_text,
    worst_pictures,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `model_build evaluate`."""
    parser.add_argument("--build", required=True, type=Path, metavar="DIR", help="build folder")
    parser.add_argument("--data", type=Path, metavar="COCO.json", help="ground truth: COCO person keypoints")
    parser.add_argument(
        "--images", required=True, type=Path, metavar="DIR", help="the pictures that --data names, or any photos"
    )
    parser.add_argument("--single", action="store_true", help="one person per picture")
    parser.add_argument("--max-poses", type=int, default=10, metavar="N", help="at most N people (default 10)")
    threshold = DEFAULTS.score_threshold
    parser.add_argument(
        "--threshold", type=float, default=threshold, metavar="S", help=f"score threshold ({threshold})"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the table to OUT")
    parser.add_argument("--png", type=Path, metavar="OUT", help="draw the pictures where the chip is worst")


def run(args: argparse.Namespace) -> int:
    """Evaluate a build and print the table to stdout."""
    build = BuildFolder(args.build)
    manifest = build.load_manifest()
    truth = load_truth(args.data) if args.data else None
    wanted = _pictures_wanted(args.images, args.data, truth)
    seen = calibration_names(build)
    used = [(path, identity) for path, identity in wanted if path.name not in seen]
    left_out = len(wanted) - len(used)
    if not used:
        raise UserError(
            f"the build was calibrated on all {len(wanted)} pictures, so they cannot show how good it is; build it "
            "with other photos (--calibration) or evaluate it on others"
        )

    def pictures() -> Iterator[tuple[str, int | None, Picture]]:
        for path, identity in tqdm(used, unit=" pictures", disable=not sys.stderr.isatty(), leave=False):
            yield path.name, identity, load_picture(path)

    options = DecoderOptions(single=args.single, max_poses=args.max_poses, score_threshold=args.threshold)
    evaluation = evaluate(open_stages(build, options), pictures(), truth)
    decoding = "single pose" if args.single else f"up to {args.max_poses} poses"
    note = f" ({left_out} more were calibrated on and are left out)" if left_out else ""
    print(f"{manifest.network} at {manifest.width}x{manifest.height}, {decoding}, {len(used)} pictures{note}")
    print(table_text(evaluation.results))
    for name, meaning in STAGES:
        print(f"  {name}: {meaning}")
    if args.json:
        facts = {
            "network": manifest.network,
            "size": [manifest.width, manifest.height],
            "single": args.single,
            "threshold": args.threshold,
            "pictures": list(evaluation.names),
            "left_out": left_out,
            "stages": table_json(evaluation.results),
        }
        write_atomic(args.json, json.dumps(facts, indent=1) + "\n")
    if args.png:
        _draw_worst(args.png, {path.name: path for path, _ in used}, evaluation, manifest.edges)
    return 0


def _pictures_wanted(folder: Path, data: Path, truth: Truth | None) -> list[tuple[Path, int | None]]:
    """The pictures that the ground truth names, each with its id there; without ground truth all pictures in the
    folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --images takes a folder of pictures", exit_code=2)
    if truth is None:
        wanted: list[tuple[Path, int | None]] = [(path, None) for path in pictures_in(folder)]
        if not wanted:
            raise UserError(f"{folder} holds no pictures; give a folder of JPEG or PNG files")
        return wanted
    wanted = [(folder / name, identity) for identity, name in sorted(truth.file_names.items())]
    missing = [path.name for path, _ in wanted if not path.is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(wanted)} pictures that {data} names, for example {missing[0]}"
        )
    return wanted


def calibration_names(build: BuildFolder) -> set[str]:
    """File names of the pictures that a build was calibrated on; empty if its report is missing."""
    try:
        report = json.loads(build.report_json.read_text(encoding="utf-8"))
        return set(map(str, report["quantization"]["pictures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _draw_worst(
    path: Path, files: dict[str, Path], evaluation: Evaluation, edges: tuple[tuple[int, int], ...], count: int = 6
) -> None:
    """Draw the worst pictures, one per row, float beside chip."""
    rows = []
    for index in worst_pictures(evaluation, "chip", count):
        picture = load_picture(files[evaluation.names[index]])
        pair = [
            draw_poses(picture, {"poses": list(map(_drawable, evaluation.poses[stage][index]))}, edges)
            for stage in (REFERENCE, "chip")
        ]
        rows.append(np.concatenate([letterbox(drawn, 480, 360)[0] for drawn in pair], axis=1))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")


def _drawable(pose: Pose) -> dict[str, Any]:
    points = zip(pose.keypoints, pose.scores, strict=True)
    return {"keypoints": [{"x": float(x), "y": float(y), "score": float(score)} for (x, y), score in points]}
