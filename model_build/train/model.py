"""The network while it is trained: MobileNet v1 trunk of PoseNet's form with batch norm, four 1×1 heads."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from common.errors import UserError
from model_build.network import EDGES, HEADS, KEYPOINTS, Conv, Kind, Network, head_channels
from model_build.train.targets import OUTPUT_STRIDE

TRUNK_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512)
"""Output channels of the first convolution and the 13 separable blocks at width multiplier 1."""
BLOCK_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1)
TRUNK_LAYERS: list[tuple[str, Kind, int]] = [("conv_0", "conv", 2)]
"""Name, kind and stride, in order."""
for _block, _stride in enumerate(BLOCK_STRIDES, start=1):
    TRUNK_LAYERS += [(f"depthwise_{_block}", "depthwise", _stride), (f"pointwise_{_block}", "conv", 1)]
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
        widths = iter(trunk_widths(width))
        channels = 3
        for name, kind, _stride in TRUNK_LAYERS:
            out = channels if kind == "depthwise" else next(widths)
            kernel = 1 if name.startswith("pointwise") else 3
            shape = (kernel, kernel, channels, 1 if kind == "depthwise" else out)
            fan_in = kernel * kernel * (1 if kind == "depthwise" else channels)
            values = rng.standard_normal(shape).astype(np.float32) * np.sqrt(2.0 / fan_in)
            self._variable(name + "/weights", values)
            self._variable(name + "/gamma", np.ones(out, np.float32))
            self._variable(name + "/beta", np.zeros(out, np.float32))
            self._variable(name + "/mean", np.zeros(out, np.float32), trainable=False)
            self._variable(name + "/variance", np.ones(out, np.float32), trainable=False)
            channels = out
        for head, count in head_channels(len(KEYPOINTS), len(EDGES)).items():
            values = rng.standard_normal((1, 1, channels, count)).astype(np.float32) * 0.01
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
        for name, kind, stride in TRUNK_LAYERS:
            x = _convolve(x, self.variables[name + "/weights"], kind, stride)
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

    def load(self, network: Network, pictures: np.ndarray) -> None:
        """Go on from a folded network: batch norm gets the statistics of `pictures` and changes nothing yet.

        Raises UserError if the network's layers are not of this model's form.
        """
        have = [(layer.kind, layer.stride, layer.dilation, layer.weights.shape) for layer in network.trunk]
        want = [(k, s, 1, tuple(self.variables[n + "/weights"].shape)) for n, k, s in TRUNK_LAYERS]
        if have != want:
            raise UserError(
                f"{network.name} has {len(have)} trunk layers, the last of {have[-1][3]}; only PoseNet's 27 layers "
                f"at one width, the last of {want[-1][3]} here, can be trained on"
            )
        x = (tf.constant(pictures, tf.float32) - 128.0) / 128.0
        for (name, kind, stride), layer in zip(TRUNK_LAYERS, network.trunk, strict=True):
            self.variables[name + "/weights"].assign(layer.weights)
            x = _convolve(x, layer.weights, kind, stride)
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            self.variables[name + "/mean"].assign(mean)
            self.variables[name + "/variance"].assign(variance)
            self.variables[name + "/gamma"].assign(tf.sqrt(variance + BN_EPSILON))
            self.variables[name + "/beta"].assign(mean + layer.bias)
            x = tf.nn.relu6(x + layer.bias)
        for head in HEADS:
            unit = 1 if head == "heatmap" else OUTPUT_STRIDE
            self.variables[head + "/weights"].assign(network.heads[head].weights / unit)
            self.variables[head + "/bias"].assign(network.heads[head].bias / unit)


def _convolve(x: tf.Tensor, weights: tf.Variable | np.ndarray, kind: Kind, stride: int) -> tf.Tensor:
    if weights.shape[0] == 3:
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    if kind == "depthwise":
        return tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "VALID")
    return tf.nn.conv2d(x, weights, stride, "VALID")


def fold(values: dict[str, np.ndarray], name: str, source_id: str) -> Network:
    """Network with batch norm folded into weights and biases, offsets in pixels of the input."""
    trunk = []
    for layer, kind, stride in TRUNK_LAYERS:
        weights = values[layer + "/weights"]
        factor = values[layer + "/gamma"] / np.sqrt(values[layer + "/variance"] + BN_EPSILON)
        bias = values[layer + "/beta"] - values[layer + "/mean"] * factor
        folded = weights * (factor[:, None] if kind == "depthwise" else factor)
        trunk.append(Conv(layer, kind, folded, bias, stride))
    heads = {}
    for head in HEADS:
        unit = np.float32(1 if head == "heatmap" else OUTPUT_STRIDE)
        weights, bias = values[head + "/weights"] * unit, values[head + "/bias"] * unit
        heads[head] = Conv(head, "conv", weights, bias, activation="linear")
    return Network(name, tuple(trunk), heads, OUTPUT_STRIDE, source_id=source_id)
