"""The network while it is trained: a chain of convolutions with batch norm, four 1×1 heads."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from common.arrays import Bytes, Floats
from common.errors import UserError
from common.skeleton import EDGES, KEYPOINTS
from model_build.network import HEADS, Conv, Kind, Network, head_channels
from model_build.train.machines import Machines
from model_build.train.targets import OUTPUT_STRIDE
from model_build.twin import mirrored_channels

MOBILENET_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512)
"""MobileNet v1's first convolution and its 13 separable blocks have these output channels at multiplier 1."""
BLOCK_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1)
LINES = "c16/2 c32/2 c64/2 c64 c128/2 c128 c128 c128 c128 c128 p192 d p256"
"""A trunk for this chip and for training on two cores. The KPU takes as long for a full 3×3 convolution as for a 1×1
one with as many channels, and a processor trains full ones six times faster per multiplication than depthwise ones."""
BN_EPSILON = 1e-3
BN_MOMENTUM = 0.99


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a trunk: kernel 1 or 3, output channels, stride 1 or 2."""

    name: str
    kind: Kind
    kernel: int
    channels: int
    stride: int


def trunk_widths(width: float) -> list[int]:
    """MobileNet's channels at a width multiplier, in multiples of four."""
    return [max(8, int(channels * width / 4 + 0.5) * 4) for channels in MOBILENET_WIDTHS]


def mobilenet(width: float) -> str:
    """PoseNet's MobileNet v1 as text for `parse_trunk`."""
    first, *others = trunk_widths(width)
    blocks = [f"d/{stride} p{channels}" for stride, channels in zip(BLOCK_STRIDES, others, strict=True)]
    return " ".join([f"c{first}/2", *blocks])


def parse_trunk(text: str) -> tuple[LayerPlan, ...]:
    """Layers in order: c32 is a full 3×3 convolution to 32 channels, p32 a 1×1, d a depthwise 3×3; /2 is the stride.

    UserError unless the strides multiply to 16.
    """
    layers: list[LayerPlan] = []
    channels, stride = 3, 1
    for number, word in enumerate(text.split()):
        found = re.fullmatch(r"(?:([cp])([1-9]\d{0,3})|(d))(?:/([12]))?", word)
        if found is None:
            raise UserError(f"trunk layer {word!r}: give c32, p32 or d, and /2 for stride 2, as in {LINES!r}")
        letter = found[1] or found[3]
        channels = int(found[2] or channels)
        layers.append(
            LayerPlan(
                {"c": "conv", "p": "pointwise", "d": "depthwise"}[letter] + f"_{number}",
                "depthwise" if letter == "d" else "conv",
                1 if letter == "p" else 3,
                channels,
                int(found[4] or 1),
            )
        )
        stride *= layers[-1].stride
    if stride != OUTPUT_STRIDE:
        raise UserError(f"the trunk's strides multiply to {stride} instead of {OUTPUT_STRIDE}: {text!r}")
    return tuple(layers)


def trunk_of(network: Network) -> str:
    """The trunk of a network as text for `parse_trunk`; UserError if it has layers that cannot be trained here."""
    words = []
    for layer in network.trunk:
        if layer.dilation != 1 or layer.activation != "relu6":
            raise UserError(
                f"{network.name}: layer {layer.name} has dilation {layer.dilation} and activation {layer.activation}; "
                "only layers with dilation 1 and relu6 can be trained on"
            )
        letter = "d" if layer.kind == "depthwise" else "pc"[layer.kernel == 3] + str(layer.out_channels)
        words.append(letter + (f"/{layer.stride}" if layer.stride != 1 else ""))
    return " ".join(words)


class PoseModel:
    """Variables by name, and the forward pass.

    Inputs are bytes as float32 (batch, h, w, 3); padding is symmetric at every stride, as in the KPU. Offsets
    are in cells.
    """

    def __init__(self, trunk: str, seed: int, machines: Machines | None = None):
        rng = np.random.default_rng([seed, 1])
        self._machines = machines
        self.trunk = parse_trunk(trunk)
        self.variables: dict[str, tf.Variable] = {}
        self.highest: dict[str, tf.Variable] = {}
        """The highest activation of each channel of each layer that `load` has seen, with some margin."""
        channels = 3
        for plan in self.trunk:
            name, kernel, out = plan.name, plan.kernel, plan.channels
            shape = (kernel, kernel, channels, 1 if plan.kind == "depthwise" else out)
            fan_in = kernel * kernel * (1 if plan.kind == "depthwise" else channels)
            values = rng.standard_normal(shape).astype(np.float32) * np.sqrt(2.0 / fan_in)
            self._variable(name + "/weights", values)
            self._variable(name + "/gamma", np.ones(out, np.float32))
            self._variable(name + "/beta", np.zeros(out, np.float32))
            self._variable(name + "/mean", np.zeros(out, np.float32), trainable=False)
            self._variable(name + "/variance", np.ones(out, np.float32), trainable=False)
            self.highest[name] = tf.Variable(np.full(out, 6, np.float32), trainable=False)
            channels = out
        for head, count in head_channels(len(KEYPOINTS), len(EDGES)).items():
            values = rng.standard_normal((1, 1, channels, count)).astype(np.float32) * 0.01
            self._variable(head + "/weights", values)
            bias = -3.0 if head == "heatmap" else 0.0  # Keypoints are rare, so the heatmap begins with low scores.
            self._variable(head + "/bias", np.full(count, bias, np.float32))

    def _variable(self, name: str, values: Floats, trainable: bool = True) -> None:
        self.variables[name] = tf.Variable(values, trainable=trainable, name=name.replace("/", "_"))

    @property
    def trainable(self) -> list[tf.Variable]:
        return [variable for variable in self.variables.values() if variable.trainable]

    def forward(
        self, pictures: tf.Tensor, training: bool, quantized: bool = False, twin: bool = False
    ) -> dict[str, tf.Tensor]:
        """Heads of a batch; training=True uses and updates the batch's statistics.

        twin: the heads of the mirrored twin (model_build/twin.py).

        quantized: weights and activations are rounded to 8 bits as on the KPU, with gradients as if they were not
        (arXiv 1712.05877); statistics and the ranges of `load` do not change, whatever `training` is.
        """
        x = (pictures - 128.0) / 128.0
        if quantized:
            heads = self._forward_quantized(x, twin)
        else:
            for plan in self.trunk:
                x = _convolve(x, self._kernels(plan, twin), plan.kind, plan.stride)
                x = tf.nn.relu6(self._batch_norm(x, plan.name, training))
            heads = {
                head: tf.nn.conv2d(x, self.variables[head + "/weights"], 1, "VALID") + self.variables[head + "/bias"]
                for head in HEADS
            }
        if twin:
            for head, (order, signs) in mirrored_channels(KEYPOINTS, EDGES).items():
                heads[head] = tf.gather(heads[head], order, axis=-1) * signs
        return heads

    def _kernels(self, plan: LayerPlan, twin: bool) -> tf.Tensor:
        weights = self.variables[plan.name + "/weights"]
        return tf.reverse(weights, [1]) if twin else weights

    def _forward_quantized(self, x: tf.Tensor, twin: bool) -> dict[str, tf.Tensor]:
        for plan in self.trunk:
            gamma, beta, mean, variance = (
                self.variables[f"{plan.name}/{part}"] for part in ("gamma", "beta", "mean", "variance")
            )
            factor = gamma / tf.sqrt(variance + BN_EPSILON)
            folded = self._kernels(plan, twin) * (factor[:, None] if plan.kind == "depthwise" else factor)
            x = _convolve(x, _quantize_weights(folded, plan.kind), plan.kind, plan.stride)
            x = tf.nn.relu6(x + beta - mean * factor)
            highest = self.highest[plan.name]
            x = tf.minimum(x, highest)
            step = highest / 255
            x += tf.stop_gradient(tf.round(x / step) * step - x)
        return {
            head: tf.nn.conv2d(x, _quantize_weights(self.variables[head + "/weights"], "conv"), 1, "VALID")
            + self.variables[head + "/bias"]
            for head in HEADS
        }

    def _batch_norm(self, x: tf.Tensor, name: str, training: bool) -> tf.Tensor:
        gamma, beta = self.variables[name + "/gamma"], self.variables[name + "/beta"]
        mean, variance = self.variables[name + "/mean"], self.variables[name + "/variance"]
        if not training:
            return tf.nn.batch_normalization(x, mean, variance, beta, gamma, BN_EPSILON)
        if self._machines is None:
            x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, epsilon=BN_EPSILON, is_training=True
            )
        else:  # moments of the whole batch, of which each machine has an equal part
            moments = tf.stack([tf.reduce_mean(x, [0, 1, 2]), tf.reduce_mean(x * x, [0, 1, 2])])
            batch_mean, square = tf.unstack(self._machines.sum(moments) / self._machines.count)
            batch_variance = square - batch_mean * batch_mean
            x = tf.nn.batch_normalization(x, batch_mean, batch_variance, beta, gamma, BN_EPSILON)
        mean.assign(mean * BN_MOMENTUM + batch_mean * (1 - BN_MOMENTUM))
        variance.assign(variance * BN_MOMENTUM + batch_variance * (1 - BN_MOMENTUM))
        return x

    def load(self, network: Network, pictures: Bytes) -> None:
        """Start from a folded network: batch norm gets the statistics of `pictures`, so that the outputs do not change.

        The network's trunk must be this model's (`trunk_of`).
        """
        x = (tf.constant(pictures, tf.float32) - 128.0) / 128.0
        for plan, layer in zip(self.trunk, network.trunk, strict=True):
            name = plan.name
            self.variables[name + "/weights"].assign(layer.weights)
            x = _convolve(x, layer.weights, plan.kind, plan.stride)
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            self.variables[name + "/mean"].assign(mean)
            self.variables[name + "/variance"].assign(variance)
            self.variables[name + "/gamma"].assign(tf.sqrt(variance + BN_EPSILON))
            self.variables[name + "/beta"].assign(mean + layer.bias)
            x = tf.nn.relu6(x + layer.bias)
            highest = tf.reduce_max(x, [0, 1, 2])
            self.highest[name].assign(tf.clip_by_value(1.1 * highest, 0.1 * tf.reduce_max(highest) + 1e-3, 6.0))
        for head in HEADS:
            unit = 1 if head == "heatmap" else OUTPUT_STRIDE
            self.variables[head + "/weights"].assign(network.heads[head].weights / unit)
            self.variables[head + "/bias"].assign(network.heads[head].bias / unit)


def _quantize_weights(weights: tf.Tensor, kind: Kind) -> tf.Tensor:
    """Rounded to 255 steps per output channel, symmetric, as the weights file stores them."""
    axes = [0, 1, 3] if kind == "depthwise" else [0, 1, 2]
    step = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(weights), axes, keepdims=True), 1e-12) / 127)
    return weights + tf.stop_gradient(tf.round(weights / step) * step - weights)


def _convolve(x: tf.Tensor, weights: tf.Variable | Floats, kind: Kind, stride: int) -> tf.Tensor:
    if weights.shape[0] == 3:
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    if kind == "depthwise":
        return tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "VALID")
    return tf.nn.conv2d(x, weights, stride, "VALID")


def fold(values: dict[str, Floats], plans: tuple[LayerPlan, ...], name: str, source_id: str) -> Network:
    """Network with batch norm folded into weights and biases, offsets in pixels of the input."""
    trunk = []
    for plan in plans:
        layer, kind = plan.name, plan.kind
        weights = values[layer + "/weights"]
        factor = values[layer + "/gamma"] / np.sqrt(values[layer + "/variance"] + BN_EPSILON)
        bias = values[layer + "/beta"] - values[layer + "/mean"] * factor
        folded = weights * (factor[:, None] if kind == "depthwise" else factor)
        trunk.append(Conv(layer, kind, folded, bias, plan.stride))
    heads = {}
    for head in HEADS:
        unit = np.float32(1 if head == "heatmap" else OUTPUT_STRIDE)
        weights, bias = values[head + "/weights"] * unit, values[head + "/bias"] * unit
        heads[head] = Conv(head, "conv", weights, bias, activation="linear")
    return Network(name, tuple(trunk), heads, OUTPUT_STRIDE, source_id=source_id)
