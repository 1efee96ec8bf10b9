"""What the readers of TensorFlow graphs and TFLite files make of each operator that is written here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.arrays import Numbers
from common.errors import FormatError
from model_build.importers import graphdef, tflite
from model_build.importers.graph import Affine, Convolution, Pass, Rectify
from model_build.importers.graphdef_file import GraphNode
from model_build.importers.tflite_file import TensorQuantization, TfliteFile, TfliteOperator, TfliteTensor

# -- TensorFlow graphs


def const(name: str, value: Any) -> GraphNode:
    return GraphNode(name, "Const", [], {}, np.asarray(value))


PICTURE = GraphNode("x", "Placeholder", [], {"shape": [1, 33, 65, 3]})
HWIO = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
KERNEL = const("w", HWIO)


def convolution(*more: str, op: str = "Conv2D", **attributes: Any) -> Convolution:
    """The meaning of a node that reads x and w."""
    node = GraphNode("c", op, ["x", "w", *more], {"strides": [1, 1, 1, 1], **attributes})
    graph = graphdef.to_graph([PICTURE, KERNEL, const("b", [1, 2, 3, 4]), node])
    assert (graph.inputs, graph.outputs, graph.ops[0].inputs) == (["x"], ["c"], ["x"])
    made = graph.ops[0].meaning
    assert isinstance(made, Convolution)
    return made


def test_a_graphs_picture_size_is_width_and_height() -> None:
    """The file has height before width, we have width before height, and what the user says counts more."""
    node = GraphNode("c", "Relu", ["x"])

    def size(shape: list[int | None], given: tuple[int, int] | None = None) -> tuple[int, int] | None:
        return graphdef.to_graph([replace(PICTURE, attributes={"shape": shape}), node], given).input_size

    assert size([1, 33, 65, 3]) == (65, 33) and size([1, 33, 65, 3], (9, 7)) == (9, 7)
    assert size([None, None, None, 3]) is size([1, 33, None, 3]) is size([1, None, 65, 3]) is size([33, 65, 3]) is None


def test_a_constant_behind_two_identities_is_still_one() -> None:
    """The file may have them in any order and with output numbers. Behind three identities it no longer counts."""
    two = [GraphNode("w", "Identity", ["v:0"]), GraphNode("v", "Cast", ["u"]), const("u", [2.0])]
    add = GraphNode("a", "Mul", ["x", "w:0", "^v"])
    made = graphdef.to_graph([PICTURE, add, *two]).ops
    assert [op.name for op in made] == ["a"] and made[0].inputs == ["x"] and isinstance(made[0].meaning, Affine)
    assert made[0].meaning.factor.tolist() == [2]
    three = [GraphNode("w", "Identity", ["t"]), GraphNode("t", "Identity", ["v"]), *two[1:]]
    ops = graphdef.to_graph([PICTURE, add, *three]).ops
    assert [(op.name, op.inputs) for op in ops] == [("a", ["x", "w"]), ("w", [])]
    assert graphdef.to_graph([PICTURE, GraphNode("p", "Identity", ["x"])]).ops[0].meaning == Pass()


def test_batch_norm_becomes_factor_and_addend() -> None:
    """(x − mean) · gamma / √(variance + epsilon) + beta, with an epsilon of 1/10,000 if none is given."""
    numbers = {"gamma": [4.0, 6.0], "beta": [1.0, 1.0], "mean": [3.0, 5.0], "variance": [3.0, 8.0]}
    node = GraphNode("n", "FusedBatchNormV3", ["x", *numbers], {"epsilon": 1})

    def made(node: GraphNode, **changed: list[float]) -> tuple[list[float], list[float]]:
        constants = [const(name, value) for name, value in {**numbers, **changed}.items()]
        meaning = graphdef.to_graph([PICTURE, *constants, node]).ops[0].meaning
        assert isinstance(meaning, Affine)
        return meaning.factor.tolist(), meaning.addend.tolist()

    assert made(node) == ([2, 2], [-5, -9])
    assert made(replace(node, attributes={}), variance=[0.0, 0.0])[0] == pytest.approx([400, 600])
    with pytest.raises(FormatError, match="batch norm n has constants of different lengths"):
        made(node, mean=[1.0])
    computed = replace(node, inputs=["x", "x", *list(numbers)[1:]])
    assert graphdef.to_graph([PICTURE, *(const(*one) for one in numbers.items()), computed]).ops[0].meaning is None


def test_a_graphs_convolution_attributes_are_read() -> None:
    """Strides and dilations are of height and width, padding is in pairs, and tfjs has dilations in the wrong
    places."""
    made = convolution()
    np.testing.assert_array_equal(made.weights, HWIO)
    assert (made.kind, made.bias, made.padding, made.activation, made.names) == ("conv", None, "SAME", "linear", ("w",))
    assert (list(made.stride), list(made.dilation)) == ([1, 1], [1, 1])
    made = convolution(strides=[1, 2, 3, 1], dilations=[1, 2, 3, 1], padding=b"VALID", op="DepthwiseConv2dNative")
    assert (made.kind, list(made.stride), list(made.dilation)) == ("depthwise", [2, 3], [2, 3])
    assert made.padding == "VALID"
    assert list(convolution(dilations=[2, 3, 1, 1]).dilation) == [2, 3]
    made = convolution(padding=b"EXPLICIT", explicit_paddings=[0, 0, 1, 2, 3, 4, 0, 0])
    assert made.padding == (1, 2, 3, 4)
    assert list(convolution(strides=[1, 63, 63, 1]).stride) == [63, 63]


def test_a_fused_convolution_has_bias_and_activation() -> None:
    """Both are named in fused_ops."""
    made = convolution("b", op="_FusedConv2D", fused_ops=[b"BiasAdd", b"Relu6"])
    assert made.bias is not None and made.bias.tolist() == [1, 2, 3, 4] and made.bias.dtype == np.float32
    assert (made.activation, made.names) == ("relu6", ("w", "b"))
    assert convolution(op="_FusedConv2D", fused_ops=[b"Relu"]).activation == "relu"


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"data_format": b"NCHW"}, "c is NCHW; only NHWC"),
        ({"strides": [1, 64, 1, 1]}, r"c has the strides \[1, 64, 1, 1\]; it must be four numbers from 1 to 63"),
        ({"strides": [1, 0, 1, 1]}, "has the strides"),
        ({"strides": [1, 1, 1]}, "has the strides"),
        ({"dilations": [1, 2, 2, 2]}, r"c is dilated by \[1, 2, 2, 2\]; only height and width"),
        ({"dilations": [2, 2, 2, 1]}, "only height and width"),
        ({"padding": b"EXPLICIT", "explicit_paddings": [0, 0, 1, 1]}, "has the explicit paddings"),
        ({"padding": b"EXPLICIT", "explicit_paddings": [0, 0, 1, 1, 1, 1.5, 0, 0]}, "has the explicit paddings"),
        ({"fused_ops": [b"BiasAdd"]}, "c is fused with BiasAdd"),
        ({"fused_ops": [b"Elu"]}, "c is fused with Elu"),
    ],
)
def test_unreadable_convolutions_of_graphs_are_named(attributes: dict[str, Any], says: str) -> None:
    """The message contains the name and the wrong values."""
    with pytest.raises(FormatError, match=says):
        convolution(**attributes)


def test_weights_of_a_graph_are_constants_and_numbers() -> None:
    """Without that, the graph was not frozen or is damaged."""
    node = GraphNode("c", "Conv2D", ["x", "w"], {"strides": [1, 1, 1, 1]})
    with pytest.raises(FormatError, match="c has no constant weights; freeze"):
        graphdef.to_graph([PICTURE, node])
    with pytest.raises(FormatError, match="c has constants of type bool"):
        graphdef.to_graph([PICTURE, const("w", [True]), node])


# -- TFLite files


def tensor(index: int, data: Numbers | None = None, **given: Any) -> TfliteTensor:
    shape = data.shape if data is not None else (1, 33, 65, 3)
    made = TfliteTensor(index, f"t{index}", shape, "float32", None, data)
    return replace(made, **given)


OPTIONS: dict[str, Any] = {"padding": "VALID", "stride": [2, 2], "dilation": [1, 1], "activation": "linear"}
OHWI = np.arange(24, dtype=np.float16).reshape(4, 1, 2, 3)
BIAS = np.array([1, 2, 3, 4], np.int32)


def file(tensors: list[TfliteTensor], *operators: tuple[str, tuple[int, ...], tuple[int, ...]]) -> TfliteFile:
    """A file of operators (kind, inputs, outputs). The picture is tensor 0, and the result is the last tensor."""
    made = [TfliteOperator(i, op[0], False, op[1], op[2], dict(OPTIONS)) for i, op in enumerate(operators)]
    return TfliteFile(3, "", tuple(tensors), tuple(made), (0,), (len(tensors) - 1,), 1, ())


def of_result(**given: Any) -> Convolution:
    """A convolution with weights and bias whose result is such a tensor."""
    tensors = [tensor(0), tensor(1, OHWI), tensor(2, BIAS), tensor(3, **given)]
    made = tflite.to_graph(file(tensors, ("CONV_2D", (0, 1, 2), (3,)))).ops[0].meaning
    assert isinstance(made, Convolution)
    return made


def test_a_tflite_convolution_is_read() -> None:
    """Weights go from OHWI to HWIO, and constants are told from what is computed, even if one is missing."""
    made = of_result()
    np.testing.assert_array_equal(made.weights, np.moveaxis(OHWI, 0, -1))
    assert made.bias is not None and made.bias.tolist() == [1, 2, 3, 4]
    assert (made.kind, made.padding, made.stride, made.dilation) == ("conv", "VALID", [2, 2], [1, 1])
    assert (made.activation, made.names) == ("linear", ("t1",))
    without = file([tensor(0), tensor(1, OHWI), tensor(2)], ("DEPTHWISE_CONV_2D", (0, 1, -1), (2,)))
    found = tflite.to_graph(without).ops[0]
    assert isinstance(found.meaning, Convolution) and found.meaning.bias is None and found.meaning.kind == "depthwise"
    assert (found.name, found.inputs, found.outputs) == ("t2", ["0:t0"], ["2:t2"])
    with pytest.raises(FormatError, match="t1 has no constant weights"):
        tflite.to_graph(file([tensor(0), tensor(1)], ("CONV_2D", (0,), (1,))))
    with pytest.raises(FormatError, match="t2 lacks its options"):
        tflite.to_graph(replace(without, operators=(replace(without.operators[0], options={}),)))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 33, 65, 3), (65, 33)),
        ((1, 1, 65, 3), None),
        ((1, 33, 1, 3), None),
        ((33, 65, 3), None),
        ((1, 2, 2, 3), (2, 2)),
    ],
)
def test_a_tflite_files_picture_size_is_known_if_it_is_fixed(
    shape: tuple[int, ...], size: tuple[int, int] | None
) -> None:
    """TFLite writes 1 for a side that is not fixed."""
    graph = tflite.to_graph(file([tensor(0, shape=shape), tensor(1)], ("RELU6", (0,), (1,))))
    assert graph.input_size == size and graph.ops[0].meaning == Rectify("relu6")


def test_weights_in_halves_or_bytes_behind_a_dequantize_are_constants() -> None:
    """The operator disappears, unless its input is computed or it has no result or two."""
    quantization = TensorQuantization(np.array([0.5], np.float32), np.array([3]), 0)
    bytes_ = tensor(1, np.array([1, 3, 7], np.uint8), type="uint8", quantization=quantization)
    graph = tflite.to_graph(
        file([tensor(0), bytes_, tensor(2, shape=(9,)), tensor(3)], ("DEQUANTIZE", (1,), (2,)), ("ADD", (0, 2), (3,)))
    )
    assert [op.name for op in graph.ops] == ["t3"] and graph.ops[0].inputs == ["0:t0"]
    assert isinstance(graph.ops[0].meaning, Affine) and graph.ops[0].meaning.addend.tolist() == [-1, 0, 2]
    assert graph.ops[0].meaning.activation == "linear"
    for inputs, outputs in (((0,), (2,)), ((1,), (-1,)), ((1,), (2, 3)), ((1,), ())):
        made = tflite.to_graph(file([tensor(0), bytes_, tensor(2), tensor(3)], ("DEQUANTIZE", inputs, outputs)))
        assert len(made.ops) == 1, (inputs, outputs)


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "activation"),
    [
        ("uint8", 6 / 255, 0, "relu6"),
        ("int8", 6 / 255, -128, "relu6"),
        ("uint8", 6.05 / 255, 0, "relu6"),
        ("uint8", 6.07 / 255, 0, "relu"),
        ("uint8", 5.93 / 255, 0, "relu"),
        ("uint8", 6 / 255, 1, "linear"),
        ("int8", 6 / 255, 0, "linear"),
        ("float32", 6 / 255, 0, "linear"),
    ],
)
def test_a_results_range_tells_its_activation(kind: str, scale: float, zero: int, activation: str) -> None:
    """255 steps from 0 to 6 are a ReLU6, from 0 to elsewhere a ReLU, and with negative numbers neither."""
    quantization = TensorQuantization(np.array([scale], np.float32), np.array([zero]), 0)
    assert of_result(type=kind, quantization=quantization).activation == activation
    assert of_result(type=kind).activation == "linear"
    two = TensorQuantization(np.array([scale] * 2, np.float32), np.array([zero] * 2), 0)
    assert of_result(type=kind, quantization=two).activation == "linear"
