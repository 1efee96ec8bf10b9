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
    """Weights as they are after a training, with folded batch norm and all kinds of biases."""
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
        "c8/2 c12/2 c12 d/2 d p16/2 p20 c24",  # Deeper, with every kind of layer that can be inserted.
        "c12/2 c16/2 d/2 p24/2",  # Wider.
        "c8/2 c20 c24/2 c24 d/2 p16/2 c16 c18",  # Deeper and wider.
    ],
)
def test_grown_network_says_the_same(small, trunk):
    """Inserted layers and added channels may change no head of any picture, in the trainer neither."""
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
    """A weight that can never move would be useless on the chip. After three steps every layer must have moved."""
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
        assert moved.mean() > 0.3, name  # Many channels of this untrained network are silent.
    reading_added = (run.model.variables["conv_3/weights"].numpy() - before["conv_3/weights"])[:, :, 12:]
    assert reading_added.size and (np.abs(reading_added) > 1e-6).mean() > 0.1, "these read the four added channels"


@pytest.mark.parametrize(
    ("trunk", "complaint"),
    [
        ("c8/2 c8/2 d/2 p16/2", "conv_1 stands where conv_1 was"),  # Narrower.
        ("c8/2 c12/2 d/2 d/2", "depthwise_3 stands where pointwise_3 was"),
        ("c8/2 c12/2 c12/2 p16/2", "conv_2 stands where depthwise_2 was"),
        ("c8/2 c12/2 d/2 p16/2 p8", "pointwise_4 stands where the heads was"),
        (
            "p3 c8/2 c12/2 d/2 p16/2",
            "pointwise_0 stands where conv_0 was",
        ),  # This would come before any ReLU6 and would not be exact.
    ],
)
def test_a_form_that_would_lose_weights_is_refused(small, trunk, complaint):
    """One line contains both forms, so that the user sees what does not fit."""
    with pytest.raises(UserError, match=complaint) as raised:
        grow.grow(small, trunk, 1)
    assert repr(SMALL) in str(raised.value) and "\n" not in str(raised.value)
