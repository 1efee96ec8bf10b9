"""The trainer: repeatable, resumable, and its network the one that is written to the file."""

import argparse
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, UserError
from model_build.commands import train_demo
from model_build.float_forward import forward
from model_build.importers import open_network
from model_build.network import HEADS, Conv, Network
from model_build.train import weights_file
from model_build.train.samples import RenderedScenes, make_batch

tf = pytest.importorskip("tensorflow")

from model_build.train.model import LINES, mobilenet, parse_trunk, trunk_of  # noqa: E402
from model_build.train.trainer import Schedule, Trainer, limit_threads, train  # noqa: E402

limit_threads(1)

SHORT = Schedule(steps=60, batch=8, width_px=96, height_px=128, trunk=mobilenet(0.25), seed=1, warmup_steps=10)
"""The short schedule of docs/training.md."""

DOCUMENTED_CURVE = Path(__file__).parents[2] / "docs" / "training-short-curve.json"
TOLERANCE = 0.05
"""Of each loss: other processors add floats in another order, and training amplifies that (2.6 % seen)."""

TINY = Schedule(steps=6, batch=4, width_px=64, height_px=64, trunk=mobilenet(0.25), seed=2, warmup_steps=2)


def _run(schedule, checkpoint=None, stop_at=None):
    trainer = Trainer(schedule)
    if checkpoint is not None and checkpoint.exists():
        trainer.restore(checkpoint)

    def report(text):
        if stop_at is not None and trainer.step >= stop_at:
            raise KeyboardInterrupt

    with contextlib.nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt):
        train(trainer, RenderedScenes(schedule.seed), checkpoint, workers=0, report_every=1, on_report=report)
    assert stop_at in (None, trainer.step)
    return trainer


@pytest.fixture(scope="module")
def trained():
    """The tiny schedule, run through."""
    return _run(TINY)


@pytest.mark.slow
def test_short_schedule_gives_the_documented_curve():
    """Anyone who retrains from the seed must see the losses that the documentation shows."""
    documented = json.loads(DOCUMENTED_CURVE.read_text())
    trainer = Trainer(SHORT)
    train(trainer, RenderedScenes(SHORT.seed), None, workers=0, report_every=10, on_report=lambda text: None)
    curve = np.array(trainer.history)
    wanted = np.array(documented["curve"])
    assert np.array_equal(curve[:, 0], wanted[:, 0])
    assert np.abs(curve[:, 1:] / wanted[:, 1:] - 1).max() < TOLERANCE
    assert wanted[-1, 1] < 0.8 * wanted[0, 1] and wanted[-1, 3] < 0.8 * wanted[0, 3]  # it does learn


@pytest.mark.slow
def test_resumed_run_ends_as_an_unbroken_one(tmp_path, trained):
    """Stopping must cost nothing: weights and losses equal bit by bit."""
    _run(TINY, tmp_path / "state.npz", stop_at=3)
    resumed = _run(TINY, tmp_path / "state.npz")
    assert resumed.history == trained.history
    for name, values in trained.values().items():
        assert np.array_equal(values, resumed.values()[name]), name


def test_resuming_says_what_does_not_fit(tmp_path):
    """Another schedule, or a file that is no checkpoint, is refused in one line."""
    checkpoint = tmp_path / "state.npz"
    Trainer(TINY).save(checkpoint)
    with pytest.raises(UserError, match="--checkpoint"):
        Trainer(SHORT).restore(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(FormatError, match="no checkpoint"):
        Trainer(TINY).restore(checkpoint)


@pytest.mark.slow
def test_folded_network_is_the_trained_one(trained):
    """Batch norm folded away, offsets in pixels: NumPy's forward pass of it equals TensorFlow's of the model."""
    trainer = trained
    picture = make_batch(RenderedScenes(9), range(1), 96, 64).pictures
    for name, values in trainer.values().items():
        trainer.model.variables[name].assign(values)
    heads = trainer.model.forward(tf.constant(picture, tf.float32), training=False)
    network = trainer.network("demo")
    for name, values in forward(network, picture[0]).items():
        unit = 1 if name == "heatmap" else 16
        assert np.allclose(values, heads[name].numpy()[0] * unit, atol=2e-3), name


def test_fine_tuning_starts_where_the_network_was(trained):
    """Giving batch norm back to a folded network must not change what it says."""
    network = trained.network("demo")
    again = Trainer(TINY)
    again.start_from(network, RenderedScenes(5))
    picture = make_batch(RenderedScenes(9), range(1), 96, 64).pictures[0]
    before, after = forward(network, picture), forward(again.network("demo"), picture)
    for name in HEADS:
        assert np.allclose(before[name], after[name], atol=2e-3), name


def test_trunks_are_read_and_written():
    """Whoever fine-tunes a network of another form gets that form: the text of its layers leads back to it."""
    assert parse_trunk(mobilenet(0.25))[2].channels == 16 and len(parse_trunk(mobilenet(0.25))) == 27
    for text in (LINES, "c8/2 d/2 p12 d/2 p16/2"):
        network = Trainer(Schedule(trunk=text, batch=1)).network("x")
        assert trunk_of(network) == text
    wrong = {"c8/2 x": "trunk layer 'x'", "c8/2": "multiply to 2", "d4": "'d4'", "c0/2": "'c0/2'"}
    for text, complaint in wrong.items():
        with pytest.raises(UserError, match=complaint):
            parse_trunk(text)


def test_last_steps_through_8_bits_start_where_float_was(trained):
    """Quantized, the network says nearly what it said in float, and its gradients reach every weight."""
    again = Trainer(TINY)
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


def test_more_steps_may_be_asked_for_later(tmp_path):
    """A training goes on over many sittings; how many there will be need not be known at the first."""
    checkpoint = tmp_path / "state.npz"
    _run(TINY, checkpoint, stop_at=3)
    longer = Trainer(replace(TINY, steps=9))
    longer.restore(checkpoint)
    assert longer.step == 3


@pytest.mark.slow
def test_own_pictures_by_command(tmp_path, capsys):
    """The documented way to fine-tune on one's own folder: COCO JSON and pictures in, weights file out."""
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
    assert train_demo.WHAT_IT_SEES not in capsys.readouterr().out  # it has seen other people now


@pytest.fixture(scope="module")
def small_network():
    """A network of two layers and four heads: enough for a file."""
    rng = np.random.default_rng(4)

    def conv(name, kind, shape, **rest):
        out = shape[2] if kind == "depthwise" else shape[3]
        arrays = rng.normal(size=shape).astype(np.float32), rng.normal(size=out).astype(np.float32)
        return Conv(name, kind, *arrays, **rest)

    trunk = conv("a", "conv", (3, 3, 3, 8), stride=2), conv("b", "depthwise", (3, 3, 8, 1), stride=2)
    channels = zip(HEADS, (17, 34, 32, 32), strict=True)
    heads = {name: conv(name, "conv", (1, 1, 8, count), activation="linear") for name, count in channels}
    return Network("small", trunk, heads, 4)


def test_weights_file_keeps_the_network(tmp_path, small_network):
    """Everything but the rounding of weights to 127 steps a channel survives the file."""
    path = tmp_path / "w.npz"
    weights_file.save(path, small_network, {"seed": 3})
    loaded = weights_file.load(path)
    assert weights_file.load_notes(path) == {"seed": 3}
    assert (loaded.name, loaded.output_stride, loaded.source_id) == ("small", 4, "small")
    for before, after in zip(small_network.layers(), loaded.layers(), strict=True):
        assert (before.name, before.kind, before.stride, before.activation) == (
            after.name, after.kind, after.stride, after.activation)  # fmt: skip
        assert np.array_equal(before.bias, after.bias)
        axes = (0, 1, 3) if before.kind == "depthwise" else (0, 1, 2)
        half_step = np.abs(before.weights).max(axis=axes, keepdims=True) / 127 / 2
        assert np.all(np.abs(before.weights - after.weights) <= half_step * 1.001)
    weights_file.add_notes(path, {"accuracy": 1})
    assert weights_file.load_notes(path) == {"seed": 3, "accuracy": 1}
    again = tmp_path / "again.npz"
    weights_file.save(again, loaded, {"seed": 3})
    for before, after in zip(loaded.layers(), weights_file.load(again).layers(), strict=True):
        assert np.allclose(before.weights, after.weights, rtol=1e-5, atol=1e-8)  # rounding twice is rounding once


@given(data=st.data())
def test_damaged_weights_file(tmp_path, small_network, data):
    """Cut, flipped or foreign bytes give FormatError, or (bytes that mean nothing) the same network."""
    path = tmp_path / "w.npz"
    weights_file.save(path, small_network, {})
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        damaged = whole
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        loaded = weights_file.load(path)
    except FormatError as error:
        assert "\n" not in str(error) and "w.npz" in str(error)
    else:
        for before, after in zip(small_network.layers(), loaded.layers(), strict=True):
            assert np.array_equal(before.bias, after.bias)
