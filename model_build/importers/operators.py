"""The meaning of the operators that TFLite files and TensorFlow graphs share.

The two forms name operators and store constants differently. Their readers pass each operator as a name and its
operands, so its meaning is decided in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from common.arrays import Numbers
from model_build.importers.graph import Affine, Dilate, Meaning, Pad, Pass, Rectify

Constant = Callable[[], Numbers]
"""Gives a constant as float32; called only if the operator's meaning depends on it."""

Operands = Sequence[Constant | None]
"""An operator's inputs in order: the constants, and None for each that is computed."""


def meaning_of(name: str, operands: Operands) -> Meaning | None:
    """The meaning of an operator with one computed tensor, by its name in either form; None if it has none here."""
    translator = _TRANSLATORS.get(name)
    return translator(operands) if translator is not None and operands.count(None) == 1 else None


def _constants(operands: Operands) -> list[Constant]:
    return [operand for operand in operands if operand is not None]


def _pass(operands: Operands) -> Meaning:
    return Pass()


def _rectify(activation: str, operands: Operands) -> Meaning:
    return Rectify(activation)


def _arithmetic(kind: str, operands: Operands) -> Meaning | None:
    """The meaning of x + c, x − c, x · c and x / c; c − x and c / x have none here."""
    constants = _constants(operands)
    if len(constants) != 1 or (operands[0] is not None and kind in ("SUB", "DIV")):
        return None
    value = constants[0]()
    with np.errstate(all="ignore"):
        return {
            "ADD": lambda: Affine(addend=value),
            "SUB": lambda: Affine(addend=-value),
            "MUL": lambda: Affine(factor=value),
            "DIV": lambda: Affine(factor=1 / value),
        }[kind]()


def _pad(operands: Operands) -> Meaning | None:
    """The meaning of zeros around the picture; None if batch or channels are padded too."""
    constants = _constants(operands)
    pads = constants[0]().reshape(-1) if constants else np.zeros(0)
    if pads.size != 8 or not np.isfinite(pads).all() or pads[:2].any() or pads[6:].any():
        return None
    top, bottom, left, right = (int(pad) for pad in pads[2:6])
    return Pad((top, bottom, left, right))


def _dilate(operands: Operands) -> Meaning | None:
    constants = _constants(operands)
    block = constants[0]().reshape(-1) if constants else np.zeros(0)
    return Dilate(int(block[0])) if block.size == 2 and block[0] == block[1] and 0 < block[0] < 64 else None


_NAMES: tuple[tuple[Callable[[Operands], Meaning | None], str], ...] = (
    (_pass, "LOGISTIC DEQUANTIZE QUANTIZE RESHAPE CAST"),
    (_pass, "Identity Sigmoid StopGradient Cast Reshape CheckNumerics PreventGradient"),
    (partial(_rectify, "relu"), "RELU Relu"),
    (partial(_rectify, "relu6"), "RELU6 Relu6"),
    (partial(_arithmetic, "ADD"), "ADD Add AddV2 BiasAdd"),
    (partial(_arithmetic, "SUB"), "SUB Sub"),
    (partial(_arithmetic, "MUL"), "MUL Mul"),
    (partial(_arithmetic, "DIV"), "DIV Div RealDiv"),
    (_pad, "PAD PADV2 Pad PadV2"),
    (_dilate, "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND SpaceToBatchND BatchToSpaceND"),
)
"""TFLite's names in capitals, TensorFlow's in mixed case."""

_TRANSLATORS = {name: translator for translator, names in _NAMES for name in names.split()}
