"""Computes the KPU's layers in integers, bit-exact with nncase 1.9's kernels, by fast exact float32 matrix products.

Arithmetic of one layer (nncase 1.9, k210_kernels.h), Σ over the window of one output pixel:

    acc = Σ x·w + ((arg_x·Σx) >> shr_x) + ((arg_w·Σw) >> shr_w) + arg_add·IC       IC = 1 when depthwise
    v   = ((acc·mul) >> shift) + add                                               per channel
    y   = clamp(round((v − x_start)·act_mul / 2^act_shift) + bias, 0, 255)         last segment with v > x_start

Why floating point is exact here. When arg_x is a multiple of 2^shr_x (nncase always: shr_x = 0) the first two
terms are Σ x·w' with w' = w + arg_x/2^shr_x. All terms are integers and every partial sum, in any order, is at
most 255·Σ|w'|. While that is at most 2^24, each is a float32 without rounding. If it is more,
Σ x·w' = Σ (x − 128)·w' + 128·Σw' halves it (for |w'| ≤ 128 that is enough for any 1x1 layer of 1,024 inputs, the
KPU's limit); up to 2^53 the same holds in float64. The bound is computed from the actual weights, never assumed.

The activation is computed by lines through its steps (staircase.py).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from common.arrays import Bytes, Numbers
from common.errors import UserError
from model_build.engines.staircase import Line, Staircase, activate, fit_line, follow_line
from model_build.kpu import ram
from model_build.kpu.layer import LEFT_TOP_2, LEFT_TOP_4, RIGHT_TOP_2, KpuLayer

_POOL_MAX, _POOL_MEAN = (1, 3, 9), (2, 4, 8)
# These pools pick one pixel, so the convolution is computed only there: pool type → (stride, column offset).
PICKING = {0: (1, 0), LEFT_TOP_2: (2, 0), RIGHT_TOP_2: (2, 1), LEFT_TOP_4: (4, 0)}
# Rows of a block are chosen so that it stays in the second-level cache.
_BLOCK_FLOATS = 1 << 16
# Activation has wider temporaries; its blocks stay in the first and second.
_CACHE_ELEMENTS = 1 << 15
# Integers up to here are float32 values without rounding.
FLOAT32_EXACT = 1 << 24


def _diagonal(weights: Numbers) -> Numbers | None:
    """The weights (channels, 9) of the equal depthwise layer, if full weights (out, in, 9) are 0 off the diagonal.

    None if they are not, or not square.
    """
    if weights.shape[0] != weights.shape[1]:
        return None
    diagonal: Numbers = weights[np.arange(len(weights)), np.arange(len(weights))]
    return diagonal if np.abs(weights).sum() == np.abs(diagonal).sum() else None


class PreparedLayer:
    """A layer's parameters in the form that runs fast. Immutable; `run` may be called any number of times."""

    def __init__(self, layer: KpuLayer):
        self.layer = layer
        regs = layer.registers
        if regs.bypass_conv or regs.full_add or regs.first_stride:
            raise UserError(f"{layer.name or 'KPU layer'}: bypass_conv, full_add and first_stride are not simulated")
        self.out_channels, self.taps = layer.out_channels, layer.kernel_size**2
        weights = layer.weights.astype(np.int64).reshape(self.out_channels, -1)
        inputs = 1 if layer.depthwise else layer.in_channels
        constant = ((regs.arg_w * weights.sum(1)) >> regs.shr_w) + regs.arg_add * inputs
        divisible = regs.arg_x % (1 << regs.shr_x) == 0
        # Otherwise (arg_x·Σx) >> shr_x does not distribute over the sum, so Σx is computed separately.
        self.sum_x_args = None if divisible else (regs.arg_x, regs.shr_x)
        centred = weights + (regs.arg_x >> regs.shr_x) if divisible else weights
        magnitude = np.abs(centred).sum(1)
        # g = Σ (x − origin)·w'
        self.origin = 0 if 255 * magnitude.max() <= FLOAT32_EXACT else 128
        reach = (255 - self.origin) * magnitude if self.origin == 0 else 128 * magnitude
        self.dtype = np.dtype(np.float32 if reach.max() <= FLOAT32_EXACT else np.float64)
        self.constant = constant + self.origin * centred.sum(1)
        self.picked = regs.pool_type in PICKING
        self.stride, self.column = PICKING.get(regs.pool_type, (1, 0))
        self.rows, self.columns = layer.in_height // self.stride, layer.in_width // self.stride
        shaped = centred.reshape(self.out_channels, inputs, self.taps)
        diagonal = _diagonal(shaped) if not layer.depthwise and self.taps == 9 and divisible else None
        self.per_channel = layer.depthwise or diagonal is not None
        self.kernels = self.matrix = np.zeros((0, 0), self.dtype)
        if self.per_channel:
            self.kernels = (shaped[:, 0] if diagonal is None else diagonal).astype(self.dtype)
        else:
            # Taps are outermost, as im2col makes them.
            self.matrix = np.ascontiguousarray(shaped.transpose(0, 2, 1).reshape(self.out_channels, -1), self.dtype)
        usable = divisible and self.dtype == np.float32
        self.stairs = Staircase.of(layer, self.constant, reach) if usable else None

    @cached_property
    def line(self) -> Line | None:
        """The activation as lines, or None if it does not rise."""
        return fit_line(self.stairs) if self.stairs is not None else None

    def run(self, feature_map: Bytes) -> Numbers:
        """uint8 (in_channels, in_height, in_width) → uint8 (out_channels, out_height, out_width)."""
        if self.per_channel:
            out = self._run_per_channel(feature_map) if self.taps == 9 else self._run_scaling(feature_map)
        else:
            out = self._run_matrix(feature_map)
        return out if self.picked else pool(out, self.layer.pool_type)

    def _run_matrix(self, feature_map: Bytes) -> Numbers:
        pixels = self.rows * self.columns
        gathered = self._im2col(feature_map) if self.taps == 9 else self._pick(feature_map)
        sum_x = None
        if self.sum_x_args:
            sum_x = gathered.sum(0, dtype=np.float64).astype(np.int64) + self.origin * len(gathered)
        out = np.empty((self.out_channels, pixels), np.uint8)
        block = max(1, _BLOCK_FLOATS // pixels)
        for first in range(0, self.out_channels, block):
            part = slice(first, min(first + block, self.out_channels))
            self._activate(self.matrix[part] @ gathered, part, out[part], sum_x)
        return out.reshape(self.out_channels, self.rows, self.columns)

    def _pick(self, feature_map: Bytes) -> Numbers:
        """(channels, pixels) of x − origin at the pixels that pooling keeps."""
        stride, rows, columns = self.stride, self.rows, self.columns
        if stride > 1:
            feature_map = feature_map[:, : rows * stride : stride, self.column :: stride][:, :, :columns]
        picked = feature_map.astype(self.dtype).reshape(len(feature_map), -1)
        if self.origin:
            np.subtract(picked, self.origin, out=picked)
        return picked

    def _padded(self, feature_map: Bytes) -> Numbers:
        channels, height, width = feature_map.shape
        padded = np.empty((channels, height + 2, width + 2), np.uint8)
        pad = self.layer.registers.pad_value
        padded[:, 0] = padded[:, -1] = padded[:, :, 0] = padded[:, :, -1] = pad
        padded[:, 1:-1, 1:-1] = feature_map
        return padded

    def _phases(self, feature_map: Bytes) -> dict[tuple[int, int], Numbers]:
        """The padded map split by stride, so that neighbouring results read neighbouring values.

        phases[y, x][:, r, c] is padded[:, r·stride + y, c·stride + column + x], x − origin, flat per channel.
        """
        padded, stride = self._padded(feature_map), self.stride
        channels = len(padded)
        phases: dict[tuple[int, int], Numbers] = {}
        if stride == 1:
            phases[0, 0] = padded.astype(self.dtype).reshape(channels, -1)
            if self.origin:
                np.subtract(phases[0, 0], self.origin, out=phases[0, 0])
            return phases
        # There are two more rows and columns than results, so that every tap has its neighbours; the surplus is cut off
        # later.
        height, width = self.rows + 2, self.columns + 2
        for y in range(min(stride, 3)):
            for x in range(min(stride, 3)):
                taken = padded[:, y::stride, self.column + x :: stride][:, :height, :width]
                plane = np.zeros((channels, height, width), self.dtype)
                plane[:, : taken.shape[1], : taken.shape[2]] = taken
                if self.origin:
                    np.subtract(plane, self.origin, out=plane)
                phases[y, x] = plane.reshape(channels, -1)
        return phases

    def _taps(self, phases: dict[tuple[int, int], Numbers]) -> tuple[list[Numbers], int]:
        """The nine shifted views (channels, count) and the pitch of a row of results in them."""
        stride = self.stride
        pitch = self.columns + 2
        count = (self.rows - 1) * pitch + self.columns
        views = []
        for tap in range(9):
            y, x = divmod(tap, 3)
            start = (y // stride) * pitch + x // stride
            views.append(phases[y % stride, x % stride][:, start : start + count])
        return views, pitch

    def _im2col(self, feature_map: Bytes) -> Numbers:
        """(9 · channels, pixels), taps outermost."""
        views, pitch = self._taps(self._phases(feature_map))
        channels, count = views[0].shape
        gathered = np.empty((9, channels, self.rows, self.columns), self.dtype)
        for view, target in zip(views, gathered, strict=True):
            whole = (self.rows - 1) * pitch
            target[:, :-1] = view[:, :whole].reshape(channels, self.rows - 1, pitch)[:, :, : self.columns]
            target[:, -1] = view[:, whole:count]
        return gathered.reshape(9 * channels, -1)

    def _run_scaling(self, feature_map: Bytes) -> Numbers:
        """A depthwise 1x1 layer: no converter makes one, but the registers allow it."""
        values = self._pick(feature_map)
        sum_x = values.astype(np.int64) + self.origin if self.sum_x_args else None
        out = np.empty(values.shape, np.uint8)
        self._activate(values * self.kernels, slice(0, len(out)), out, sum_x)
        return out.reshape(-1, self.rows, self.columns)

    def _run_per_channel(self, feature_map: Bytes) -> Numbers:
        channels = len(feature_map)
        pitch = self.columns + 2
        # Whole rows of `pitch` pixels; the last two are surplus, where taps reach over the edge.
        out = np.empty((channels, self.rows * pitch), np.uint8)
        block = max(1, _BLOCK_FLOATS // (self.rows * pitch))
        for first in range(0, channels, block):
            part = slice(first, min(first + block, channels))
            views, _ = self._taps(self._phases(feature_map[part]))
            count = views[0].shape[1]
            kernels = self.kernels[part]
            total = views[0] * kernels[:, :1]
            product = np.empty_like(total)
            for tap in range(1, 9):
                np.multiply(views[tap], kernels[:, tap : tap + 1], out=product)
                np.add(total, product, out=total)
            sum_x = None
            if self.sum_x_args:
                sum_x = np.sum([view.astype(np.int64) for view in views], axis=0) + 9 * self.origin
            self._activate(total, part, out[part, :count], sum_x)
        return out.reshape(channels, self.rows, pitch)[:, :, : self.columns]

    def _activate(self, g: Numbers, part: slice, out: Numbers, sum_x: Numbers | None) -> None:
        """Batch norm and activation of g (channels, pixels) of channels `part` into `out`."""
        line = self.line
        if line is None:
            out[:] = self._integers(g, part, sum_x)
            return
        first, count = part.start, len(g)
        rows = max(1, _CACHE_ELEMENTS // g.shape[1])
        for start in range(0, count, rows):
            here = slice(start, start + rows)
            channels = slice(first + start, min(first + start + rows, first + count))
            follow_line(line, g[here], channels, out[here])
        for channel in line.exact:
            if first <= channel < first + count:
                row = channel - first
                if line.monotone[channel]:
                    out[row] = np.searchsorted(line.steps[channel], g[row], side="right")
                else:
                    out[row] = self._integers(g[row : row + 1], slice(channel, channel + 1), sum_x)[0]

    def activate_some(self, g: Numbers, channels: Numbers, line: Line) -> Numbers:
        """Activation of g (len(channels), pixels) by `line`, which was fitted to these channels only: uint8."""
        out = np.empty(g.shape, np.uint8)
        follow_line(line, g, slice(0, len(channels)), out)
        for row in line.exact:
            if line.monotone[row]:
                out[row] = np.searchsorted(line.steps[row], g[row], side="right")
            else:
                out[row] = self._integers(g[row : row + 1], channels[row : row + 1], None)[0]
        return out

    def _integers(self, g: Numbers, channels: slice | Numbers, sum_x: Numbers | None) -> Numbers:
        """Batch norm and activation by the formula, in int64."""
        acc = g.astype(np.int64) + self.constant[channels, None]
        if self.sum_x_args and sum_x is not None:
            arg_x, shr_x = self.sum_x_args
            acc += (arg_x * sum_x) >> shr_x
        norm = self.layer.batch_norm
        v = ((acc * norm.mul[channels, None]) >> norm.shift[channels, None]) + norm.add[channels, None]
        return activate(v, self.layer.activation)


def pool(x: Numbers, pool_type: int) -> Numbers:
    """Maximum and mean pooling of uint8 (channels, height, width), as nncase's kernels do at the edges."""
    size = 4 if pool_type in (3, 4) else 2
    stride = 1 if pool_type in (8, 9) else size
    _, height, width = x.shape
    rows, columns = height // stride, width // stride
    if stride == 1:
        # The window reaches one pixel beyond the edge: the maximum ignores it, and the mean repeats the edge.
        x = np.pad(x, ((0, 0), (0, 1), (0, 1)), mode="edge")
    total: Numbers | None = None
    for y in range(size):
        for col in range(size):
            tap = x[:, y::stride, col::stride][:, :rows, :columns]
            if total is None:
                total = tap.astype(np.uint16)
            elif pool_type in _POOL_MAX:
                np.maximum(total, tap, out=total)
            else:
                total += tap
    assert total is not None
    if pool_type in _POOL_MEAN:
        total //= size * size
    return total.astype(np.uint8)


def prepare(layer: KpuLayer) -> PreparedLayer:
    """The layer's PreparedLayer, made once and kept with the layer."""
    prepared = layer.__dict__.get("_prepared")
    if prepared is None:
        prepared = PreparedLayer(layer)
        object.__setattr__(layer, "_prepared", prepared)
    return prepared


def execute_layer(layer: KpuLayer, kpu_ram: Bytes) -> Numbers | None:
    """Run one layer on KPU RAM (uint8, 2 MiB): reads its input map, writes its output map.

    Returns the output, uint8 (channels, height, width), if the layer also sends it to main memory, otherwise None.
    """
    source = ram.read(kpu_ram, layer.source_line, layer.in_channels, layer.in_height, layer.in_width)
    result = prepare(layer).run(source)
    ram.write(kpu_ram, layer.target_line, result)
    in_main = layer.main_mem_address is not None or layer.registers.send_data_out
    return result if in_main else None
