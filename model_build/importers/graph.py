"""The common form of all graphs of operators, which recognise.py makes a Network of.

Readers of the different forms (TFLite, GraphDef, tfjs) bring their operators into the few kinds below; what
follows is the same for all of them.

Kinds: conv, depthwise (weights (kh, kw, in, out) or (kh, kw, C, 1)), bias (add a constant per channel), scale
(multiply by one), activation, pad, concat, normalise (x · factor + addend, scalars), dilate (into or out of
SpaceToBatch form), pass (identity, sigmoid, dequantize: value stays the same thing), other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass
class Op:
    """One operator; `inputs` are the computed tensors, constants stand in `attributes`."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


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
