"""The common form of all graphs of operators, from which recognise.py makes a Network.

The readers of TFLite files and of TensorFlow graphs give each operator its meaning, one of the classes below, or None
if the operator has no meaning here. All that follows is the same for both. The errors raised on the way do not name the
file: `errors_about` puts the name in front of them, once for each form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from common.arrays import Numbers
from model_build.network import Kind

Padding = str | tuple[int, int, int, int]
"""SAME, VALID, or numbers of zeros (top, bottom, left, right)."""
ONE, ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution as it stands in the file; convolutions.py checks whether it can be built."""

    weights: Numbers
    """(kh, kw, in, out), or (kh, kw, C, 1) if it is depthwise."""
    kind: Kind = "conv"
    bias: Numbers | None = None
    padding: Padding = "SAME"
    stride: Sequence[int] = (1, 1)
    """Of height and width; so is the dilation."""
    dilation: Sequence[int] = (1, 1)
    activation: str = "linear"
    names: tuple[str, ...] = ()
    """The names of its constants, which may tell which head it is."""


@dataclass(frozen=True, eq=False)
class Affine:
    """x · factor + addend, then an activation. Either array has one value, or one for each channel."""

    factor: Numbers = field(default_factory=lambda: ONE)
    addend: Numbers = field(default_factory=lambda: ZERO)
    activation: str = "linear"


@dataclass(frozen=True)
class Rectify:
    """ReLU or ReLU6, under the names that network.Conv uses for activations."""

    activation: str


@dataclass(frozen=True)
class Pad:
    """Zeros around the picture: (top, bottom, left, right)."""

    zeros: tuple[int, int, int, int]


@dataclass(frozen=True)
class Dilate:
    """The change into or out of SpaceToBatch form, in which older TensorFlow versions write a dilated convolution."""

    block: int


@dataclass(frozen=True)
class Pass:
    """An operator like Identity, sigmoid or dequantize, whose result still stands for its input."""


Meaning = Convolution | Affine | Rectify | Pad | Dilate | Pass


@dataclass
class Op:
    """One operator; `inputs` are only the computed tensors; constants are part of its meaning."""

    name: str
    inputs: list[str]
    outputs: list[str]
    meaning: Meaning | None


@dataclass
class Graph:
    """Operators in order, joined by tensor names."""

    ops: list[Op]
    inputs: list[str]
    outputs: list[str]
    input_size: tuple[int, int] | None = None
    """The picture's (width, height), if the file fixes it."""

    @cached_property
    def consumers(self) -> dict[str, list[Op]]:
        """The operators that read each tensor, by its name."""
        found: dict[str, list[Op]] = defaultdict(list)
        for op in self.ops:
            for tensor in op.inputs:
                found[tensor].append(op)
        return found

    @cached_property
    def producers(self) -> dict[str, Op]:
        """The operator that makes each tensor, by the tensor's name."""
        return {tensor: op for op in self.ops for tensor in op.outputs}
