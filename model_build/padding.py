"""How the KPU's padding changes a PoseNet.

The KPU's 3×3 convolutions pad by one on all sides. TensorFlow's SAME pads a stride-2 convolution by (1, 1) on
odd sizes but by (0, 1) on even ones. PoseNet was trained at sizes 16k + 1, where all of its stride-2 layers
see odd sizes: pixels 0, 2, 4, … of each layer's input. Padding by (1, 1) at an even size visits the same
grid without its last row and column, so "position = cell · stride + offset" holds without correction.
"""

from __future__ import annotations

from model_build.network import Network


def feature_sizes(network: Network, width: int, height: int) -> list[tuple[int, int]]:
    """(width, height) after each trunk layer: (size − 1) // stride + 1 at each layer."""
    sizes = []
    for layer in network.trunk:
        width = (width - 1) // layer.stride + 1
        height = (height - 1) // layer.stride + 1
        sizes.append((width, height))
    return sizes


def same_padding_before(size: int, kernel: int, stride: int) -> int:
    """The number of zeros that TensorFlow's SAME puts before the first pixel (tf.nn.convolution's documentation)."""
    out = -(-size // stride)
    return max((out - 1) * stride + kernel - size, 0) // 2
