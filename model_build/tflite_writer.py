"""Writes a Network as float TFLite within milliseconds; the bytes are the same every time.

Stride-2 convolutions are written as PAD by one on all sides and a VALID convolution (model_build/padding.py says
why).
"""

from __future__ import annotations

from model_build import tflite_graph as tflite
from model_build.network import HEADS, Conv, Network
from model_build.padding import feature_sizes
from model_build.tflite_graph import Convolution, TfliteGraph

_ACTIVATION = {"linear": tflite.LINEAR, "relu": tflite.RELU, "relu6": tflite.RELU6}


def write(network: Network, width: int, height: int) -> bytes:
    """TFLite bytes: input "input" float32 (1, H, W, 3) in [−1, 1), outputs the four heads, NHWC, in HEADS order."""
    graph = TfliteGraph()
    current = graph.tensor("input", (1, height, width, 3))
    graph.inputs.append(current)
    sizes = feature_sizes(network, width, height)
    for layer, (out_width, out_height) in zip(network.trunk, sizes, strict=True):
        current = _layer(graph, layer, current, out_width, out_height)
    for name in HEADS:
        head = network.heads[name]
        graph.outputs.append(_layer(graph, head, current, *sizes[-1], name=name))
    return graph.finish()


def _layer(graph: TfliteGraph, layer: Conv, source: int, width: int, height: int, name: str | None = None) -> int:
    padding = tflite.SAME
    if layer.stride == 2 and layer.kernel == 3:
        _, in_height, in_width, channels = graph.shape(source)
        padded = graph.tensor(layer.name + "/pad", (1, in_height + 2, in_width + 2, channels))
        source = graph.operator(tflite.PAD, [source, graph.symmetric_padding()], padded)
        padding = tflite.VALID
    # TFLite stores OHWI for convolutions and 1HWC for depthwise ones.
    weights = graph.constant(layer.name + "/weights", layer.weights.transpose((3, 0, 1, 2)))
    bias = graph.constant(layer.name + "/bias", layer.bias)
    out = graph.tensor(name or layer.name, (1, height, width, layer.out_channels))
    options = Convolution(padding, layer.stride, layer.dilation, _ACTIVATION[layer.activation])
    code = tflite.CONV_2D if layer.kind == "conv" else tflite.DEPTHWISE_CONV_2D
    return graph.operator(code, [source, weights, bias], out, options)
