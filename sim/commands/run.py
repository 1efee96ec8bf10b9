"""Pose of pictures or video on the host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from common import pictures
from common.arrays import Bytes
from common.cli import positive
from common.decoder_options import DEFAULTS, DecoderOptions
from common.drawing import draw_poses
from common.errors import UserError
from common.files import atomic_path, write_atomic
from common.pose import result, to_json
from common.videos import VIDEO_SUFFIXES, open_video
from model_build.build_folder import BuildFolder
from model_build.decoding import make_decoder
from model_build.engines import ENGINES, open_engine
from model_build.kpu.silicon import ASSUMED, SiliconProfile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m sim run`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture or video files, or folders")
    parser.add_argument("--build", required=True, type=Path, metavar="DIR", help="build folder of the network")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="kpu",
        help="kpu: the chip's integers (default); tflite: the float network; nncase: nncase's own simulator, slow",
    )
    parser.add_argument(
        "--silicon", type=Path, metavar="FILE", help="compute like the chip of this profile (host_tools certify)"
    )
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--single", action="store_true", help="one person: the best place of every keypoint")
    many.add_argument(
        "--max-poses", type=positive, default=DEFAULTS.max_poses, metavar="N", help="at most N people (%(default)s)"
    )
    score = DEFAULTS.score_threshold
    parser.add_argument(
        "--threshold", type=_fraction, default=score, metavar="S", help="score of a keypoint (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write results to F (- for standard output)")
    parser.add_argument(
        "--png", type=Path, metavar="F|DIR", help="draw skeletons: one picture into F, several into folder DIR"
    )
    parser.add_argument("--tensors", type=Path, metavar="DIR", help="write input and heads of each picture as .npy")
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="use only every N-th frame of a video")


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Run pictures through engine and decoder, and write text, JSON, PNG and tensors."""
    files = _files(args.images)
    build = BuildFolder(args.build)
    manifest = build.load_manifest()
    one = len(files) == 1 and not _is_video(files[0])
    if args.png and not one and args.png.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--png {args.png}: there is more than one picture to write; name a folder")
    silicon = SiliconProfile.load(args.silicon) if args.silicon else ASSUMED
    engine = open_engine(args.engine, build, silicon)
    options = DecoderOptions(single=args.single, max_poses=args.max_poses, score_threshold=args.threshold)
    decode = make_decoder(manifest, options, float_heads=args.engine == "tflite")
    to_file = args.json is not None and str(args.json) != "-"
    text = sys.stderr if args.json is not None and not to_file else sys.stdout
    results: list[dict[str, Any]] = []
    for name, stem, more, picture in _progress(_pictures(files, args.every), len(files)):
        fitted, box = pictures.letterbox(picture, manifest.width, manifest.height, manifest.mount, manifest.widening)
        planes = pictures.to_planes(fitted)
        heads = engine.run(planes)
        entry = result(name, (picture.shape[1], picture.shape[0]), decode(heads), box, manifest.keypoints, **more)
        results.append(entry)
        print(_line(entry), file=text)
        if args.tensors:
            for part, tensor in {"input": planes, **heads}.items():
                with atomic_path(args.tensors / f"{stem}.{part}.npy") as temporary, temporary.open("wb") as file:
                    np.save(file, tensor)
        if args.png:
            target = args.png if one and args.png.suffix else args.png / f"{stem}.png"
            _save(draw_poses(picture, entry, manifest.edges, args.threshold), target)
    if not results:
        raise UserError(f"{', '.join(str(file) for file in files)}: no frame could be read")
    if to_file:
        write_atomic(args.json, to_json(results))
    elif args.json:
        sys.stdout.write(to_json(results))
    return 0


def _files(given: list[Path]) -> list[Path]:
    """The given files, with folders replaced by the pictures in them; UserError if one does not exist."""
    known = set(Image.registered_extensions()) | set(VIDEO_SUFFIXES)
    files = []
    for path in given:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in known)
            if not inside:
                raise UserError(f"{path}: no picture in this folder")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file")
    return files


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _pictures(files: list[Path], every: int) -> Iterator[tuple[str, str, dict[str, Any], Bytes]]:
    """Name, unique stem, further entries for the results, and uint8 (h, w, 3) of each picture or frame."""
    used: dict[str, int] = {}
    for path in files:
        count = used.get(path.stem, 0)
        used[path.stem] = count + 1
        stem = path.stem + (f"-{count + 1}" if count else "")
        if _is_video(path):
            yield from _frames(path, stem, every)
        else:
            yield path.name, stem, {}, pictures.load_picture(path)


def _frames(path: Path, stem: str, every: int) -> Iterator[tuple[str, str, dict[str, Any], Bytes]]:
    capture = open_video(path)
    number = 0
    try:
        while capture.grab():
            if number % every == 0:
                time_ms = round(capture.get(cv2.CAP_PROP_POS_MSEC))
                good, frame = capture.retrieve()
                if good:
                    picture = np.ascontiguousarray(frame[..., ::-1], dtype=np.uint8)
                    yield path.name, f"{stem}-{number:06d}", {"frame": number, "time_ms": time_ms}, picture
            number += 1
    finally:
        capture.release()


def _progress(items: Iterator[Any], files: int) -> Iterator[Any]:
    """The same items, with a progress bar if the output is a terminal."""
    return iter(tqdm(items, unit=" pictures", disable=not sys.stderr.isatty() or not files, leave=False))


def _line(entry: dict[str, Any]) -> str:
    where = entry["image"] + (f" frame {entry['frame']}" if "frame" in entry else "")
    scores = " ".join(f"{pose['score']:.2f}" for pose in entry["poses"])
    count = len(entry["poses"])
    return f"{where}: {count} {'pose' if count == 1 else 'poses'}" + (f", score {scores}" if scores else "")


def _save(picture: Bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")
