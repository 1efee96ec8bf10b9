"""Training: PersonLab's losses, AdamW with a cosine schedule, resumable at any step, repeatable from a seed."""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from common.arrays import Floats
from common.errors import FormatError, UserError
from common.files import atomic_path
from model_build.network import Network
from model_build.train.machines import Machines
from model_build.train.model import PoseModel, fold, mobilenet
from model_build.train.samples import Batch, BatchSource, Source, make_batch


@dataclass(frozen=True)
class Schedule:
    """Everything that a training run depends on, except its pictures."""

    steps: int = 3200
    batch: int = 32
    width_px: int = 144
    height_px: int = 192
    trunk: str = mobilenet(0.375)
    seed: int = 1
    learning_rate: float = 4e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    quantized: bool = False
    """Weights and activations are rounded to 8 bits as on the chip; used at the end of a training."""
    early_px: int = 0
    """Side of the square crops of the first 60 % of the steps; 0: all are of the full size."""
    twin: bool = False
    """Half of the loss is that of the mean of the network and its mirrored twin, the other half that of the two alone.
    """

    def size_px(self, step: int) -> tuple[int, int]:
        """The width and height of a step's crops."""
        if self.early_px and step < 0.6 * self.steps:
            return self.early_px, self.early_px
        return self.width_px, self.height_px

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, a cosine, and a linear cool-down in the last 3/8.

        The cosine would end after 25/16 of the steps; cooling down earlier loses little accuracy and saves much time
        (arXiv 2405.18392).
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1.0, self.steps * 25 / 16 - self.warmup_steps)
        cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, done)))
        return float(self.learning_rate * cosine * min(1.0, (self.steps - step) / (self.steps * 3 / 8)))


def _alone(values: tf.Tensor) -> tf.Tensor:
    """The sum over all machines, if there is only one."""
    return values


def losses(
    heads: dict[str, tf.Tensor], batch: dict[str, tf.Tensor], total: Callable[[tf.Tensor], tf.Tensor] = _alone
) -> tf.Tensor:
    """Three losses, float32 (3,): heatmap, short offsets, displacements (PersonLab §3.1).

    The heatmap's loss is the logistic loss summed over all cells and divided by the number of cells in disks. Those of
    offsets are the absolute error in cells, quadratic below 0.2, averaged over the disks. `total` sums over the
    machines that have parts of the batch, whose losses add up to the batch's.
    """
    heatmap = tf.cast(batch["heatmap"], tf.float32)
    cells = total(tf.reduce_sum(heatmap)) + 1.0
    logistic = tf.nn.sigmoid_cross_entropy_with_logits(heatmap, heads["heatmap"])
    logistic *= tf.cast(batch["heatmap_weight"], tf.float32)

    def offsets(values: tf.Tensor, wanted: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        mask = tf.cast(mask, tf.float32)
        error = tf.abs(values - wanted)
        error = tf.where(error < 0.2, error * error * 2.5, error - 0.1) * tf.concat([mask, mask], -1)
        return tf.reduce_sum(error) / (total(tf.reduce_sum(mask)) + 1.0)

    forward = offsets(heads["displacement_fwd"], batch["displacement_fwd"], batch["fwd_mask"])
    backward = offsets(heads["displacement_bwd"], batch["displacement_bwd"], batch["bwd_mask"])
    return tf.stack(
        [
            tf.reduce_sum(logistic) / cells,
            offsets(heads["short_offset"], batch["short_offset"], batch["short_weight"]),
            (forward + backward) / 2,
        ]
    )


LOSS_WEIGHTS = (1.0, 1.0, 0.5)


class Trainer:
    """Variables, optimizer state and the training step."""

    def __init__(self, schedule: Schedule, machines: Machines | None = None):
        """`machines`: those that train this network together; each of them calls every method at the same time."""
        if machines is not None and schedule.batch % machines.count:
            raise UserError(
                f"--batch is {schedule.batch}; it must be a multiple of the number of machines, {machines.count}"
            )
        self.schedule = schedule
        self.machines = machines
        self._total = machines.sum if machines else _alone
        self.step = 0
        self.history: list[tuple[int, float, float, float]] = []
        """(step, heatmap, short offset, displacement loss), each a mean over the steps since the last entry."""
        self.model = PoseModel(schedule.trunk, schedule.seed, machines)
        # The mean weights of about the last thousand steps are better and steadier than the last ones.
        self._averages = {name: tf.Variable(v, trainable=False) for name, v in self.model.variables.items()}
        self._first = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.model.trainable]
        self._second = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.model.trainable]
        self._train = machines.together(self._train_step) if machines else tf.function(self._train_step)

    def _forward(self, batch: dict[str, tf.Tensor], twin: bool = False) -> dict[str, tf.Tensor]:
        return self.model.forward(tf.cast(batch["pictures"], tf.float32), True, self.schedule.quantized, twin)

    def _losses(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        one = self._forward(batch)
        parts = losses(one, batch, self._total)
        if not self.schedule.twin:
            return parts
        other = self._forward(batch, twin=True)
        alone = (parts + losses(other, batch, self._total)) / 2
        return (alone + losses({name: (one[name] + other[name]) / 2 for name in one}, batch, self._total)) / 2

    def _train_step(self, batch: dict[str, tf.Tensor], rate: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        variables = self.model.trainable
        with tf.GradientTape() as tape:
            parts = self._losses(batch)
            total = tf.reduce_sum(parts * tf.constant(LOSS_WEIGHTS))
        gradients = [self._total(gradient) for gradient in tape.gradient(total, variables)]
        gradients, _ = tf.clip_by_global_norm(gradients, 5.0)
        # AdamW (arXiv 1711.05101); vectors (batch norm, biases) are not decayed.
        correction = tf.sqrt(1 - tf.pow(0.999, step + 1)) / (1 - tf.pow(0.9, step + 1))
        for value, gradient, first, second in zip(variables, gradients, self._first, self._second, strict=True):
            first.assign(first * 0.9 + gradient * 0.1)
            second.assign(second * 0.999 + gradient * gradient * 0.001)
            change = correction * first / (tf.sqrt(second) + 1e-8)
            if len(value.shape) > 1:
                change += self.schedule.weight_decay * value
            value.assign_sub(rate * change)
        decay = tf.minimum(0.999, (1 + step) / (10 + step))
        for name, average in self._averages.items():
            average.assign_sub((1 - decay) * (average - self.model.variables[name]))
        return self._total(parts)

    def train_on(self, batch: Batch) -> Floats:
        """Do one step with a batch, or with this machine's part of one, and return the whole batch's three losses."""
        tensors = {name: tf.constant(getattr(batch, name)) for name in Batch.__dataclass_fields__}
        rate = tf.constant(self.schedule.rate(self.step), tf.float32)
        parts: Floats = self._train(tensors, rate, tf.constant(float(self.step), tf.float32)).numpy()
        if not np.isfinite(parts).all():
            raise UserError(f"training diverged at step {self.step}: losses {parts}; lower --learning-rate")
        self.step += 1
        return parts

    def values(self) -> dict[str, Floats]:
        """All variables of the network by name, averaged over the last steps."""
        return {name: average.numpy() for name, average in self._averages.items()}

    def network(self, name: str) -> Network:
        """The averaged network with its batch norm folded."""
        return fold(self.values(), self.model.trunk, name, name)

    def start_from(self, network: Network, source: Source | BatchSource) -> None:
        """Take a network's weights to fine-tune; statistics come from this run's first pictures."""
        schedule = self.schedule
        first = make_batch(source, range(max(schedule.batch, 32)), schedule.width_px, schedule.height_px)
        self.model.load(network, first.pictures)
        for name, average in self._averages.items():
            average.assign(self.model.variables[name])

    def share(self) -> None:
        """Give all machines the state of the first, the only one that reads checkpoints and weights."""
        if self.machines is None:
            return
        step = tf.Variable(float(self.step))
        network = *self.model.variables.values(), *self.model.highest.values()
        self.machines.share([step, *network, *self._averages.values(), *self._first, *self._second])
        self.step = int(step.numpy())

    def save(self, path: Path) -> None:
        """Write everything needed to resume as an .npz, completely or not at all."""
        arrays = {"value/" + name: variable.numpy() for name, variable in self.model.variables.items()}
        arrays |= {"average/" + name: array for name, array in self.values().items()}
        for kind, slots in (("first", self._first), ("second", self._second)):
            for variable, slot in zip(self.model.trainable, slots, strict=True):
                arrays[f"{kind}/{variable.name}"] = slot.numpy()
        about = {"step": self.step, "schedule": asdict(self.schedule), "history": self.history}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint; FormatError if the file is not one, UserError if it belongs to another run."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                about = json.loads(bytes(arrays["about"]))
                # The number of steps may change, because it affects only the last part, in which the rate falls.
                was = {**asdict(Schedule()), **about["schedule"], "steps": 0}
                if was != {**asdict(self.schedule), "steps": 0}:
                    raise UserError(
                        f"{path} was written with {about['schedule']}, but this run has {asdict(self.schedule)}; "
                        "give the same options, or another --checkpoint"
                    )
                for name, variable in self.model.variables.items():
                    variable.assign(arrays["value/" + name])
                    self._averages[name].assign(arrays["average/" + name])
                for kind, slots in (("first", self._first), ("second", self._second)):
                    for variable, slot in zip(self.model.trainable, slots, strict=True):
                        slot.assign(arrays[f"{kind}/{variable.name}"])
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path} is not a checkpoint: {error!r}; remove it to start again") from error
        self.step = about["step"]
        self.history = [tuple(entry) for entry in about["history"]]


def batches(
    source: Source | BatchSource, schedule: Schedule, first_step: int, workers: int, part: int = 0, parts: int = 1
) -> Iterator[Batch]:
    """Batches of the steps from `first_step` on, in order; rendered ahead by worker processes (0: in this process).

    Each batch is divided into `parts` equal parts, of which only number `part` is made.
    """
    size = schedule.batch // parts

    def arguments(step: int) -> tuple[Source | BatchSource, range, int, int]:
        first = step * schedule.batch + part * size
        return source, range(first, first + size), *schedule.size_px(step)

    if workers == 0:
        for step in range(first_step, schedule.steps):
            yield make_batch(*arguments(step))
        return
    # Processes are spawned, because TensorFlow's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[Batch]] = deque()
        for step in range(first_step, schedule.steps):
            waiting.append(pool.submit(make_batch, *arguments(step)))
            if len(waiting) > 2 * workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def train(
    trainer: Trainer,
    source: Source | BatchSource,
    checkpoint: Path | None,
    workers: int = 1,
    report_every: int = 50,
    save_every: int = 250,
    on_report: Callable[[str], None] = print,
) -> None:
    """Run a trainer to the end of its schedule; saves `checkpoint` regularly and when interrupted."""
    schedule, machines = trainer.schedule, trainer.machines
    part, parts = (machines.index, machines.count) if machines else (0, 1)
    if part:
        checkpoint = None
    recent: list[Floats] = []
    started, first_step = time.monotonic(), trainer.step
    bar = tqdm(
        total=schedule.steps,
        initial=trainer.step,
        unit="step",
        disable=not sys.stderr.isatty(),
        smoothing=0.05,
    )
    try:
        for batch in batches(source, schedule, trainer.step, workers, part, parts):
            recent.append(trainer.train_on(batch))
            bar.update()
            if trainer.step % report_every == 0 or trainer.step == schedule.steps:
                heatmap, short, displacement = np.mean(recent, axis=0).tolist()
                recent.clear()
                trainer.history.append((trainer.step, heatmap, short, displacement))
                speed = (trainer.step - first_step) * schedule.batch / (time.monotonic() - started)
                text = f"heatmap {heatmap:.4f}  short {short:.4f}  displacement {displacement:.4f}"
                if bar.disable:
                    on_report(f"step {trainer.step}/{schedule.steps}  {text}  {speed:.0f} pictures/s")
                else:
                    bar.set_postfix_str(text)
            if checkpoint is not None and trainer.step % save_every == 0:
                trainer.save(checkpoint)
    finally:
        bar.close()
        if checkpoint is not None:
            trainer.save(checkpoint)


def limit_threads(threads: int) -> None:
    """Set the number of TensorFlow's threads, before its first operation; with one thread sums are equal in every
    run."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if threads == 1:
        tf.config.experimental.enable_op_determinism()
