"""How often, and why, firmware/decoder.py and the float reference differ.

python -m benchmarks.decoder_agreement [--scenes 1000] [--seed 1]
python -m benchmarks.decoder_agreement --manifest DIR/posenet.json --tensors TENSORS

Random scenes of several map sizes, or the tensors that `python -m sim run --tensors` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic_heads import decoder_manifest, dequantize, scene
from common.arrays import Bytes, Floats
from common.decoder_options import DEFAULTS
from common.firmware_modules import firmware_module
from common.pose import PIXEL_Q8, SCORE_ONE_Q15, Pose
from model_build import manifest as manifest_file
from model_build.network import HEADS
from model_build.reference_decoder import ReferenceDecoder

ALIKE_PX = 1 / 16
"""Rounding errors may add up to this much along the edges if every decision is the same."""
STEP_PX = 1 / PIXEL_Q8
"""firmware/decoder.py rounds vectors to multiples of this."""


def exact_vectors(manifest: dict[str, Any], heads: Sequence[Bytes]) -> list[Floats]:
    """The real values as from `dequantize`, but vectors use the integer constants of firmware/decoder.py.

    On these, with vectors rounded to STEP_PX, both decoders compute exactly (float64 holds every product at strides
    that are powers of two), so they must agree in every decision.
    """
    real = dequantize(manifest, list(heads))
    for i, head in enumerate(manifest["heads"][1:], start=1):
        real[i] = manifest_file.dequantize(heads[i], np.asarray(head["mul_q16"]) / 65536, head["zero_point"])
    return real


@dataclass
class DecoderAgreement:
    """Counts of a comparison of the integer decoder with the reference."""

    scenes: int = 0
    same_count: int = 0
    poses: int = 0
    keypoints: int = 0
    within_1_px: int = 0
    scores_within_001: int = 0
    largest_error_px: float = 0.0
    differing_scenes: int = 0
    unexplained: int = 0

    def add(self, poses: Sequence[Any], reference: Sequence[Pose], rounded: Sequence[Pose]) -> None:
        """Count one scene.

        The poses are those of the integer decoder, of the reference, and of a reference that rounds as the decoder
        does.
        """
        self.scenes += 1
        self.same_count += len(poses) == len(reference)
        alike = len(poses) == len(reference)
        for pose in poses:
            if not reference:
                break
            errors = [np.abs(_points(pose) - other.keypoints).max(axis=1) for other in reference]
            best = int(np.argmin([np.median(error) for error in errors]))
            self.poses += 1
            self.keypoints += len(errors[best])
            self.within_1_px += int((errors[best] <= 1).sum())
            self.scores_within_001 += abs(pose[0] / SCORE_ONE_Q15 - reference[best].score) <= 0.01
            self.largest_error_px = max(self.largest_error_px, float(errors[best][errors[best] <= 1].max(initial=0)))
            alike = alike and errors[best].max() <= ALIKE_PX
        self.differing_scenes += not alike
        self.unexplained += not _same(poses, rounded)

    def report(self) -> str:
        return (
            f"{self.scenes} scenes, {self.poses} poses: same number of poses in {self.same_count / self.scenes:.2%}, "
            f"keypoints within 1 px {self.within_1_px / max(1, self.keypoints):.3%}, "
            f"pose scores within 0.01 {self.scores_within_001 / max(1, self.poses):.2%}; "
            f"poses differ by more than 1/16 px in {self.differing_scenes} scenes; {self.unexplained} not by rounding"
        )


def _points(pose: Sequence[int]) -> Floats:
    """Positions (K, 2), x and y in pixels, of a pose of firmware/decoder.py."""
    return Pose.from_integers(pose).keypoints


def _same(poses: Sequence[Any], rounded: Sequence[Pose]) -> bool:
    """Whether every pose is equal, in any order: positions exactly, scores within the table's rounding.

    A pose exactly at the minimum score may be missing on one side.
    """
    left = list(rounded)
    for pose in poses:
        for other in left:
            near = abs(pose[0] / SCORE_ONE_Q15 - other.score) < 1e-4
            if near and np.array_equal(_points(pose), other.keypoints):
                left = [o for o in left if o is not other]
                break
        else:
            return False
    return not left


def compare(
    manifest: dict[str, Any], frames: Iterator[list[Bytes]] | Sequence[list[Bytes]], **options: int
) -> DecoderAgreement:
    """Decode frames (four heads, uint8 CHW each) with both decoders; `options` are those of firmware/decoder.py."""
    board = DEFAULTS.for_board()
    options = {name: board[name] for name in ("min_pose_score_q15", "min_keypoints")} | options
    decoder = firmware_module("decoder").Decoder(manifest, **options)
    real: dict[str, Any] = {
        name.removesuffix("_q15"): value / SCORE_ONE_Q15 if name.endswith("_q15") else value
        for name, value in options.items()
    }
    real["widening"] = manifest.get("field", manifest["input"])["width"] / manifest["input"]["width"]
    reference = ReferenceDecoder(manifest["output_stride"], manifest["edges"], **real)
    rounding = ReferenceDecoder(manifest["output_stride"], manifest["edges"], vector_step_px=STEP_PX, **real)
    agreement = DecoderAgreement()
    for heads in frames:
        poses = [list(pose) for pose in decoder.multi([np.ascontiguousarray(head).tobytes() for head in heads])]
        float_poses = reference.multi(*dequantize(manifest, heads))
        agreement.add(poses, float_poses, rounding.multi(*exact_vectors(manifest, heads)))
    return agreement


def random_scenes(manifest: dict[str, Any], count: int, seed: int) -> Iterator[list[Bytes]]:
    """Scenes of 0 to 5 people, with up to twice the usual noise."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        yield scene(rng, manifest, n % 6, noise=float(rng.uniform(0, 2)))


def saved_tensors(folder: Path) -> Iterator[list[Bytes]]:
    """The heads that `python -m sim run --tensors FOLDER` wrote, picture by picture."""
    for path in sorted(folder.glob(f"*.{HEADS[0]}.npy")):
        stem = path.name[: -len(f".{HEADS[0]}.npy")]
        yield [np.load(folder / f"{stem}.{head}.npy") for head in HEADS]


def main() -> None:
    """Print how the integer decoder agrees with the reference."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--scenes", type=int, default=1000, help="random scenes for each map size")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--manifest", type=Path, help="posenet.json of the tensors")
    parser.add_argument("--tensors", type=Path, help="folder that `python -m sim run --tensors` wrote")
    args = parser.parse_args()
    if args.tensors and args.manifest:
        manifest = json.loads(args.manifest.read_text(encoding="utf-8"))
        print("pictures:", compare(manifest, saved_tensors(args.tensors)).report())
        return
    for width, height, stride in ((320, 240, 16), (256, 192, 16), (256, 192, 8), (256, 256, 32)):
        manifest = decoder_manifest(width, height, stride)
        agreement = compare(manifest, random_scenes(manifest, args.scenes, args.seed))
        print(f"{width}x{height}, stride {stride}: {agreement.report()}")


if __name__ == "__main__":
    main()
