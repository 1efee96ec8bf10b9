"""Rounding of weights that passes errors on to related inputs, compared with rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Numbers
from model_build.gptq import covariances, round_layer, round_weights, sample_windows
from model_build.network import Conv


def output_error(weights: Numbers, integers: Numbers, step: Numbers, covariance: Numbers) -> Numbers:
    """The mean square error of the outputs, float64 (groups, outputs)."""
    error = weights - integers * step[:, None]
    return np.asarray(np.einsum("gio,gij,gjo->go", error, covariance, error))


def test_errors_of_alike_inputs_cancel():
    """Two inputs are always equal, so 0.4 + 0.4 should become one step together, where rounding each gives none."""
    weights, step = np.array([[[0.4], [0.4]]]), np.ones((1, 1))
    alike = np.ones((1, 2, 2))
    assert round_weights(weights, step, alike).sum() == 1
    unrelated = np.eye(2)[None]
    assert round_weights(weights, step, unrelated).sum() == 0


def test_dead_inputs_and_weights_beyond_the_range_are_rounded():
    """Inputs that never change give no equations, and weights beyond the range must stay inside it."""
    weights, step = np.array([[[0.6, 400.0], [-0.6, -400.0]]]), np.ones((1, 2))
    assert round_weights(weights, step, np.zeros((1, 2, 2))).tolist() == [[[1, 127], [-1, -127]]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_unrelated_inputs_round_to_nearest(seed, inputs, outputs):
    """If no input tells anything about another, there is nothing to pass on."""
    rng = np.random.default_rng(seed)
    weights, step = rng.normal(0, 60, (3, inputs, outputs)), rng.uniform(0.5, 1.5, (3, outputs))
    covariance = np.stack([np.diag(rng.uniform(1, 5, inputs)) for _ in range(3)])
    nearest = np.clip(np.rint(weights / step[:, None]), -127, 127)
    assert np.array_equal(round_weights(weights, step, covariance), nearest)


def test_related_inputs_gain():
    """The channels of a network share a part. With such inputs the outputs' error must fall by at least a third."""
    before = after = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights, step = rng.normal(0, 30, (3, 12, 6)), rng.uniform(0.5, 1.5, (3, 6))
        shown = rng.normal(0, 3, (3, 400, 1)) + rng.normal(0, 1, (3, 400, 12))
        covariance = shown.transpose(0, 2, 1) @ shown / 400
        rounded = round_weights(weights, step, covariance)
        assert np.abs(rounded).max() <= 127
        before += output_error(weights, np.rint(weights / step[:, None]), step, covariance).sum()
        after += output_error(weights, rounded, step, covariance).sum()
    assert after < before * 2 / 3


@pytest.mark.parametrize(("kind", "kernel", "stride"), [("conv", 3, 2), ("depthwise", 3, 1), ("conv", 1, 1)])
def test_windows_are_what_the_layer_sees(kind, kernel, stride):
    """Sampled windows times the weights must be the layer's own sums, also for pixels at the border."""
    from model_build.float_forward import convolve

    rng = np.random.default_rng(1)
    features = [rng.normal(0, 1, (6, 8, 4)).astype(np.float32) for _ in range(2)]
    out = 1 if kind == "depthwise" else 5
    weights = rng.normal(0, 1, (kernel, kernel, 4, out)).astype(np.float32)
    channels = 4 if kind == "depthwise" else 5
    conv = Conv("layer", kind, weights, np.zeros(channels, np.float32), stride, 1, "linear")
    windows = sample_windows(conv, features, 10_000)
    flat = weights.reshape(kernel**2, 4, out)
    form = "ntc,tco->nc" if kind == "depthwise" else "ntc,tco->no"
    got = np.einsum(form, windows, flat)
    expected = np.concatenate([convolve(conv, one).reshape(-1, channels) for one in features])
    assert len(got) == len(expected)
    # Every output pixel occurs once, in some order.
    np.testing.assert_allclose(np.sort(got, axis=0), np.sort(expected, axis=0), atol=1e-4)
    assert covariances(windows, kind == "depthwise").shape == (
        (4, 9, 9) if kind == "depthwise" else (1, 4 * kernel**2, 4 * kernel**2)
    )


def test_a_layer_of_smooth_inputs_gains():
    """In pictures neighbouring pixels are similar. There a 3×3 layer's error must be less than half of the usual."""
    rng = np.random.default_rng(4)
    coarse = rng.uniform(0, 200, (3, 8, 8, 6)).repeat(4, axis=1).repeat(4, axis=2)
    inputs = [(one + rng.normal(0, 3, one.shape)).astype(np.float32) for one in coarse]
    weights = rng.normal(0, 1, (3, 3, 6, 4))
    step = np.abs(weights).max(axis=(0, 1, 2)) / 20
    conv = Conv("stem", "conv", weights.astype(np.float32), np.zeros(4, np.float32), 1)
    rounded = round_layer(conv, weights, step, inputs)
    covariance = covariances(sample_windows(conv, inputs, 10_000), False)
    before, after = (
        output_error(weights.reshape(1, 54, 4), one.reshape(1, 54, 4), step[None], covariance).sum()
        for one in (np.rint(weights / step), rounded)
    )
    assert after < before / 2
