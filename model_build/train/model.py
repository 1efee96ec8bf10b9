"""The network while it is trained: MobileNet v1 trunk of PoseNet's form with batch norm, four 1×1 heads."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model_build.network import EDGES, HEADS, KEYPOINTS, Conv, Network, head_channels
from model_build.train.targets import OUTPUT_STRIDE

TRUNK_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512)
"""Output channels of the first convolution and the 13 separable blocks at width multiplier 1."""
BLOCK_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1)
BN_EPSILON = 1e-3
BN_MOMENTUM = 0.99


def trunk_widths(width: float) -> list[int]:
    """Channels at a width multiplier, in multiples of four."""
    return [max(8, int(channels * width / 4 + 0.5) * 4) for channels in TRUNK_WIDTHS]


class PoseModel:
    """Variables by name, and the forward pass.

    Inputs are bytes as float32 (batch, h, w, 3); padding is symmetric at every stride, as in the KPU. Offsets
    come out in cells.
    """

    def __init__(self, width: float, seed: int):
        rng = np.random.default_rng([seed, 1])
        self.width = width
        self.variables: dict[str, tf.Variable] = {}
        self.layers: list[tuple[str, str, int]] = []  # name, kind, stride
        channels = trunk_widths(width)

        def add(name: str, kind: str, shape: tuple[int, ...], fan_in: int, stride: int) -> None:
            values = rng.standard_normal(shape).astype(np.float32) * np.sqrt(2.0 / fan_in)
            out = shape[2] if kind == "depthwise" else shape[3]
            self.layers.append((name, kind, stride))
            self._variable(name + "/weights", values)
            self._variable(name + "/gamma", np.ones(out, np.float32))
            self._variable(name + "/beta", np.zeros(out, np.float32))
            self._variable(name + "/mean", np.zeros(out, np.float32), trainable=False)
            self._variable(name + "/variance", np.ones(out, np.float32), trainable=False)

        add("conv_0", "conv", (3, 3, 3, channels[0]), 27, 2)
        for block, stride in enumerate(BLOCK_STRIDES, start=1):
            before, after = channels[block - 1], channels[block]
            add(f"depthwise_{block}", "depthwise", (3, 3, before, 1), 9, stride)
            add(f"pointwise_{block}", "conv", (1, 1, before, after), before, 1)
        for head, count in head_channels(len(KEYPOINTS), len(EDGES)).items():
            values = rng.standard_normal((1, 1, channels[-1], count)).astype(np.float32) * 0.01
            self._variable(head + "/weights", values)
            bias = -3.0 if head == "heatmap" else 0.0  # keypoints are rare
            self._variable(head + "/bias", np.full(count, bias, np.float32))

    def _variable(self, name: str, values: np.ndarray, trainable: bool = True) -> None:
        self.variables[name] = tf.Variable(values, trainable=trainable, name=name.replace("/", "_"))

    @property
    def trainable(self) -> list[tf.Variable]:
        return [variable for variable in self.variables.values() if variable.trainable]

    def forward(self, pictures: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Heads of a batch; training=True uses and updates the batch's statistics."""
        x = (pictures - 128.0) / 128.0
        for name, kind, stride in self.layers:
            weights = self.variables[name + "/weights"]
            if weights.shape[0] == 3:
                x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
            if kind == "depthwise":
                x = tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "VALID")
            else:
                x = tf.nn.conv2d(x, weights, stride, "VALID")
            x = tf.nn.relu6(self._batch_norm(x, name, training))
        return {
            head: tf.nn.conv2d(x, self.variables[head + "/weights"], 1, "VALID") + self.variables[head + "/bias"]
            for head in HEADS
        }

    def _batch_norm(self, x: tf.Tensor, name: str, training: bool) -> tf.Tensor:
        gamma, beta = self.variables[name + "/gamma"], self.variables[name + "/beta"]
        mean, variance = self.variables[name + "/mean"], self.variables[name + "/variance"]
        if not training:
            return tf.nn.batch_normalization(x, mean, variance, beta, gamma, BN_EPSILON)
        x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, epsilon=BN_EPSILON, is_training=True
        )
        mean.assign(mean * BN_MOMENTUM + batch_mean * (1 - BN_MOMENTUM))
        variance.assign(variance * BN_MOMENTUM + batch_variance * (1 - BN_MOMENTUM))
        return x


def fold(values: dict[str, np.ndarray], width: float, name: str, source_id: str) -> Network:
    """Network with batch norm folded into weights and biases, offsets in pixels of the input."""
    trunk = []
    layers = [("conv_0", "conv", 2)]
    for block, stride in enumerate(BLOCK_STRIDES, start=1):
        layers += [(f"depthwise_{block}", "depthwise", stride), (f"pointwise_{block}", "conv", 1)]
    for layer, kind, stride in layers:
        weights = values[layer + "/weights"]
        factor = values[layer + "/gamma"] / np.sqrt(values[layer + "/variance"] + BN_EPSILON)
        bias = values[layer + "/beta"] - values[layer + "/mean"] * factor
        folded = weights * (factor[:, None] if kind == "depthwise" else factor)
        trunk.append(Conv(layer, kind, folded, bias, stride))  # type: ignore[arg-type]
    heads = {}
    for head in HEADS:
        unit = np.float32(1 if head == "heatmap" else OUTPUT_STRIDE)
        weights, bias = values[head + "/weights"] * unit, values[head + "/bias"] * unit
        heads[head] = Conv(head, "conv", weights, bias, activation="linear")
    return Network(name, tuple(trunk), heads, OUTPUT_STRIDE, source_id=source_id)
