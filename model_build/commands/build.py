"""Weights → kmodel, posenet.json and report."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.cli import parse_size
from model_build import catalog
from model_build.build import build
from model_build.build_folder import default_folder
from model_build.importers import load_skeleton
from model_build.rotation import MOUNTS
from model_build.twin import TWIN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `model_build build`."""
    parser.add_argument(
        "network",
        nargs="?",
        default=catalog.DEFAULT_NETWORK,
        help=f"a name (`python -m model_build list`) or a file with weights (default: {catalog.DEFAULT_NETWORK})",
    )
    sizes = "{}x{}, demo {}x{}".format(*catalog.DEFAULT_SIZE, *catalog.DEMO_SIZE)
    parser.add_argument("--size", metavar="WxH", help=f"picture size, multiples of 16 (default: {sizes})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="build folder (default: build/NAME-WxH)")
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="photos for the quantization, best taken where the camera will be (default: "
        "MAIX_POSENET_DATA/photos, otherwise rendered scenes)",
    )  # fmt: skip
    parser.add_argument(
        "--mount", type=int, choices=MOUNTS, default=0,
        help="degrees by which the camera is turned clockwise, seen from behind it (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--twin", action="store_true",
        help="the network and its mirrored twin look at every picture together: more is found, in twice the time",
    )  # fmt: skip
    parser.add_argument(
        "--skeleton", type=Path, metavar="JSON", help="names and edges of the keypoints, if they are not PoseNet's"
    )


def run(args: argparse.Namespace) -> int:
    width, height = parse_size(args.size) if args.size else catalog.usual_size(args.network)
    name = Path(args.network).stem + (TWIN if args.twin else "")
    out = args.out or default_folder(name, width, height, mount=args.mount).path
    skeleton = load_skeleton(args.skeleton) if args.skeleton else None
    folder = build(
        args.network,
        width,
        height,
        out,
        args.calibration,
        skeleton,
        say=lambda line: print(line, flush=True),
        mount=args.mount,
        twin=args.twin,
    )
    print()
    print(folder.report_txt.read_text(encoding="utf-8"), end="")
    print(f"\n{folder.path}")
    return 0
