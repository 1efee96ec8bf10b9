"""Post-training quantization: float TFLite and pictures → kmodel V5, by nncase 1.9 for the target k210."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.errors import UserError
from model_build import tables, tflite_writer
from model_build.calibration import CalibrationSet
from model_build.kpu import kmodel_v5
from model_build.kpu.program import KpuProgram
from model_build.network import HEADS, Network

PER_CHANNEL = "per_channel"
NNCASE_METHODS = ("no_clip", "kld_m0", "kld_m1", "kld_m2")
"""nncase's: the extremes seen, or ranges that lose least by Kullback–Leibler divergence."""
CALIBRATE_METHODS = (PER_CHANNEL, *NNCASE_METHODS)
"""per_channel: nncase makes the KPU program, model_build.tables what it computes with (docs/accuracy.md)."""
PROGRAM_PICTURES = 2
"""Pictures that nncase gets when its ranges are not used: enough for a program."""

IDENTITY_PAD = 128
"""Pad value of a first layer whose input has scale 1/128 and zero point 128."""

_OUT_OF_MEMORY = "Allocator has ran out of memory"


@dataclass(frozen=True)
class Quantized:
    """What nncase made, and the size that it made it at."""

    v5: bytes
    program: KpuProgram
    width: int
    height: int
    compile_seconds: float
    """What nncase's compile() and gencode took, without start-up."""


class OutOfKpuMemory(UserError):
    """nncase cannot place the network at this size."""


def quantize(
    network: Network,
    width: int,
    height: int,
    calibration: CalibrationSet,
    calibrate_method: str = PER_CHANNEL,
    mse_weights: bool = False,
    choices: tables.Choices | None = None,
) -> Quantized:
    """Quantize at width×height, or at the largest smaller size of about the same shape that nncase can place.

    Weights, batch norm and activation tables do not depend on the picture's size, so the KPU layers can be
    laid out again for the wanted size. UserError if nncase fails, or if camera bytes would need converting.
    """
    check_dilation(network)
    if calibrate_method not in CALIBRATE_METHODS:
        raise UserError(
            f"calibration method {calibrate_method!r}; there are {', '.join(CALIBRATE_METHODS)}", exit_code=2
        )
    if calibrate_method == PER_CHANNEL:
        few = calibration.first(PROGRAM_PICTURES)
        quantized = quantize(network, width, height, few, NNCASE_METHODS[0], mse_weights)
        return recompute(quantized, network, calibration.views(width, height), choices)
    for quantize_width, quantize_height in candidate_sizes(width, height, network.output_stride):
        try:
            return quantize_at(network, quantize_width, quantize_height, calibration, calibrate_method, mse_weights)
        except OutOfKpuMemory as error:
            failure = error
    raise failure


def recompute(
    quantized: Quantized, network: Network, pictures: Sequence[np.ndarray], choices: tables.Choices | None = None
) -> Quantized:
    """nncase's program with tables of our own, in its V5 file as well, so that its simulator can prove them."""
    made = tables.make_tables(network, pictures, choices)
    try:
        program = made.apply(quantized.program)
    except ValueError as error:
        raise UserError(f"nncase made another program of {network.name} than was expected: {error}") from None
    return replace(quantized, v5=kmodel_v5.rewrite(quantized.v5, program), program=program)


def candidate_sizes(width: int, height: int, stride: int) -> list[tuple[int, int]]:
    """The wanted size if nncase may place it, then smaller ones whose shape differs least.

    nncase's first-fit allocator fails somewhere above 256 × 208 pixels at multiplier 0.75 and twice that
    width at 0.50; larger sizes are tried first when they are near, since ranges then come from them.
    """
    sizes = [(width, height)]
    aspect = Fraction(width, height)
    for limit in (49_152, 36_864, 20_480):
        if width * height <= limit:
            continue
        smaller = [
            (w, h)
            for w in range(4 * stride, width + 1, stride)
            for h in range(4 * stride, height + 1, stride)
            if limit // 2 <= w * h <= limit
        ]
        if smaller:
            sizes.append(min(smaller, key=lambda size: (abs(Fraction(*size) / aspect - 1), -size[0] * size[1])))
    if width * height > 60_000:
        sizes = sizes[1:]
    return sizes


def check_dilation(network: Network) -> None:
    """UserError if a layer is dilated: the KPU's kernels read adjacent pixels only."""
    for layer in network.layers():
        if layer.dilation != 1:
            raise UserError(
                f"layer {layer.name} of {network.name} is dilated by {layer.dilation}, which the KPU cannot do; import "
                f"the network at a larger output stride (this one has {network.output_stride})"
            )


def quantize_at(
    network: Network,
    width: int,
    height: int,
    calibration: CalibrationSet,
    calibrate_method: str = "no_clip",
    mse_weights: bool = False,
) -> Quantized:
    """Quantize at exactly this size; OutOfKpuMemory if nncase cannot place it."""
    if calibrate_method not in NNCASE_METHODS:
        raise UserError(
            f"calibration method {calibrate_method!r}; nncase knows {', '.join(NNCASE_METHODS)}", exit_code=2
        )
    v5, seconds = _compile(
        tflite_writer.write(network, width, height),
        calibration.samples(width, height),
        {"calibrate_method": calibrate_method, "mse_weights": mse_weights},
    )
    program = kmodel_v5.read(v5)
    check_identity_input(program)
    if len(program.outputs) != len(HEADS):
        raise UserError(f"nncase made {len(program.outputs)} outputs of {len(HEADS)} heads; cannot go on")
    return Quantized(v5, program, width, height, seconds)


def check_identity_input(program: KpuProgram) -> None:
    """UserError unless the input is quantized with scale 1/128 and zero point 128.

    The first layer's pad value is its input's zero point. 127 or 129 would mean that nncase saw another range
    than [−1, 127/128], and that camera bytes would be off by a grey level everywhere.
    """
    pad = program.layers[0].registers.pad_value
    if pad != IDENTITY_PAD:
        raise UserError(
            f"the input came out with zero point {pad}, not {IDENTITY_PAD}: camera bytes would not fit; use the "
            "calibration method no_clip, or photos with the full range of brightness"
        )


def _compile(tflite: bytes, samples: np.ndarray, options: dict) -> tuple[bytes, float]:
    """Run model_build.nncase_worker; kmodel bytes and the seconds that nncase's compile took."""
    try:
        import nncase  # noqa: F401
    except ImportError:
        raise UserError(
            "nncase is not installed (its K210 target exists for x86-64 Linux, Windows and macOS only); build on such "
            "a machine and copy the build folder here"
        ) from None
    with tempfile.TemporaryDirectory(prefix="maix-posenet-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(tflite)
        np.save(folder / "samples.npy", samples)
        (folder / "options.json").write_text(json.dumps(options))
        root = Path(__file__).resolve().parents[1]
        worker = subprocess.run(
            [sys.executable, "-m", "model_build.nncase_worker", str(folder)],
            cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if worker.returncode == 0:
            return (folder / "model.kmodel").read_bytes(), float((folder / "seconds.txt").read_text())
        said = folder / "error.txt"
        reason = said.read_text() if said.is_file() else worker.stderr.decode(errors="replace").strip()[-300:]
    height, width = samples.shape[1:3]
    if _OUT_OF_MEMORY in reason:
        raise OutOfKpuMemory(f"nncase cannot place the network at {width}x{height}: {reason}")
    raise UserError(f"nncase failed at {width}x{height} (exit {worker.returncode}): {' '.join(reason.split())}")
