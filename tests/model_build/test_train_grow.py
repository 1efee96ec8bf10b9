"""A network that grows must say what it said before, or the training that made it is lost."""

import numpy as np
import pytest

from common.errors import UserError
from model_build.float_forward import forward
from model_build.network import HEADS
from model_build.train.samples import RenderedScenes, make_batch
from tests.support.tensorflow_later import grow, model, trainer

pytestmark = pytest.mark.xdist_group("tensorflow")

SMALL = "c8/2 c12/2 d/2 p16/2"


@pytest.fixture(scope="module")
def small():
    """Weights as they are after a training: batch norm folded, biases of all kinds."""
    run = trainer.Trainer(trainer.Schedule(trunk=SMALL, seed=3, width_px=64, height_px=64))
    rng = np.random.default_rng(3)
    for name, average in run._averages.items():
        if name.endswith(("beta", "bias")):
            average.assign(rng.normal(size=average.shape).astype(np.float32))
    return run.network("small")


@pytest.mark.parametrize(
    "trunk",
    [
        SMALL,
        "c8/2 c12/2 c12 d/2 d p16/2 p20 c24",  # deeper: every kind of layer that hands on
        "c12/2 c16/2 d/2 p24/2",  # wider
        "c8/2 c20 c24/2 c24 d/2 p16/2 c16 c18",  # both
    ],
)
def test_grown_network_says_the_same(small, trunk):
    """Inserted layers and added channels change no head on any picture, and stay so in the trainer."""
    grown = grow.grow(small, trunk, 1)
    assert model.trunk_of(grown) == trunk
    run = trainer.Trainer(trainer.Schedule(trunk=trunk, seed=1, width_px=64, height_px=64))
    run.start_from(grown, RenderedScenes(5))
    picture = make_batch(RenderedScenes(9), range(1), 96, 64).pictures[0]
    before, after, trained = (forward(n, picture) for n in (small, grown, run.network("x")))
    for name in HEADS:
        spread = float(np.abs(before[name]).max())
        assert spread > 0.1
        assert np.allclose(before[name], after[name], atol=1e-5 * spread), name
        assert np.allclose(before[name], trained[name], atol=1e-3 * spread), name


def test_added_weights_learn(small):
    """A weight that could never move would be dead weight on the chip: after three steps every layer has moved."""
    trunk = "c8/2 c16/2 d/2 c12 p20/2 c20"
    run = trainer.Trainer(
        trainer.Schedule(trunk=trunk, seed=1, width_px=64, height_px=64, batch=4, warmup_steps=0, steps=20)
    )
    run.start_from(grow.grow(small, trunk, 1), RenderedScenes(5))
    before = {name: value.numpy() for name, value in run.model.variables.items() if name.endswith("weights")}
    for step in range(3):
        run.train_on(make_batch(RenderedScenes(5), range(4 * step, 4 * step + 4), 64, 64))
    for name, values in before.items():
        moved = np.abs(run.model.variables[name].numpy() - values) > 1e-6
        assert moved.mean() > 0.3, name  # of this untrained network many channels are silent
        if name == "conv_3/weights":
            assert moved[:, :, 12:].mean() > 0.1  # those that listen to the four channels that were added


@pytest.mark.parametrize(
    ("trunk", "complaint"),
    [
        ("c8/2 c8/2 d/2 p16/2", "conv_1 stands where conv_1 was"),  # narrower
        ("c8/2 c12/2 d/2 d/2", "depthwise_3 stands where pointwise_3 was"),
        ("c8/2 c12/2 c12/2 p16/2", "conv_2 stands where depthwise_2 was"),
        ("c8/2 c12/2 d/2 p16/2 p8", "pointwise_4 stands where the heads was"),
        ("p3 c8/2 c12/2 d/2 p16/2", "pointwise_0 stands where conv_0 was"),  # before any ReLU6: not exact
    ],
)
def test_what_does_not_fit_is_refused(small, trunk, complaint):
    """Weights that would be thrown away, said in one line with both forms."""
    with pytest.raises(UserError, match=complaint) as raised:
        grow.grow(small, trunk, 1)
    assert repr(SMALL) in str(raised.value) and "\n" not in str(raised.value)
