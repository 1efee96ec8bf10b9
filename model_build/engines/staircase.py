"""A KPU layer's batch norm and activation as a staircase, and as straight lines that are proven to give the same bytes.

v = ((acc·mul) >> shift) + add and y = table(v), see kpu_layer.py; g is acc without the channel's constant part.

Why the activation is exact. acc → y is a non-decreasing step function when mul > 0 and the table does not fall.
Its 255 steps per channel are computed in integers. trunc(fl(fl(a·g) + b)) is non-decreasing as well, because
rounding is monotone; so if it has the same value on both sides of every step, it is equal everywhere. (a, b) are
chosen per channel and checked at each step; a channel that fails is compared with its steps instead.

    y  3 |             .___      The KPU's output as a function of g: a staircase. `steps` holds where it rises.
       2 |        .___/|         The line a·g + b, truncated, is a staircase as well. Each step k is checked at two
       1 |   .___/               points: at g = step the line must reach k, and one below it must not.
       0 |__/_____________ g     Neither ever falls, so between checked points they cannot differ either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.arrays import Flags, Floats, Integers, Numbers
from model_build.kpu.layer import Activation, BatchNorm, KpuLayer

_V_MIN, _V_MAX = -(1 << 35), (1 << 35) - 1


def activate(v: Numbers, table: Activation) -> Numbers:
    """The activation table on int64 `v`, any shape: uint8. Ties as in nncase 1.9: half to even, and one below
    the floor for negative values with a fraction above half (its carry_shift)."""
    # The last segment with v > x_start, whatever the order of the starts: some start from i on is below v exactly
    # if the smallest of them is. Segment 0 is used if nothing else matches.
    lowest_from_here = np.minimum.accumulate(table.x_start[::-1])[::-1]
    segment = np.maximum(np.searchsorted(lowest_from_here, v, side="left") - 1, 0)
    # Products stay below 2^53, so larger shifts change nothing.
    shift = np.minimum(table.shift, 62)[segment]
    product = (v - table.x_start[segment]) * table.mul[segment]
    whole = product >> shift
    fraction = product & ((np.int64(1) << shift) - 1)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 1)
    carry = (fraction > half) | ((fraction == half) & (whole & 1 == 1))
    rounded = whole + np.where(carry & (shift > 0), np.where(product < 0, -1, 1), 0)
    return np.asarray(np.clip(rounded + table.bias[segment], 0, 255), np.uint8)


def _steps_in_v(table: Activation, lowest_v: int) -> Numbers | None:
    """steps[k] = smallest v with output ≥ k, for k = 1…255 (2^35 if there is none), or None if the output ever falls.

    lowest_v: the smallest v that the layer reaches. Below the first segment's start products are negative, and
    carry_shift is not monotone there: with shift 4, −9 becomes −1 but −7 becomes −2. The table still rises only if
    all such results become 0.
    """
    if np.any(table.mul < 0) or np.any(table.shift > 62) or np.any(np.diff(table.x_start) < 0):
        return None
    if lowest_v < table.x_start[0] and table.mul[0] > 0 and table.bias[0] > 0:
        return None
    # Each segment is non-decreasing, so a fall can only occur where one begins.
    starts = np.unique(table.x_start)
    starts = starts[(starts > _V_MIN) & (starts < _V_MAX)]
    if np.any(activate(starts, table).astype(int) > activate(starts + 1, table)):
        return None
    wanted = np.arange(1, 256)
    low = np.full(255, _V_MIN, np.int64)  # output < k here, or everywhere above
    low_done = activate(low, table) >= wanted
    high = np.full(255, _V_MAX + 1, np.int64)
    while np.any(high - low > 1):
        middle = (low + high) >> 1
        reached = activate(middle, table) >= wanted
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    return np.where(low_done, _V_MIN, high)


def _lowest_v(norm: BatchNorm, constant: Numbers, reach: Numbers) -> int:
    """The smallest result of the batch norm over all channels, for acc in constant ± reach (int64, per channel)."""
    ends = np.stack([constant - reach, constant + reach])
    return int((((ends * norm.mul) >> norm.shift) + norm.add).min())


@dataclass
class Line:
    """y = clip(trunc(slope·g + offset), first, last) − Σ_{k ≤ first}(g < step k) + Σ_{k > last}(g ≥ step k).

    slope, offset: float32 or float64 (channels, 1). steps: float32 (channels, 255), exact integers; below, above:
    those outside the line, (steps, channels, 1). `exact` lists the channels for which the line is not proven equal
    to the integers. Then y is the number of steps reached if `monotone`, and otherwise computed by the formula.
    """

    slope: Numbers
    offset: Numbers
    first: int
    last: int
    below: Numbers
    above: Numbers
    exact: Integers
    steps: Numbers
    monotone: Flags


# The number of steps at each end of the table that may lie off the line (nncase bends it there), tried in this order.
_BENT_ENDS = sorted(((low, high) for low in range(4) for high in range(5)), key=lambda ends: (sum(ends), ends))


def _steps_in_g(steps_v: Numbers, norm: BatchNorm, constant: Numbers, reach: Numbers) -> Numbers:
    """The smallest g with output ≥ k for k = 1…255, int64 (channels, 255); steps beyond ± reach are put just outside.

    constant: acc − g per channel; reach: |g| never exceeds it. int64 (channels,).
    """
    mul, shift, add = (a[:, None] for a in (norm.mul, norm.shift, norm.add))
    # smallest acc with ((acc·mul) >> shift) + add ≥ step: a ceiling division, all below 2^63
    numerator = (steps_v[None, :] - add) << shift
    steps = -((-numerator) // np.maximum(mul, 1)) - constant[:, None]
    # A channel whose factor is 0 always stays on one step.
    steps = np.where(mul == 0, np.where(steps_v <= add, -reach[:, None], reach[:, None] + 1), steps)
    return np.clip(steps, -reach[:, None], reach[:, None] + 1)


def _slope(steps_v: Numbers, norm: BatchNorm, table: Activation) -> Numbers:
    """Output per acc in the segment that most steps lie in: float64 (channels,)."""
    segment = np.bincount(np.maximum(np.searchsorted(table.x_start, steps_v) - 1, 0)).argmax()
    per_v = float(table.mul[segment]) * 2.0 ** -float(table.shift[segment])
    slope: Floats = np.maximum(norm.mul, 0) * 2.0**-norm.shift * per_v
    return slope


@dataclass(frozen=True)
class Staircase:
    """A layer's activation as a function of g, per channel: see _steps_in_g and _slope.

    steps: int64 (channels, 255); reach: int64, slope: float64, usable: bool (channels,). If a channel is not usable
    (its batch norm falls), its steps have no meaning.
    """

    steps: Numbers
    reach: Numbers
    slope: Numbers
    usable: Flags

    @staticmethod
    def of(layer: KpuLayer, constant: Numbers, reach: Numbers) -> Staircase | None:
        """The staircase of a layer, None if its table does not rise. constant, reach: see _steps_in_g."""
        norm = layer.batch_norm
        steps_v = _steps_in_v(layer.activation, _lowest_v(norm, constant, reach))
        if steps_v is None:
            return None
        steps = _steps_in_g(steps_v, norm, constant, reach)
        return Staircase(steps, reach, _slope(steps_v, norm, layer.activation), norm.mul >= 0)

    def __getitem__(self, channels: Numbers) -> Staircase:
        return Staircase(self.steps[channels], self.reach[channels], self.slope[channels], self.usable[channels])


def fit_line(stairs: Staircase) -> Line:
    """Lines through the steps of every channel, verified in their own precision on both sides of every step."""
    steps, reach, slope, usable = stairs.steps, stairs.reach[:, None], stairs.slope[:, None], stairs.usable
    best, ends = None, _BENT_ENDS[0]
    for low, high in _BENT_ENDS:
        line = _line_between(steps, reach, slope, usable, low, 255 - high)
        if best is None or 2 * len(line.exact) < len(best.exact):
            best, ends = line, (low, high)
        if not len(best.exact):
            break
    assert best is not None
    # float32 halves the memory traffic; it is used if it resolves nearly all channels, since comparing steps is slow.
    single = _line_between(steps, reach, slope.astype(np.float32), usable, ends[0], 255 - ends[1])
    return single if len(single.exact) <= len(best.exact) + len(steps) // 48 else best


def _line_between(steps: Numbers, reach: Numbers, slope: Numbers, usable: Flags, first: int, last: int) -> Line:
    """The line for outputs first … last; steps: int64 (channels, 255), the smallest g with output ≥ k; reach and
    slope (channels, 1)."""
    inner = steps[:, first:last]
    k = np.arange(first + 1, last + 1)[None, :]
    low, high = -reach, reach + 1
    at, under = inner * slope.astype(np.float64), (inner - 1) * slope.astype(np.float64)
    # The condition is slope·step + offset ≥ k at every reachable step, and < k one below it.
    least = np.where(inner < high, k - at, -np.inf).max(1, keepdims=True)
    most = np.where(inner > low, k - under, np.inf).min(1, keepdims=True)
    both = np.isfinite(least) & np.isfinite(most)
    offset = np.where(both, (least + most) / 2, np.where(np.isfinite(most), most - 0.5, least + 0.5))
    offset = np.clip(np.nan_to_num(offset), -1e30, 1e30).astype(slope.dtype)

    def value(g: Numbers) -> Numbers:
        line: Numbers = g.astype(slope.dtype) * slope + offset
        return line

    good = ((inner == high) | (value(inner) >= k)) & ((inner == low) | (value(inner - 1) < k))
    extreme = (np.abs(slope) * (reach + 1.0) + np.abs(offset))[:, 0]
    within_int32 = extreme < 2.0**31
    exact = np.flatnonzero(~(good.all(1) & usable & within_int32))
    slope, offset = slope.copy(), offset.copy()
    slope[~within_int32], offset[~within_int32] = 0, 0
    single = steps.astype(np.float32)
    outside = single.T[:, :, None]
    return Line(slope, offset, first, last, outside[:first], outside[last:], exact, single, usable)


def follow_line(line: Line, g: Numbers, channels: slice, out: Numbers) -> None:
    """Outputs of g (channels, pixels) into `out`, for the channels of the line where it is not `exact`."""
    y = g.astype(line.slope.dtype)
    np.multiply(y, line.slope[channels], out=y)
    np.add(y, line.offset[channels], out=y)
    # Truncated before it is clipped: integers are clipped several times faster, with the same result.
    whole = y.astype(np.int32)
    np.clip(whole, line.first, line.last, out=whole)
    np.copyto(out, whole, casting="unsafe")
    # Only few blocks of pixels reach the bent ends of the table.
    if len(line.above) and out.max() == line.last:
        for step in line.above:
            np.add(out, (g >= step[channels]).view(np.uint8), out=out)
    if len(line.below) and out.min() == line.first:
        for step in line.below:
            np.subtract(out, (g < step[channels]).view(np.uint8), out=out)
