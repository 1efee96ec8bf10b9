"""Weights → build folder: float TFLite, quantization, KPU layout, kmodel V3, posenet.json, report."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from common.errors import UserError
from common.flash_map import KMODEL_ADDRESS
from common.pose import SCORE_ONE_Q15
from common.skeleton import Skeleton
from model_build import build_report, catalog, constant_channels, quality, tflite_writer
from model_build import manifest as manifest_file
from model_build.build_folder import BuildFolder
from model_build.calibration import CalibrationSet, choose, rendered
from model_build.channel_quantization import Choices, quantize
from model_build.engines.kpu import KpuEngine
from model_build.importers import open_network
from model_build.kpu import constraints, kmodel_v3, layout, lower, overlap
from model_build.kpu import report as kpu_report
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layout_search import LayoutPlan
from model_build.kpu.program import KpuProgram, ProgramOutput
from model_build.kpu.ram import LINE_BYTES
from model_build.manifest import HeadQuantization, KmodelFacts, Manifest, map_size
from model_build.network import HEADS, Network
from model_build.rotation import rotate
from model_build.twin import with_twin

QUALITY_PICTURES = 5
"""The report's quality is measured on this many pictures, spread over the calibration set."""
FAR_FROM_FLOAT = 0.003
"""If the heads are at least this far from float (Quality.distance), nearest rounding is tried too; PoseNet is at
0.002."""

Say = Callable[[str], None]


def build(
    name_or_file: str | Path,
    width: int,
    height: int,
    out_dir: Path,
    calibration_dir: Path | None = None,
    skeleton: Skeleton | None = None,
    say: Say = lambda line: None,
    mount: int = 0,
    twin: bool = False,
) -> BuildFolder:
    """Build a network for width×height into `out_dir`, which is written completely or not at all.

    mount: degrees clockwise by which the camera is turned; width and height are those of its frames. twin: with its
    mirrored twin beside it (model_build/twin.py). Same inputs give the same bytes. UserError says what does not fit,
    cannot be obtained or cannot be read.
    """
    # Both are checked before weights are downloaded.
    check_replaceable(out_dir)
    photos = None if calibration_dir is None else choose(calibration_dir)
    network = open_network(name_or_file, skeleton)
    if twin:
        network = with_twin(network)
    # The network `demo` knows only rendered people: photos would give it ranges that it never uses.
    calibration = photos or (rendered() if network.source_id == "demo" else choose())
    return build_network(network, width, height, out_dir, calibration, say, mount)


def build_network(
    network: Network,
    width: int,
    height: int,
    out_dir: Path,
    calibration: CalibrationSet,
    say: Say = lambda line: None,
    mount: int = 0,
) -> BuildFolder:
    """The same as `build`, from a network and pictures, both of an upright camera."""
    network = constant_channels.fold(rotate(network, mount))
    constraints.check_size(width, height, network.output_stride)
    lower.check_dilation(network)
    check_replaceable(out_dir)
    say(f"calibration: {calibration.origin}")
    views = calibration.views(width, height, mount, field_width=manifest_file.usual_field_width(width, height))

    def attempt(choices: Choices) -> Attempt:
        program = lower.lower(quantize(network, views, choices))
        model, plan = lay_out(program, width, height)
        kmodel = kmodel_v3.write(model)
        manifest = make_manifest(network, width, height, program, model, plan, kmodel, mount)
        measured = measure_quality(network, manifest, kmodel, calibration)
        return Attempt(choices, program, model, plan, kmodel, manifest, measured)

    made = attempt(Choices())
    if made.measured.distance > FAR_FROM_FLOAT:
        made = better(made, attempt(Choices(compensated_rounding=False)))
    manifest, kmodel, measured = made.manifest, made.kmodel, made.measured
    kpu = kpu_report.make(made.model, made.plan, made.program)
    report = build_report.make(network, manifest, kpu, calibration, measured, made.rounding)
    say(f"weights rounded {made.rounding}")
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    folder = BuildFolder(out_dir)
    folder.write(
        {
            folder.tflite.name: tflite_writer.write(network, width, height),
            folder.kmodel.name: kmodel,
            folder.manifest.name: manifest.to_json().encode(),
            folder.report_json.name: (json.dumps(report, indent=1) + "\n").encode(),
            folder.report_txt.name: build_report.text(report, kpu).encode(),
            "report.csv": kpu.csv().encode(),
        }
    )
    return folder


@dataclass(frozen=True)
class Attempt:
    """A kmodel made with one set of choices, and how far its heads are from float."""

    choices: Choices
    program: KpuProgram
    model: KmodelV3
    plan: LayoutPlan
    kmodel: bytes
    manifest: Manifest
    measured: quality.Quality

    @property
    def rounding(self) -> str:
        return "with compensation" if self.choices.compensated_rounding else "to nearest"


def better(compensated: Attempt, nearest: Attempt) -> Attempt:
    """The attempt to keep: the one with nearest rounding only if its heads are closer to float.

    Compensated rounding is nearly always better, but it can be worse for weights that had been quantized before.
    """
    return nearest if nearest.measured.distance < compensated.measured.distance else compensated


def lay_out(program: KpuProgram, width: int, height: int) -> tuple[KmodelV3, LayoutPlan]:
    """The program at the wanted size, and the plan; UserError if it does not fit into KPU RAM."""
    model, plan = layout.lay_out(program, width, height)
    overlap.check(model)
    return model, plan


def make_manifest(
    network: Network,
    width: int,
    height: int,
    program: KpuProgram,
    model: KmodelV3,
    plan: LayoutPlan,
    kmodel: bytes,
    mount: int = 0,
) -> Manifest:
    """posenet.json for a kmodel V3."""
    cells = map_size(width, network.output_stride) * map_size(height, network.output_stride)
    heads = tuple(
        _head_quantization(name, index, output, network.heads[name].out_channels, cells)
        for index, (name, output) in enumerate(zip(HEADS, program.outputs, strict=True))
    )
    manifest = Manifest(
        network=network.name,
        source_id=network.source_id,
        source_sha256=network.source_sha256,
        width=width,
        height=height,
        output_stride=network.output_stride,
        mount=mount,
        appear_score_q15=round(catalog.appear_score(network.source_sha256) * SCORE_ONE_Q15),
        field_width=manifest_file.usual_field_width(width, height),
        keypoints=network.keypoints,
        edges=network.edges,
        heads=heads,
        sigmoid_q15=manifest_file.sigmoid_table_q15(float(heads[0].scale), int(heads[0].zero_point)),  # type: ignore[arg-type]
        kmodel=KmodelFacts(
            version=kmodel_v3.VERSION,
            bytes=len(kmodel),
            sha256=hashlib.sha256(kmodel).hexdigest(),
            crc32=zlib.crc32(kmodel),
            flash_address=KMODEL_ADDRESS,
            kpu_ram_bytes=plan.peak_lines * LINE_BYTES,
            main_mem_bytes=model.main_mem_bytes,
        ),
    )
    manifest_file.validate(manifest)
    return manifest


def _head_quantization(name: str, index: int, output: ProgramOutput, channels: int, cells: int) -> HeadQuantization:
    if output.scale is None or output.zero_point is None:
        raise ValueError(f"the program has no scale for the head {name}")
    scale = list(output.scale) if isinstance(output.scale, tuple) else float(output.scale)
    zero_point = int(output.zero_point)
    return HeadQuantization(name, index, channels, scale, zero_point, manifest_file.mul_q16(scale), channels * cells)


def measure_quality(
    network: Network, manifest: Manifest, kmodel: bytes, calibration: CalibrationSet
) -> quality.Quality:
    """Compare the kmodel's heads, computed by the KPU engine, with float on some of the calibration pictures."""
    engine = KpuEngine(kmodel)
    count = len(calibration.pictures)
    chosen = np.unique(np.linspace(0, count - 1, min(count, QUALITY_PICTURES)).round().astype(int))
    some = CalibrationSet(tuple(calibration.pictures[i] for i in chosen), (), "")
    pictures = some.at(manifest.width, manifest.height, manifest.mount, manifest.field_width)
    # One thread is faster here: with matrices this small, several would only wait for each other.
    with threadpool_limits(1):
        return quality.measure(
            network, manifest.heads, pictures, lambda planes: dict(zip(HEADS, engine.run(planes), strict=True))
        )


def check_replaceable(folder: Path) -> None:
    """UserError if `folder` holds something other than an earlier build."""
    if folder.is_dir() and any(folder.iterdir()) and not BuildFolder(folder).manifest.is_file():
        raise UserError(f"{folder} holds files that are not a build; give an empty or new folder with --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder with --out")
