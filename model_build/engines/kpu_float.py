"""Runs a KPU layer as a small float network whose results are exactly the chip's integers, because that is fast.

    bytes → DEQUANTIZE → [PAD] → convolution → · scale → + offset → QUANTIZE → bytes

All of it is float32, run by the official TFLite runtime with the processor's vector units. Each step is exact:

- The convolution adds products of integers. No partial sum, in whatever order, exceeds 2^24 in magnitude (computed
  from the layer's own weights), and integers up to there are float32 values without rounding.
- The KPU's output, as a function of the convolution's sum g, is a staircase of 255 steps per channel, known in
  integers (model_build/engines/kpu_layer.py). fl(fl(g · scale) + offset), rounded to whole numbers, is a staircase too:
  rounding is monotone, so the float result never falls where g rises. Two staircases that agree on both sides of
  every step of one of them agree everywhere. Scale and offset are chosen per channel and checked at each step, in
  float32; no checked value is a tie, so it does not matter how the runtime rounds ties.

A float32 has 24 bits for the 255 steps and the distance of g from each. The exact place of a step can be as near as
1/255 of a unit to a whole number, and the scale's last bit moves all steps. So several scales and origins of g are
tried until one passes. If none does (for a few channels in a hundred, mostly in layers with large sums), the network
also returns g itself for that channel, and the activation is computed here as in kpu_layer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.arrays import Flags, Floats, Numbers
from model_build import tflite_graph as tflite
from model_build.engines import litert
from model_build.engines.kpu_layer import FLOAT32_EXACT, PreparedLayer
from model_build.engines.staircase import Staircase, fit_line
from model_build.tflite_graph import Convolution, TfliteGraph

_ATTEMPTS = 48
_FURTHEST = 1.0 * (1 << 30)
"""Values before rounding are smaller than this, so that they fit the 32-bit integers to which the runtime rounds."""
_MIDDLE = 128
"""The zero point of the outputs, which puts float values around 0, where float32 has the finest steps."""


@dataclass(frozen=True)
class Fit:
    """output = round((g − origin) · scale + offset) + 128, clipped to a byte, where `exact`; per channel."""

    origin: Floats
    """int64; g is counted from this value."""
    scale: Floats
    offset: Floats
    """float32, like `scale`."""
    exact: Flags
    """bool: whether the formula is proven for every g that the layer can reach."""


def fit_float32(stairs: Staircase, attempts: int = _ATTEMPTS) -> Fit:
    """Scales and offsets for the channels of a layer; the same every time."""
    channels = len(stairs.steps)
    fit = Fit(
        np.zeros(channels, np.int64),
        np.zeros(channels, np.float32),
        np.zeros(channels, np.float32),
        np.zeros(channels, bool),
    )
    low, high = -stairs.reach[:, None], stairs.reach[:, None] + 1
    # Which steps g can reach, from below (g = step − 1) and from above (g = step).
    below, above = stairs.steps > low, stairs.steps < high
    # With the origin in the middle of the steps that matter, products and their rounding are smallest.
    inside = below & above
    first = np.where(inside, stairs.steps, stairs.reach[:, None]).min(1)
    last = np.where(inside, stairs.steps, low).max(1)
    middle = np.where(inside.any(1), (first + last) // 2, 0)
    rng = np.random.default_rng(0)
    todo = np.flatnonzero(stairs.usable)
    for attempt in range(attempts):
        if not len(todo):
            break
        origin, scale = middle[todo], stairs.slope[todo].astype(np.float32)
        if attempt:
            origin = origin + rng.integers(-200, 201, len(todo))
            scale = (scale.view(np.int32) + rng.integers(-3, 4, len(todo), dtype=np.int32)).view(np.float32)
        offset, exact = _offsets(stairs.steps[todo], below[todo], above[todo], origin, scale)
        exact &= np.abs(scale) * (stairs.reach[todo] + np.abs(origin)) + np.abs(offset) < _FURTHEST
        done = todo[exact]
        fit.origin[done], fit.scale[done], fit.offset[done] = origin[exact], scale[exact], offset[exact]
        fit.exact[done] = True
        todo = todo[~exact]
    return fit


def _offsets(steps: Floats, below: Flags, above: Flags, origin: Floats, scale: Floats) -> tuple[Floats, Flags]:
    """The offset in the middle of the range that the steps allow, and whether it passes at all of them."""
    # The output is at least k where the float value lies above k − 128 − 1/2.
    tie = np.arange(1, 256) - (_MIDDLE + 0.5)
    at_step = (steps - origin[:, None]).astype(np.float32) * scale[:, None]
    before = (steps - 1 - origin[:, None]).astype(np.float32) * scale[:, None]
    least = np.where(above, tie - at_step.astype(np.float64), -np.inf).max(1)
    most = np.where(below, tie - before.astype(np.float64), np.inf).min(1)
    offset = np.where(np.isfinite(least), least, np.where(np.isfinite(most), most - 1, 0.0))
    both = np.isfinite(least) & np.isfinite(most)
    offset = np.where(both, (least + most) / 2, np.where(np.isfinite(least), offset + 1, offset)).astype(np.float32)
    good = (~above | (at_step + offset[:, None] > tie)) & (~below | (before + offset[:, None] < tie))
    return offset, good.all(1)


class FloatLayer:
    """One layer, run by the float runtime. `run` may be called any number of times, from one thread at a time."""

    @staticmethod
    def of(prepared: PreparedLayer, threads: int) -> FloatLayer | None:
        """The layer in this form, or None if it has none: its activation is no staircase, it pools otherwise than by
        picking the left-top pixel, or its sums are too large for float32."""
        if prepared.stairs is None or not prepared.picked or prepared.column:
            return None
        layer = FloatLayer(prepared, prepared.stairs)
        if layer.largest > FLOAT32_EXACT:
            return None
        layer._open(threads)
        return layer

    def __init__(self, prepared: PreparedLayer, stairs: Staircase):
        self.prepared = prepared
        self.fit = fit_float32(stairs)
        self.pad = prepared.layer.registers.pad_value if prepared.taps == 9 else 0
        self.weights = _kernels(prepared)
        per_channel = self.weights.reshape(-1, prepared.out_channels) if prepared.per_channel else None
        flat = per_channel.T if per_channel is not None else self.weights.reshape(prepared.out_channels, -1)
        # g of PreparedLayer counts x from its own origin, here x is counted from the pad value.
        self.bias = (self.pad - prepared.origin) * flat.sum(1).astype(np.int64) - self.fit.origin
        magnitude = max(self.pad, 255 - self.pad) * np.abs(flat).sum(1).astype(np.int64)
        self.largest = int((magnitude + np.abs(self.bias)).max())
        self.by_hand = np.flatnonzero(~self.fit.exact)
        """The channels whose activation the network does not compute."""
        self._line = fit_line(stairs[self.by_hand]) if len(self.by_hand) else None

    @property
    def pixels(self) -> int:
        """The number of pixels of an output channel."""
        return self.prepared.rows * self.prepared.columns

    def _open(self, threads: int) -> None:
        self._interpreter = litert.open_interpreter(self._graph(), threads)
        (source,) = self._interpreter.get_input_details()
        self._input = self._interpreter.tensor(source["index"])
        views = [self._interpreter.tensor(output["index"]) for output in self._interpreter.get_output_details()]
        self._output, self._sums = views[0], views[-1]

    def _graph(self) -> bytes:
        prepared, layer = self.prepared, self.prepared.layer
        height, width, inputs, outputs = layer.in_height, layer.in_width, layer.in_channels, layer.out_channels
        graph = TfliteGraph()
        source = graph.tensor("bytes", (1, height, width, inputs), self.pad)
        graph.inputs.append(source)
        x = graph.operator(tflite.DEQUANTIZE, [source], graph.tensor("x", (1, height, width, inputs)))
        padding = tflite.SAME if prepared.taps == 9 and prepared.stride == 1 else tflite.VALID
        if prepared.taps == 9 and padding == tflite.VALID:
            # SAME puts no zeros before the first pixel of an even size, so the padding is an operator of its own.
            padded = graph.tensor("padded", (1, height + 2, width + 2, inputs))
            x = graph.operator(tflite.PAD, [x, graph.symmetric_padding()], padded)
        shape = (1, -(-height // prepared.stride), -(-width // prepared.stride), outputs)
        code = tflite.DEPTHWISE_CONV_2D if prepared.per_channel else tflite.CONV_2D
        parameters = [graph.constant("weights", self.weights), graph.constant("bias", self.bias)]
        options = Convolution(padding, prepared.stride)
        sums = graph.operator(code, [x, *parameters], graph.tensor("sums", shape), options)
        scaled = graph.operator(tflite.MUL, [sums, graph.constant("scale", self.fit.scale)],
                                graph.tensor("scaled", shape))  # fmt: skip
        value = graph.operator(tflite.ADD, [scaled, graph.constant("offset", self.fit.offset)],
                               graph.tensor("value", shape))  # fmt: skip
        graph.outputs.append(graph.operator(tflite.QUANTIZE, [value], graph.tensor("output", shape, _MIDDLE)))
        if len(self.by_hand):
            graph.outputs.append(sums)
        return graph.finish()

    def run(self, feature_map: Floats) -> Floats:
        """uint8 (in_height, in_width, in_channels) → uint8 (out_height, out_width, out_channels)."""
        self._input()[0] = feature_map
        self._interpreter.invoke()
        out = np.array(self._output()[0])
        if self._line is not None:
            flat = out.reshape(-1, out.shape[2])
            # Whole numbers up to 2^24 either way: exact.
            g = np.take(self._sums()[0].reshape(flat.shape), self.by_hand, axis=1)
            flat[:, self.by_hand] = self.prepared.activate_some(np.ascontiguousarray(g.T), self.by_hand, self._line).T
        return out[: self.prepared.rows, : self.prepared.columns]


def _kernels(prepared: PreparedLayer) -> Numbers:
    """The layer's centred weights as TFLite stores them: OHWI, or 1HWC for depthwise layers."""
    side = 3 if prepared.taps == 9 else 1
    if prepared.per_channel:
        return prepared.kernels.T.reshape(1, side, side, -1)
    return prepared.matrix.reshape(prepared.out_channels, side, side, -1)
