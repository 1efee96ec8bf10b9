"""The trainer can be repeated and resumed, and the network in its file is the one that it trained."""

import argparse
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import FormatError, UserError
from model_build import twin
from model_build.commands import train_demo
from model_build.float_forward import forward
from model_build.importers import open_network
from model_build.network import HEADS
from model_build.train import weights_file
from model_build.train.samples import RenderedScenes, make_batch
from tests.support.tensorflow_later import model, tf, trainer

pytestmark = pytest.mark.xdist_group("tensorflow")

TRUNK = "c8/2 d/2 p12 d/2 p16/2"
"""One layer of each kind, so that every kind of step is tested."""

DOCUMENTED_CURVE = Path(__file__).parents[2] / "docs" / "training-short-curve.json"
TOLERANCE = 0.05
"""The allowed part of each loss. Other processors add floats in another order; training amplifies that (2.6 % seen)."""


def short():
    """The short schedule of docs/training.md."""
    trunk = model.mobilenet(0.25)
    return trainer.Schedule(steps=60, batch=8, width_px=96, height_px=128, trunk=trunk, seed=1, warmup_steps=10)


def tiny():
    """The smallest schedule that can be stopped and resumed."""
    return trainer.Schedule(steps=6, batch=4, width_px=64, height_px=64, trunk=TRUNK, seed=2, warmup_steps=2)


def _run(schedule, checkpoint=None, stop_at=None):
    run = trainer.Trainer(schedule)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)

    def report(text):
        if stop_at is not None and run.step >= stop_at:
            raise KeyboardInterrupt

    with contextlib.nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt):
        trainer.train(run, RenderedScenes(schedule.seed), checkpoint, workers=0, report_every=1, on_report=report)
    assert stop_at in (None, run.step)
    return run


@pytest.fixture(scope="module")
def stopped_at_3(tmp_path_factory):
    """The checkpoint of the tiny schedule, stopped after three steps."""
    checkpoint = tmp_path_factory.mktemp("train") / "state.npz"
    _run(tiny(), checkpoint, stop_at=3)
    return checkpoint


@pytest.fixture(scope="module")
def trained():
    """The tiny schedule, run to its end."""
    return _run(tiny())


@pytest.mark.slow
def test_short_schedule_gives_the_documented_curve():
    """Whoever trains again from the seed must see the losses that the documentation shows."""
    documented = json.loads(DOCUMENTED_CURVE.read_text())
    run = trainer.Trainer(short())
    trainer.train(run, RenderedScenes(short().seed), None, workers=0, report_every=10, on_report=lambda text: None)
    curve = np.array(run.history)
    wanted = np.array(documented["curve"])
    assert np.array_equal(curve[:, 0], wanted[:, 0])
    assert np.abs(curve[:, 1:] / wanted[:, 1:] - 1).max() < TOLERANCE
    assert wanted[-1, 1] < 0.8 * wanted[0, 1] and wanted[-1, 3] < 0.8 * wanted[0, 3]  # It does learn.


def test_resumed_run_ends_as_an_unbroken_one(tmp_path, stopped_at_3, trained):
    """Stopping must cost nothing: weights and losses are equal to the bit."""
    checkpoint = tmp_path / "state.npz"
    checkpoint.write_bytes(stopped_at_3.read_bytes())
    resumed = _run(tiny(), checkpoint)
    assert resumed.history == trained.history
    for name, values in trained.values().items():
        assert np.array_equal(values, resumed.values()[name]), name


def test_resuming_says_what_does_not_fit(tmp_path):
    """Another schedule, or a file that is no checkpoint, is refused in one line."""
    checkpoint = tmp_path / "state.npz"
    trainer.Trainer(tiny()).save(checkpoint)
    with pytest.raises(UserError, match="--checkpoint"):
        trainer.Trainer(replace(tiny(), seed=3)).restore(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(FormatError, match="not a checkpoint"):
        trainer.Trainer(tiny()).restore(checkpoint)


def test_folded_network_is_the_trained_one(stopped_at_3):
    """Batch norm is folded and offsets are in pixels. NumPy's forward pass must equal TensorFlow's of the model."""
    picture = make_batch(RenderedScenes(9), range(1), 96, 64).pictures
    run = trainer.Trainer(tiny())
    run.restore(stopped_at_3)
    for name, values in run.values().items():
        run.model.variables[name].assign(values)
    heads = run.model.forward(tf.constant(picture, tf.float32), training=False)
    network = run.network("demo")
    for name, values in forward(network, picture[0]).items():
        unit = 1 if name == "heatmap" else 16
        assert np.allclose(values, heads[name].numpy()[0] * unit, atol=2e-3), name


def test_fine_tuning_starts_where_the_network_was(trained):
    """A folded network gets batch norm back, which must not change what it says."""
    network = trained.network("demo")
    again = trainer.Trainer(tiny())
    again.start_from(network, RenderedScenes(5))
    picture = make_batch(RenderedScenes(9), range(1), 96, 64).pictures[0]
    before, after = forward(network, picture), forward(again.network("demo"), picture)
    for name in HEADS:
        assert np.allclose(before[name], after[name], atol=2e-3), name


@pytest.mark.parametrize("quantized", [False, True])
def test_twin_in_training_is_the_twin_of_the_build(trained, quantized):
    """`train --twin` is worth its time only if it trains what `build --twin` makes."""
    network = trained.network("net")
    picture = RenderedScenes(3).sample(0, 64, 64).picture
    other = model.PoseModel(TRUNK, seed=5)
    other.load(twin.mirrored(network), picture[None])
    expected = other.forward(tf.constant(picture[None], tf.float32), training=False, quantized=quantized)
    # The twin's batch norm has statistics of its own, which only folded weights make comparable.
    kernels = model.PoseModel(TRUNK, seed=5)
    kernels.load(network, picture[None])
    for name, value in other.variables.items():
        if name.rpartition("/")[2] in ("gamma", "beta", "mean", "variance"):
            kernels.variables[name].assign(value)
    for name, value in other.highest.items():
        kernels.highest[name].assign(value)
    heads = kernels.forward(tf.constant(picture[None], tf.float32), training=False, quantized=quantized, twin=True)
    for name in HEADS:
        np.testing.assert_allclose(heads[name].numpy(), expected[name].numpy(), atol=1e-5, err_msg=name)


def test_twin_training_improves_the_mean_of_both():
    """Half of the loss is that of the mean.

    If the two networks alone have no loss left, this half must still be there.
    """
    run = trainer.Trainer(replace(tiny(), twin=True, steps=2))
    batch = make_batch(RenderedScenes(2), range(4), 64, 64)
    tensors = {name: tf.constant(getattr(batch, name)) for name in batch.__dataclass_fields__}
    pictures = tf.cast(tensors["pictures"], tf.float32)
    one, other = (run.model.forward(pictures, True, twin=which) for which in (False, True))
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    alone, beside, together = (trainer.losses(heads, tensors).numpy() for heads in (one, other, mean))
    np.testing.assert_allclose(run.train_on(batch), (alone + beside) / 4 + together / 2, rtol=1e-4)
    assert not np.allclose(alone, beside, rtol=1e-4)  # the two differ, so the test can fail


def test_trunks_are_read_and_written():
    """Whoever fine-tunes a network of another form needs the text of its layers, which must lead back to it."""
    layers = model.parse_trunk(model.mobilenet(0.25))
    assert layers[2].channels == 16 and len(layers) == 27
    for text in (model.LINES, TRUNK):
        network = trainer.Trainer(trainer.Schedule(trunk=text, batch=1)).network("x")
        assert model.trunk_of(network) == text
    wrong = {"c8/2 x": "trunk layer 'x'", "c8/2": "multiply to 2", "d4": "'d4'", "c0/2": "'c0/2'"}
    for text, complaint in wrong.items():
        with pytest.raises(UserError, match=complaint):
            model.parse_trunk(text)


def test_last_steps_through_8_bits_start_where_float_was(trained):
    """Quantized, the network says nearly what it said in float, and its gradients reach every weight."""
    again = trainer.Trainer(tiny())
    again.start_from(trained.network("x"), RenderedScenes(5))
    pictures = tf.constant(make_batch(RenderedScenes(9), range(2), 96, 64).pictures, tf.float32)
    with tf.GradientTape() as tape:
        rough = again.model.forward(pictures, True, quantized=True)
        total = tf.add_n([tf.reduce_sum(head) for head in rough.values()])
    fine = again.model.forward(pictures, False)
    for name in HEADS:
        spread = float(np.abs(fine[name]).max())
        assert 0 < float(np.abs(fine[name] - rough[name]).max()) < 0.1 * spread, name
    gradients = tape.gradient(total, again.model.trainable)
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in gradients)


def test_more_steps_may_be_asked_for_later(stopped_at_3):
    """A training takes many days, and nobody needs to know on the first how many steps there will be."""
    longer = trainer.Trainer(replace(tiny(), steps=9))
    longer.restore(stopped_at_3)
    assert longer.step == 3


@pytest.mark.slow
def test_fine_tuning_on_own_pictures_works_by_command(tmp_path, capsys):
    """The documented way: COCO JSON and pictures go in, and a weights file comes out."""
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 255, (80, 100, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": f"{number}.png"})
        points = np.column_stack([rng.uniform(10, 70, (17, 2)), np.full(17, 2)])
        annotations.append({"image_id": number, "keypoints": points.ravel().tolist()})
    data = tmp_path / "people.json"
    data.write_text(json.dumps({"images": images, "annotations": annotations}))
    out = tmp_path / "mine.npz"
    parser = argparse.ArgumentParser()
    train_demo.add_arguments(parser)
    arguments = f"--data {data} --images {tmp_path} --out {out} --steps 2 --batch 2 --size 64x64 --workers 0"
    assert train_demo.run(parser.parse_args([*arguments.split(), "--start-from", "demo"])) == 0
    mine, demo = weights_file.load(out), open_network("demo")
    assert mine.name == "mine" and mine.trunk[-1].weights.shape == demo.trunk[-1].weights.shape
    assert weights_file.load_notes(out)["trained_on"].startswith("people.json")
    assert train_demo.WHAT_IT_SEES not in capsys.readouterr().out  # It has now seen other people.
