"""Train a network on rendered scenes, on crops made ahead, or on your own pictures."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from common.arrays import Numbers, Picture
from common.cli import parse_size, positive
from common.decoder_options import DecoderOptions
from common.errors import UserError
from common.files import write_atomic
from common.pictures import to_planes
from common.pose import Pose
from common.text import runnable
from model_build import catalog
from model_build.build_folder import BuildFolder
from model_build.commands import make_crops
from model_build.decoding import make_decoder
from model_build.engines import open_engine
from model_build.float_forward import forward
from model_build.network import HEADS, Network
from model_build.reference_decoder import ReferenceDecoder
from model_build.scene import DATA_VERSION
from model_build.tensorflow_group import tensorflow
from model_build.train import weights_file
from model_build.train.crops import StoredCrops
from model_build.train.measure import Stage, measure, table
from model_build.train.samples import BatchSource, RenderedScenes, Source, read_coco

# These load TensorFlow, which measuring and averaging do without.
if TYPE_CHECKING:
    from model_build.train.machines import Machines
    from model_build.train.trainer import Schedule, Trainer

WHAT_IT_SEES = "This network was trained on rendered people and finds rendered people only."
QUANTIZED_RATE = 0.1
"""Training with 8-bit rounding uses this fraction of the schedule's highest learning rate."""
MAY_BE_NOTHING = ("weight_decay", "warmup_steps", "seed", "early_px")
DEFAULT_OUT = Path("build/train/weights.npz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `model_build train`."""
    parser.description = (
        "Train a network of PoseNet's form on the CPU: on crops that `make-crops` made, on pictures of your own, or on "
        "rendered scenes, where neither is given; such a network finds rendered people only."
    )
    _add_pictures(parser)
    _add_schedule(parser)
    _add_machines(parser)
    _add_averaging(parser)
    _add_measuring(parser)


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="weights file to write (default %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="state to resume from (default: OUT with .checkpoint.npz)")
    parser.add_argument("--data", type=Path, metavar="COCO.json", help="train on these annotations, not on scenes")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures that --data names")
    parser.add_argument("--crops", type=Path, metavar="DIR", help="train on the crops that make-crops put there")
    parser.add_argument("--teacher", metavar="NAME", help="with --data: first make crops with this network's answers")
    parser.add_argument(
        "--rendered-share",
        type=float,
        default=0.2,
        metavar="S",
        help="with --crops: the share of windows with rendered people",
    )
    parser.add_argument(
        "--empty-crops", type=Path, metavar="DIR", help="with --crops: further crops, without people, against ghosts"
    )
    parser.add_argument("--empty-share", type=float, default=0.25, metavar="S", help="the share of windows from there")
    parser.add_argument("--crop-count", type=positive, default=2000, help="how many crops (default %(default)s)")
    parser.add_argument("--flat-light", action="store_true", help="scenes without shade on the figures' far side")
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FILE",
        help="start from these weights (a file, or a network that comes with the repository); a larger --trunk grows "
        "from them",
    )


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    schedule = parser.add_argument_group("schedule (a resumed run must have the same)")
    schedule.add_argument("--steps", type=int, help="training steps")
    schedule.add_argument("--batch", type=int, help="pictures per step")
    schedule.add_argument("--size", metavar="WxH", help="size of the training crops, px")
    schedule.add_argument(
        "--early-px", type=int, metavar="PX", help="side of the square crops of the first 60 %% of steps"
    )
    schedule.add_argument("--width", type=float, help="MobileNet's width multiplier")
    schedule.add_argument(
        "--trunk", help="the layers of another trunk ('lines': the one for this chip; docs/training.md)"
    )
    schedule.add_argument(
        "--quantized-steps", type=int, default=0, metavar="N", help="N more steps with rounding to 8 bits"
    )
    schedule.add_argument("--seed", type=int, help="seed of the pictures and the first weights")
    schedule.add_argument("--warmup-steps", type=int, help="steps in which the rate rises")
    schedule.add_argument("--learning-rate", type=float, help="highest rate of the schedule")
    schedule.add_argument(
        "--twin", action="store_true", help="train the network together with its mirrored twin, for `build --twin`"
    )


def _add_machines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=1, help="processes that make pictures (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="TensorFlow's threads (default %(default)s)")
    parser.add_argument(
        "--machines",
        metavar="HOST:PORT,…",
        help="train on all of these machines, including this one (docs/training.md)",
    )
    parser.add_argument("--machine", type=int, default=0, metavar="N", help="number of this machine, counted from 0")


def _add_averaging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--average", type=Path, nargs="+", metavar="FILE",
        help="instead of training: write the mean of these weights files, which have the same layers, to OUT",
    )  # fmt: skip
    parser.add_argument(
        "--logit-shift", type=float, default=0.0, metavar="L",
        help="with --average: add L to the heatmap's logits; -0.2 sees fewer ghosts, and fewer people",
    )  # fmt: skip


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    measuring = parser.add_argument_group("measuring instead of training")
    measuring.add_argument("--measure", type=Path, metavar="FILE", help="print the accuracy of these weights, by stage")
    measuring.add_argument("--build", type=Path, metavar="DIR", help="with --measure: also TFLite, kmodel and decoder")
    measuring.add_argument("--scenes", type=int, default=500, help="test scenes (default %(default)s)")
    measuring.add_argument("--record", action="store_true", help="with --measure: write the figures into the file")
    measuring.add_argument("--json", type=Path, metavar="F", help="with --measure: write the figures there too")


def run(args: argparse.Namespace) -> int:
    """Train, or continue a training, and write the weights file; or measure one."""
    if args.measure:
        return _measure(args)
    if args.average:
        return _average(args)
    if bool(args.data) != bool(args.images):
        raise UserError("--data COCO.json and --images DIR belong together; give both, or neither for scenes")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    tensorflow("training")
    from model_build.train.grow import grow
    from model_build.train.machines import join
    from model_build.train.trainer import limit_threads

    start_path = _path(args.start_from) if args.start_from else None
    start = weights_file.load(start_path) if start_path else None
    schedule = _schedule(args, start)
    if start is not None:
        start = grow(start, schedule.trunk, schedule.seed)
    source = _source(args, schedule)
    checkpoint = args.checkpoint or args.out.with_suffix(".checkpoint.npz")
    limit_threads(args.threads)
    machines = join(args.machines.split(","), args.machine) if args.machines else None
    print(f"training on {source.name}: {schedule.steps} steps of {schedule.batch} pictures, {checkpoint} is kept up")
    trainer = _train(args, schedule, source, checkpoint, start, machines)
    if args.quantized_steps:
        trainer = _train_quantized(args, trainer, source, checkpoint)
    if args.machine:
        print(f"machine 0 writes {args.out}")
        return 0
    _save(args, trainer, schedule, source, start_path)
    return 0


def _train(
    args: argparse.Namespace,
    schedule: Schedule,
    source: Source | BatchSource,
    checkpoint: Path,
    start: Network | None,
    machines: Machines | None,
) -> Trainer:
    """Follow the schedule from its checkpoint, or from `start`, or from random weights."""
    from model_build.train.trainer import Trainer, train

    trainer = Trainer(schedule, machines)
    if args.machine == 0 and checkpoint.exists():
        trainer.restore(checkpoint)
        print(f"resumed {checkpoint} at step {trainer.step}")
    elif args.machine == 0 and start is not None:
        trainer.start_from(start, source)
    trainer.share()  # The other machines begin with machine 0's weights.
    train(trainer, source, checkpoint, args.workers, on_report=partial(print, flush=True))
    return trainer


def _train_quantized(
    args: argparse.Namespace, trained: Trainer, source: Source | BatchSource, checkpoint: Path
) -> Trainer:
    """Continue with rounding to 8 bits, at a low rate; the losses of both parts form one history."""
    first = trained.schedule
    end = replace(
        first, quantized=True, steps=args.quantized_steps, warmup_steps=0, early_px=0,
        learning_rate=first.learning_rate * QUANTIZED_RATE,
    )  # fmt: skip
    checkpoint = checkpoint.with_name(checkpoint.name.replace(".npz", "") + ".quantized.npz")
    print(f"training through 8 bits: {end.steps} steps, {checkpoint} is kept up")
    trainer = _train(args, end, source, checkpoint, trained.network(args.out.stem), trained.machines)
    later = [(first.steps + step, heatmap, short, moved) for step, heatmap, short, moved in trainer.history]
    trainer.history = trained.history + later
    return trainer


def _save(
    args: argparse.Namespace,
    trainer: Trainer,
    schedule: Schedule,
    source: Source | BatchSource,
    start_path: Path | None,
) -> None:
    """Write the weights with notes on how they were made, and say what to do next."""
    name = args.out.stem
    network = trainer.network(name)
    real = bool(args.data or args.crops)
    notes = {
        "trained_on": source.name if real else f"{source.name} version {DATA_VERSION}; sees rendered people only",
        "command": "python -m model_build " + shlex.join(sys.argv[1:]),
        "schedule": asdict(schedule),
        "start": {"file": args.start_from.name, **weights_file.load_notes(start_path)} if start_path else {},
        "losses": [[step, *(round(loss, 4) for loss in row)] for step, *row in trainer.history[3::4]],
    }
    weights_file.save(args.out, network, notes)
    print(f"{args.out}: {args.out.stat().st_size} bytes, {network.parameters()} weights and biases")
    if not real:
        print(WHAT_IT_SEES)
    size = "{}x{}".format(*catalog.usual_size(name))
    print(runnable(f"next: `python -m model_build build {args.out.resolve()} --size {size}`"))


def _schedule(args: argparse.Namespace, start: Network | None) -> Schedule:
    from model_build.train.model import LINES, mobilenet, parse_trunk, trunk_of
    from model_build.train.trainer import Schedule

    names = ("steps", "batch", "seed", "warmup_steps", "learning_rate", "early_px", "twin")
    given = {name: getattr(args, name) for name in names}
    schedule = replace(Schedule(), **{name: value for name, value in given.items() if value is not None})
    if args.size:
        width_px, height_px = scene_size(args.size)
        schedule = replace(schedule, width_px=width_px, height_px=height_px)
    if args.width is not None and not 0.1 <= args.width <= 1:
        raise UserError(f"--width is {args.width}; it must be 0.1 to 1")
    if args.width is not None and args.trunk:
        raise UserError("--width and --trunk both name the layers; give one of them")
    trunk = LINES if args.trunk == "lines" else args.trunk or (mobilenet(args.width) if args.width else "")
    if start is not None:
        trunk = trunk or trunk_of(start)
    if trunk:
        parse_trunk(trunk)
        schedule = replace(schedule, trunk=trunk)
    for field in fields(schedule):
        if field.type in ("int", "float") and getattr(schedule, field.name) <= 0 and field.name not in MAY_BE_NOTHING:
            raise UserError(f"{field.name} is {getattr(schedule, field.name)}; it must be more than 0")
    return schedule


def _source(args: argparse.Namespace, schedule: Schedule) -> Source | BatchSource:
    """The source of the pictures that the options choose."""
    if args.crops and args.data:
        raise UserError("--crops and --data both name pictures; give one of them")
    if args.crops:
        return StoredCrops(
            schedule.seed,
            args.crops,
            rendered_share=args.rendered_share,
            empty_folder=args.empty_crops,
            empty_share=args.empty_share,
        )
    if args.data and args.teacher:
        folder = args.out.with_suffix(".crops")
        parser = argparse.ArgumentParser()
        make_crops.add_arguments(parser)
        options = ["--data", str(args.data), "--images", str(args.images), "--teacher", args.teacher]
        make_crops.run(parser.parse_args([*options, "--out", str(folder), "--count", str(args.crop_count)]))
        return StoredCrops(schedule.seed, folder)
    if args.data:
        return read_coco(args.data, args.images, schedule.seed)
    return RenderedScenes(schedule.seed, args.flat_light)


def scene_size(text: str) -> tuple[int, int]:
    """ "256x192" → (256, 192); UserError unless both are multiples of 16."""
    width_px, height_px = parse_size(text)
    if width_px < 32 or height_px < 32 or width_px % 16 or height_px % 16:
        raise UserError(f"size {text}: give multiples of 16 of at least 32, for example 256x192", exit_code=2)
    return width_px, height_px


def _path(given: Path) -> Path:
    """The path of a weights file, or of a network that comes with the repository, by its name."""
    entry = catalog.find(str(given))
    return entry.path if entry is not None and entry.path is not None else given


def _average(args: argparse.Namespace) -> int:
    """Write the mean of several weights files, with the notes of all; those of the last one are its own."""
    paths = [_path(given) for given in args.average]
    network = weights_file.average([weights_file.load(path) for path in paths], args.logit_shift)
    network = network.renamed(args.out.stem)
    notes = [weights_file.load_notes(path) for path in paths]
    command = "python -m model_build " + shlex.join(sys.argv[1:])
    weights_file.save(args.out, network, {**notes[-1], "command": command, "average_of": notes})
    print(f"{args.out}: the mean of {', '.join(path.name for path in paths)}")
    return 0


def _measure(args: argparse.Namespace) -> int:
    """Print what each stage loses: float → TFLite → kmodel → integer decoder."""
    network = weights_file.load(_path(args.measure))
    stages, (width_px, height_px) = _stages(network, args.build, scene_size(args.size) if args.size else None)
    with tqdm(total=args.scenes, unit="scene", disable=not sys.stderr.isatty()) as bar:
        results = measure(stages, args.scenes, width_px, height_px, bar.update)
    print(f"{network.name}: {args.scenes} rendered test scenes of {width_px}×{height_px}; PCK@0.2 counts every")
    print("visible keypoint of everybody in the scene, found or not; within 0.2 of the torso is right")
    print(table(results))
    print(WHAT_IT_SEES if network.source_id == "demo" else "")
    if args.json or args.record:
        figures = {
            name: {"pck": round(row.pck, 4), "people": row.people, "found": row.found, "extra": row.extra}
            for name, row in results.items()
        }
        scenes = {"scenes": args.scenes, "size": [width_px, height_px], "data_version": DATA_VERSION}
        if args.json:
            write_atomic(args.json, json.dumps({**scenes, "stages": figures}, indent=1) + "\n")
        if args.record:
            weights_file.add_notes(_path(args.measure), {"accuracy": {**scenes, "stages": figures}})
    return 0


def _stages(
    network: Network, build_dir: Path | None, size: tuple[int, int] | None
) -> tuple[dict[str, Stage], tuple[int, int]]:
    """Stages to measure, and the size of the pictures: the build's, or `size`."""
    reference = ReferenceDecoder(network.output_stride, network.edges)

    def decoded(heads: Mapping[str, Numbers]) -> list[Pose]:
        return reference.multi(*(np.asarray(heads[name], np.float64) for name in HEADS))

    def in_float(picture: Picture) -> list[Pose]:
        return decoded({name: head.transpose(2, 0, 1) for name, head in forward(network, picture).items()})

    stages: dict[str, Stage] = {"float (NumPy), float decoder": in_float}
    if build_dir is None:
        return stages, size or catalog.DEMO_SIZE
    build = BuildFolder(build_dir)
    manifest = build.load_manifest()
    built = manifest.width, manifest.height
    if size not in (None, built):
        raise UserError(f"{build_dir} is for {built[0]}x{built[1]}; leave out --size, or build for the other size")
    tflite, kpu = open_engine("tflite", build), open_engine("kpu", build)
    integer = make_decoder(manifest, DecoderOptions())

    last: tuple[bytes, Mapping[str, Numbers]] = b"", {}

    def on_kpu(picture: Picture) -> Mapping[str, Numbers]:
        # Two stages look at the same bytes, so the engine runs once for both.
        nonlocal last
        if last[0] != picture.tobytes():
            last = picture.tobytes(), kpu.run(to_planes(picture))
        return last[1]

    stages["TFLite, float decoder"] = lambda picture: decoded(tflite.run(to_planes(picture)))
    stages["kmodel (KPU), float decoder"] = lambda picture: decoded(manifest.dequantize(on_kpu(picture)))
    stages["kmodel (KPU), integer decoder"] = lambda picture: integer(on_kpu(picture))
    return stages, built
