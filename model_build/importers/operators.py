"""Operators that TFLite files and TensorFlow graphs share, in the importer's few kinds (see graph.py).

Both forms name the same operators differently and keep their constants differently. Their readers bring each
operator here as a name, its computed inputs and its constants; what it means is decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers.graph import Op

Constant = Callable[[], Numbers]
"""Gives a constant input as float32; called only if the operator's meaning depends on it."""

Translator = Callable[[Op, Sequence[Constant], bool], None]
"""It is called with the operator to complete, its constant inputs in order, and whether its first input is one."""


def translate(name: str, op: Op, constants: Sequence[Constant], constant_first: bool = False) -> None:
    """Give `op` its kind and attributes by its operator name in either form; it stays "other" where it has none."""
    translator = _TRANSLATORS.get(name)
    if translator is not None:
        translator(op, constants, constant_first)


def depthwise_or_conv(weights: Numbers, depthwise: bool, what: str) -> str:
    """The kind of a convolution by its HWIO weights; FormatError where each channel has several results."""
    if depthwise and weights.shape[3] != 1:
        raise FormatError(f"{what} has depthwise weights of shape {weights.shape}; one result a channel can be built")
    return "depthwise" if depthwise else "conv"


def _pass(op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    if len(op.inputs) == 1:
        op.kind = "pass"


def _concat(op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    op.kind = "concat"


def _activation(activation: str, op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    if len(op.inputs) == 1:
        op.kind, op.attributes = "activation", {"activation": activation}


def _bias(op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    if len(op.inputs) == 1 and len(constants) == 1:
        op.kind, op.attributes = "bias", {"value": constants[0]()}


def _arithmetic(kind: str, op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    """x + c, x − c, x · c, x / c: of the picture (c a scalar) or of each channel."""
    if len(op.inputs) != 1 or len(constants) != 1 or (constant_first and kind in ("SUB", "DIV")):
        return
    value = constants[0]()
    with np.errstate(all="ignore"):
        factor, addend = {
            "ADD": (None, value), "SUB": (None, -value), "MUL": (value, None), "DIV": (1 / value, None),
        }[kind]  # fmt: skip
    if value.size == 1:
        op.kind = "normalise"
        op.attributes = {
            "factor": 1.0 if factor is None else float(factor.reshape(-1)[0]),
            "addend": 0.0 if addend is None else float(addend.reshape(-1)[0]),
        }
    elif addend is not None:
        op.kind, op.attributes = "bias", {"value": addend}
    else:
        op.kind, op.attributes = "scale", {"value": factor}


def _pad(op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    """Zeros around the picture: (top, bottom, left, right), none before or behind batch and channels."""
    if len(op.inputs) != 1 or not constants:
        return
    pads = constants[0]().reshape(-1)
    if pads.size == 8 and np.isfinite(pads).all() and not pads[:2].any() and not pads[6:].any():
        op.kind, op.attributes = "pad", {"pads": tuple(int(pad) for pad in pads[2:6])}


def _dilate(op: Op, constants: Sequence[Constant], constant_first: bool) -> None:
    """The way into or out of SpaceToBatch form, in which older TensorFlow writes a dilated convolution."""
    if len(op.inputs) != 1 or not constants:
        return
    block = constants[0]().reshape(-1)
    if block.size == 2 and block[0] == block[1] and 0 < block[0] < 64:
        op.kind, op.attributes = "dilate", {"block": int(block[0])}


# The two names are TFLite's and TensorFlow's.
_TRANSLATORS: dict[str, Translator] = {
    **dict.fromkeys(("LOGISTIC", "DEQUANTIZE", "QUANTIZE", "RESHAPE", "CAST"), _pass),
    **dict.fromkeys(
        ("Identity", "Sigmoid", "StopGradient", "Cast", "Reshape", "CheckNumerics", "PreventGradient"), _pass
    ),
    **dict.fromkeys(("RELU", "Relu"), partial(_activation, "relu")),
    **dict.fromkeys(("RELU6", "Relu6"), partial(_activation, "relu6")),
    **dict.fromkeys(("ADD", "Add", "AddV2"), partial(_arithmetic, "ADD")),
    **dict.fromkeys(("SUB", "Sub"), partial(_arithmetic, "SUB")),
    **dict.fromkeys(("MUL", "Mul"), partial(_arithmetic, "MUL")),
    **dict.fromkeys(("DIV", "Div", "RealDiv"), partial(_arithmetic, "DIV")),
    **dict.fromkeys(("PAD", "PADV2", "Pad", "PadV2"), _pad),
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SpaceToBatchND", "BatchToSpaceND"), _dilate),
    **dict.fromkeys(("CONCATENATION", "Concat", "ConcatV2"), _concat),
    "BiasAdd": _bias,
}
