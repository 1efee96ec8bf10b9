"""Three steps of every import, with small graphs written here: folding, finding the heads, straightening the grid."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from common.errors import FormatError
from model_build.importers import grid, heads
from model_build.importers.convolutions import Unit, fold_convolutions, picture_tensor
from model_build.importers.graph import Affine, Convolution, Dilate, Graph, Meaning, Op, Pad, Padding, Pass, Rectify
from model_build.importers.operators import meaning_of
from model_build.network import HEADS, Activation, Conv, Kind


def conv(
    name: str, channels: int, kernel: int = 1, stride: int = 1, dilation: int = 1, act: Activation = "linear"
) -> Conv:
    weights = np.arange(kernel * kernel * 2 * channels, dtype=np.float32).reshape(kernel, kernel, 2, channels)
    return Conv(name, "conv", weights, np.arange(channels, dtype=np.float32), stride, dilation, act)


# -- heads


def head(name: str, channels: int, source: str = "features", act: Activation = "linear") -> Unit:
    return Unit(conv(name, channels, act=act), "SAME", source, f"{name}:out", [name])


def find(units: list[Unit], ops: list[Op] | None = None) -> dict[str, Conv]:
    return heads.find(Graph(ops or [], [], []), units, "features")


def sources(found: dict[str, Conv]) -> list[int]:
    """The channels of the four heads. Also checks that the heads come in the promised order."""
    assert list(found) == list(HEADS) and [conv.name for conv in found.values()] == list(HEADS)
    return [conv.out_channels for conv in found.values()]


def test_heads_are_found_by_what_all_published_forms_call_them() -> None:
    """tfjs, Coral and posenet-python name them differently. Outputs that are of no use to a pose are left out."""
    named = [("MobilenetV1/heatmap_2", 17), ("MobilenetV1/offset_2", 34), ("MobilenetV1/displacement_fwd_2", 32),
             ("MobilenetV1/displacement_bwd_2", 32), ("segment_2", 1), ("long_offsets", 34), ("part_heatmap", 24),
             ("part_offset", 48)]  # fmt: skip
    for order in (named, named[::-1]):
        assert sources(find([head(*one) for one in order])) == [17, 34, 32, 32]
    dotted = [("heat-map", 17)]
    with pytest.raises(FormatError, match="lacks the heads heatmap, short_offset, displacement_fwd, displacement_bwd "):
        find([head(*one) for one in dotted])
    for forward, backward in (("disp_forward", "disp_backward"), ("DisplacementFwd", "DisplacementBwd"),
                              ("mid_offsets_fwd", "midoffset_backward")):  # fmt: skip
        found = find([head(backward, 33), head(forward, 32), head("HeatMap", 17), head("short_offset", 34)])
        assert sources(found) == [17, 34, 32, 33], "which is which stands in the name, not in the order"


def test_the_first_telling_name_counts_and_of_joined_names_the_first_part() -> None:
    """A tensor's own name comes before the names that TensorFlow 2 joined to it with semicolons."""
    units = [head(name, channels) for name, channels in zip(HEADS, (17, 34, 32, 32), strict=True)]
    units[0] = replace(units[0], names=["conv;short_offset", "heatmap;displacement_bwd", "offset"])
    assert sources(find(units)) == [17, 34, 32, 32]


def test_a_name_behind_the_head_counts_too() -> None:
    """A sigmoid, identity or dequantize may carry the name. Other operators end the search, and so do loops."""
    units = [head(f"conv_{i}", channels) for i, channels in enumerate((32, 17, 32, 34))]
    named = ["displacement_bwd", "heatmap", "displacement_fwd", "short_offset"]
    ops = []
    for unit, name in zip(units, named, strict=True):
        ops.append(Op("identity", [unit.result], [f"{name}:0", unit.result], Pass()))
        ops.append(Op("more", [f"{name}:0"], ["y"], Pass()))
    found = find(units, ops)
    assert sources(found) == [17, 34, 32, 32]
    assert found["displacement_bwd"].weights is units[0].conv.weights
    # Behind a concatenation, a name says nothing about one of the parts.
    joined = [Op("heatmap", [unit.result for unit in units], ["all"], None)]
    found = find(units, joined)
    assert found["displacement_fwd"].weights is units[0].conv.weights, "by channels: the first of two is forward"
    two_steps = [Op("a", ["conv_0:out"], ["b"], Pass()), Op("c", ["b"], ["segments"], Pass())]
    with pytest.raises(FormatError, match="lacks the heads displacement_fwd, displacement_bwd "):
        find(units, two_steps)


def test_heads_without_telling_names_are_found_by_their_channels() -> None:
    """They have K, 2K and twice 2(K − 1) channels, forward first. Outputs of other widths are no heads."""
    for keypoints in (17, 5):
        tree = 2 * (keypoints - 1)
        units = [head(f"c{i}", n) for i, n in enumerate((24, tree, keypoints, 2 * keypoints, tree, 1))]
        found = find(units)
        assert sources(found) == [keypoints, 2 * keypoints, tree, tree]
        assert found["displacement_fwd"].weights is units[1].conv.weights
        assert found["displacement_bwd"].weights is units[4].conv.weights


def test_names_and_channels_together_find_the_heads() -> None:
    """One named head is enough of a hint for the rest. Outputs of other tensors or with an activation are no heads."""
    units = [head("offset", 34), head("a", 17), head("b", 32), head("c", 32), head("d", 17, source="elsewhere")]
    assert sources(find(units)) == [17, 34, 32, 32]
    units = [head("a", 17, act="relu6"), *units[:1], *units[2:]]
    with pytest.raises(FormatError, match=r"lacks the head heatmap|lacks the heads heatmap"):
        find(units)
    units = [head("heatmap", 17), head("a", 34), head("displacement_bwd", 32), head("b", 32)]
    found = find(units)
    assert sources(found) == [17, 34, 32, 32] and found["displacement_fwd"].weights is units[3].conv.weights


def test_one_head_of_both_displacements_is_cut_in_two() -> None:
    """In Coral's mid_offsets forward is the first half of weights and biases. Name or channels tell that it is one."""
    for name in ("mid_offsets", "c"):
        both = head(name, 64)
        found = find([head("a", 17), head("b", 34), both])
        assert sources(found) == [17, 34, 32, 32]
        for role, part in (("displacement_fwd", slice(0, 32)), ("displacement_bwd", slice(32, 64))):
            np.testing.assert_array_equal(found[role].weights, both.conv.weights[..., part])
            np.testing.assert_array_equal(found[role].bias, both.conv.bias[part])
            assert (found[role].stride, found[role].dilation, found[role].activation) == (1, 1, "linear")
    # The name counts more than another head with that width.
    named = head("mid_offsets", 64)
    named.conv.bias[:] += 1
    found = find([head("a", 17), head("b", 34), head("c", 64), named])
    np.testing.assert_array_equal(found["displacement_fwd"].bias, named.conv.bias[:32])
    # A head of that width is no mid offset if one direction has a head of its own.
    with pytest.raises(FormatError, match="lacks the head displacement_bwd "):
        find([head("a", 17), head("b", 34), head("displacement_fwd", 32), head("c", 64)])


def test_what_is_no_head_is_named() -> None:
    """Nothing may be a head, or both displacements may be in one head that cannot be cut in half."""
    with pytest.raises(FormatError, match="last feature map, features, is read by a with relu6, b with relu$"):
        find([head("a", 17, act="relu6"), head("b", 34, act="relu"), head("c", 17, source="elsewhere")])
    with pytest.raises(FormatError, match="last feature map, features, is read by no convolution$"):
        find([head("c", 17, source="elsewhere")])
    with pytest.raises(FormatError, match="mid_offsets has 33 channels"):
        find([head("heatmap", 17), head("offset", 34), head("mid_offsets", 33)])


def test_two_heads_of_one_name_are_refused() -> None:
    """Nobody can know which of them is meant, so the sentence names both."""
    with pytest.raises(FormatError, match="two heads that are named heatmap: heatmap_1, heatmap_2"):
        find([head("heatmap_1", 17), head("heatmap_2", 17)])


# -- the grid


def layer(stride: int = 1, padding: Padding = "SAME", dilation: int = 1, kernel: int = 3) -> Unit:
    name = f"k{kernel}s{stride}d{dilation}"
    return Unit(conv(name, 2, kernel, stride, dilation), padding, "a", "b", [name])


def shifted(trunk: list[Unit], size: tuple[int, int] | None) -> tuple[float, float]:
    """What is added to the short offsets, as (y, x) px."""
    before = {name: conv(name, 4) for name in HEADS}
    after = grid.shift_to_symmetric(before, trunk, size, 2)
    added = after["short_offset"].bias - before["short_offset"].bias
    assert added[0] == added[1] and added[2] == added[3]
    assert all(after[name] is before[name] for name in HEADS if name != "short_offset")
    return float(added[0]), float(added[2])


@pytest.mark.parametrize(
    ("size", "shift"),
    [
        ((65, 33), (0, 0)),
        ((64, 33), (0, 1 + 2 + 4)),
        ((33, 64), (1 + 2 + 4, 0)),
        ((66, 34), (1, 1)),
        ((68, 34), (1, 1 + 2)),
        ((None), (0, 0)),
    ],
)
def test_even_sides_shift_the_grid(size: tuple[int, int] | None, shift: tuple[int, int]) -> None:
    """With SAME at stride 2 only odd sides have padding before the first pixel; each layer counts in its own pixels.

    66 → 33 → 17 → 9: only the first layer meets an even side. The test also tells x from y.
    """
    trunk = [layer(2), layer(1), layer(kernel=1), layer(2), layer(2)]
    assert shifted(trunk, size) == shift


def test_a_pointwise_layer_of_stride_2_halves_the_sides_without_a_shift() -> None:
    """It reads pixels 0, 2, 4, … and needs no padding, but what follows counts double all the same."""
    assert shifted([layer(2, kernel=1), layer(2)], (66, 64)) == (2, 0)


def test_explicit_padding_decides_the_shift() -> None:
    """It is (top, bottom, left, right).

    Zeros before the first row and column count, and more than one cannot be built.
    """
    assert shifted([layer(2, (0, 1, 1, 0)), layer(2, (1, 0, 0, 1))], None) == (1, 2)
    assert shifted([layer(1, (1, 1, 1, 1)), layer(2, (1, 1, 1, 1))], (64, 64)) == (0, 0)
    wrong: Padding
    for wrong in ((2, 1, 1, 1), (1, 1, 1, 2), (-1, 1, 1, 1), "VALID"):
        with pytest.raises(FormatError, match="k3s2d1"):
            shifted([layer(2, wrong)], (64, 64))
    for wrong in ((0, 0, 0, 0), (1, 1, 1, 0), "VALID"):
        with pytest.raises(FormatError, match="only SAME can be built"):
            shifted([layer(1, wrong)], (64, 64))


def test_offsets_of_another_width_are_left_alone() -> None:
    """Two values for each keypoint are needed to tell y from x."""
    before = {name: conv(name, 4) for name in HEADS}
    assert grid.shift_to_symmetric(before, [layer(2)], (64, 64), 3) is before


def strides(trunk: list[Unit]) -> list[tuple[int, int]]:
    return [(unit.conv.stride, unit.conv.dilation) for unit in trunk]


def test_dilation_becomes_the_stride_that_it_replaced() -> None:
    """The last 3×3 layer before it gets the stride, twice if it is 4. Paddings are halved, and 1×1 layers stay."""
    point = layer(kernel=1)
    trunk = [layer(2), layer(1), point, layer(1, dilation=2), point, layer(1, (2, 2, 2, 2), dilation=2)]
    undone = grid.undo_dilation(trunk)
    assert strides(undone) == [(2, 1), (2, 1), (1, 1), (1, 1), (1, 1), (1, 1)]
    assert undone[1].padding == (1, 1, 1, 1) and undone[2] is point and undone[3].padding == "SAME"
    assert undone[5].padding == (1, 1, 1, 1)
    trunk = [layer(1), layer(1, dilation=2), layer(1, dilation=4)]
    assert strides(grid.undo_dilation(trunk)) == [(2, 1), (2, 1), (1, 1)]
    # The layer that gets its stride back keeps its own padding. Unequal padding is halved on each side.
    trunk = [layer(1, (0, 1, 0, 1)), layer(1, (4, 2, 0, 2), dilation=2)]
    undone = grid.undo_dilation(trunk)
    assert undone[0].padding == (0, 1, 0, 1) and undone[1].padding == (2, 1, 0, 1)
    plain = [layer(2), layer(1)]
    assert grid.undo_dilation(plain) is plain


@pytest.mark.parametrize(
    "trunk",
    [
        [layer(1, dilation=2)],
        [layer(kernel=1), layer(1, dilation=2)],
        [layer(2), layer(1, dilation=2)],
        [layer(1), layer(1, dilation=3)],
        [layer(1), layer(1, dilation=2), layer(1, dilation=1)],
    ],
)
def test_dilation_of_no_stride_is_refused(trunk: list[Unit]) -> None:
    """No layer can have had the stride, or it still has it, or a layer is dilated by an odd number."""
    with pytest.raises(FormatError, match="which is not that of a network with a coarser stride"):
        grid.undo_dilation(trunk)


# -- folding


def op(meaning: Meaning | None, source: str, result: str) -> Op:
    return Op(f"{type(meaning).__name__}_{result}", [source], [result], meaning)


def convolution(kind: Kind = "conv", source: str = "x", **given: Any) -> Op:
    shape = (3, 3, 2, 1) if kind == "depthwise" else (1, 1, 3, 2)
    weights = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return op(Convolution(**{"weights": weights, "kind": kind, **given}), source, "y")


def bias(value: float) -> Affine:
    return Affine(addend=np.array(value))


def fold(*ops: Op, outputs: tuple[str, ...] = ()) -> Unit:
    (unit,) = fold_convolutions(Graph(list(ops), ["x"], list(outputs)))
    return unit


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_bias_scale_and_activation_are_folded_in_their_order(kind: Kind) -> None:
    """The layers compute ((w·x + 1) · (2, 3) + 5) · 2 and then ReLU6.

    What follows does not belong to the convolution.
    """
    unit = fold(
        convolution(kind, bias=np.array([1.0, 2.0]), names=("w",)),
        op(Affine(factor=np.array([2.0, 3.0])), "y", "s"),
        op(bias(5.0), "s", "b"),
        op(Affine(factor=np.array(2.0)), "b", "t"),
        op(Rectify("relu6"), "t", "a"),
        op(bias(100.0), "a", "z"),
    )
    factor = np.array([[4.0], [6.0]]) if kind == "depthwise" else np.array([4.0, 6.0])
    np.testing.assert_array_equal(
        unit.conv.weights, np.arange(unit.conv.weights.size).reshape(unit.conv.weights.shape) * factor
    )
    np.testing.assert_array_equal(unit.conv.bias, [14, 22])
    assert (unit.conv.activation, unit.conv.kind, unit.source, unit.result) == ("relu6", kind, "x", "a")
    assert unit.names == [
        "Convolution_y",
        "y",
        "Affine_s",
        "s",
        "Affine_b",
        "b",
        "Affine_t",
        "t",
        "Rectify_a",
        "a",
        "w",
    ]
    assert unit.padding == "SAME" and (unit.conv.stride, unit.conv.dilation) == (1, 1)


def test_both_steps_of_an_affine_operator_and_its_activation_are_folded() -> None:
    """(w·x + (1, 2)) · (2, 3) + 5, then the ReLU that TFLite fuses with it."""
    both = Affine(np.array([2.0, 3.0]), np.array([5.0]), "relu")
    unit = fold(convolution(bias=np.array([1.0, 2.0])), op(both, "y", "s"), op(bias(100.0), "s", "z"))
    np.testing.assert_array_equal(unit.conv.weights, np.arange(6).reshape(1, 1, 3, 2) * [2, 3])
    np.testing.assert_array_equal(unit.conv.bias, [7, 11])
    assert (unit.conv.activation, unit.result) == ("relu", "s")


def test_folding_stops_where_somebody_else_reads() -> None:
    """A tensor that has two readers, or that is an output of the graph, must exist as it is."""
    five = op(bias(5.0), "y", "b")
    assert fold(convolution(), five).result == "b"
    assert fold(convolution(), five, op(None, "y", "o")).result == "y"
    assert fold(convolution(), five, outputs=("y",)).result == "y"
    assert fold(convolution(), op(None, "y", "o")).result == "y"
    assert fold(convolution(activation="relu"), five).result == "y", "the activation was within"


def test_what_precedes_a_convolution_belongs_to_it() -> None:
    """Explicit zeros belong to it, and so does the entrance to SpaceToBatch form, which is a dilation."""
    padded = fold(op(Pad((0, 1, 0, 1)), "x", "p"), convolution(source="p", padding="VALID"))
    assert padded.padding == (0, 1, 0, 1) and padded.source == "x" and padded.conv.dilation == 1
    dilated = fold(op(Dilate(2), "x", "p"), convolution(source="p", padding="VALID"), op(Dilate(2), "y", "z"))
    assert dilated.padding == "SAME" and dilated.conv.dilation == 2 and dilated.result == "z"
    passed = fold(op(Pass(), "x", "p"), op(Pad((1, 1, 1, 1)), "p", "q"), convolution(source="q"))
    assert passed.source == "x" and passed.padding == (1, 1, 1, 1)
    assert fold(Op("none", [], ["p"], Pass()), convolution(source="p")).source == "p"
    assert fold(op(Pass(), "p", "p"), convolution(source="p")).source == "p", "a loop ends"


ONE_WEIGHT = Convolution(np.zeros((1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Op("c", ["x", "w"], ["y"], ONE_WEIGHT), "c has 2 computed inputs and 1 results"),
        (Op("c", ["x"], ["y", "z"], ONE_WEIGHT), "c has 1 computed inputs and 2 results"),
        (Op("c", ["x"], ["y"], Convolution(np.zeros((3, 3, 2)))), r"have the shape \(3, 3, 2\)"),
        (convolution("depthwise", weights=np.zeros((3, 3, 2, 2))), r"depthwise weights of shape \(3, 3, 2, 2\)"),
        (convolution(bias=np.zeros(3)), "has 3 values for 2 channels"),
        (convolution(activation="tanh"), "has the activation tanh"),
        (convolution(stride=[1, 2]), r"has the stride \[1, 2\]"),
        (convolution(stride=[3, 3]), r"has the stride \[3, 3\]"),
        (convolution(dilation=[1, 2]), r"is dilated by \[1, 2\]; height and width must agree"),
        (op(None, "x", "y"), "holds no convolution"),
    ],
)
def test_convolutions_that_cannot_be_built_are_named(made: Op, says: str) -> None:
    """The message must name the layer and the property of it that the KPU cannot do."""
    with pytest.raises(FormatError, match=says):
        fold(made)


def picture(*ops: Op, inputs: tuple[str, ...] = ("x",)) -> str:
    return picture_tensor(Graph(list(ops), list(inputs), []))


def normalise(source: str, result: str, factor: float, addend: float, activation: str = "linear") -> Op:
    return op(Affine(np.array([factor]), np.array(addend), activation), source, result)


def test_the_picture_is_normalised_to_one_or_not_at_all() -> None:
    """x · 2/255 − 1, in one step or two, is what the KPU does anyway. Other ranges are refused with the range."""
    assert picture(convolution()) == "x"
    one = normalise("x", "a", 1 / 127.5, -1.0)
    assert picture(one, op(Pass(), "a", "b"), convolution(source="b")) == "a"
    assert picture(normalise("x", "a", 1 / 128, 0.0), normalise("a", "b", 1.0, -1.0)) == "b"
    assert picture(normalise("x", "a", 1.0, -127.5), normalise("a", "b", 2 / 255, 0.0)) == "b"
    assert picture(op(Pass(), "x", "a"), normalise("a", "b", 1 / 127.5, -1.0)) == "b"
    assert picture(one, op(None, "x", "z")) == "x", "two readers: nothing is folded"
    assert picture(op(Affine(addend=np.zeros(3)), "x", "a")) == "x", "a value for each colour: nothing is folded"
    assert picture(normalise("x", "a", 1 / 127.5, -1.0, "relu")) == "x", "nor where an activation follows"
    for factor, addend, says in ((1 / 255, 0.0, "0…1"), (1 / 127.5, 0.0, "0…2"), (1 / 255, -1.0, "-1…0")):
        with pytest.raises(FormatError, match=f"normalises pixels to {says}; only −1…1"):
            picture(normalise("x", "a", factor, addend))
    with pytest.raises(FormatError, match="has 2 inputs"):
        picture(inputs=("x", "y"))


# -- what operators mean


def meaning(name: str, *operands: list[float] | None) -> Meaning | None:
    """The meaning of an operator whose operands are constants, or None where they are computed."""
    return meaning_of(name, [None if values is None else partial(np.array, values) for values in operands])


@pytest.mark.parametrize(
    ("names", "operands", "factor", "addend"),
    [
        (("ADD", "Add", "AddV2", "BiasAdd"), (None, [3.0, 5.0]), [1], [3, 5]),
        (("ADD", "Add", "AddV2", "BiasAdd"), ([3.0, 5.0], None), [1], [3, 5]),
        (("SUB", "Sub"), (None, [3.0]), [1], [-3]),
        (("MUL", "Mul"), (None, [3.0, 5.0]), [3, 5], [0]),
        (("MUL", "Mul"), ([3.0], None), [3], [0]),
        (("DIV", "Div", "RealDiv"), (None, [4.0]), [0.25], [0]),
    ],
)
def test_arithmetic_with_a_constant_is_affine(
    names: tuple[str, ...], operands: tuple[list[float] | None, ...], factor: list[float], addend: list[float]
) -> None:
    """x + c, x − c, x · c and x / c have different names in both forms, and the constant may come first in a sum."""
    for name in names:
        found = meaning(name, *operands)
        assert isinstance(found, Affine) and found.activation == "linear"
        assert (found.factor.tolist(), found.addend.tolist()) == (factor, addend)


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("SUB", ([3.0], None)),
        ("RealDiv", ([3.0], None)),
        ("ADD", (None, None)),
        ("ADD", (None, [1.0], [1.0])),
        ("ADD", ([1.0],)),
        ("RELU", (None, None)),
        ("PAD", (None,)),
        ("PAD", (None, [0.0, 0, 1, 1, 1, 1])),
        ("PAD", (None, [0.0, 1, 1, 1, 1, 1, 0, 0])),
        ("PAD", (None, [0.0, 0, 1, 1, 1, 1, 0, 1])),
        ("PAD", (None, [0.0, 0, float("inf"), 1, 1, 1, 0, 0])),
        ("SPACE_TO_BATCH_ND", (None,)),
        ("SPACE_TO_BATCH_ND", (None, [2.0, 3.0], [0.0])),
        ("SPACE_TO_BATCH_ND", (None, [2.0, 2.0, 2.0])),
        ("BatchToSpaceND", (None, [64.0, 64.0])),
        ("BatchToSpaceND", (None, [0.0, 0.0])),
        ("CONCATENATION", (None, None)),
        ("RESIZE_BILINEAR", (None,)),
    ],
)
def test_operators_that_mean_something_else_are_not_folded(name: str, operands: tuple[list[float] | None, ...]) -> None:
    """c − x, c / x, two computed tensors, padding of batch or channels, and blocks with two different sides."""
    assert meaning(name, *operands) is None


def test_padding_dilation_and_activations_are_recognised() -> None:
    """Their constants are read only where they matter."""
    pads = [0.0, 0, 1, 2, 3, 4, 0, 0]
    assert meaning("PADV2", None, pads, [0.0]) == meaning("Pad", None, pads) == Pad((1, 2, 3, 4))
    assert meaning("SpaceToBatchND", None, [63.0, 63.0], [0.0] * 4) == Dilate(63)
    assert meaning("BATCH_TO_SPACE_ND", None, [1.0, 1.0]) == Dilate(1)
    assert meaning("Relu6", None) == Rectify("relu6") and meaning("RELU", None) == Rectify("relu")
    assert meaning("RESHAPE", None, [1.0]) == meaning("Sigmoid", None) == Pass()
