"""What the KPU and MaixPy's loader ask of a model.

One function per constraint: its docstring is the sentence that the user sees, and `python -m
model_build.kpu.constraints` writes docs/constraints.md from the same sentences. A function returns None if the
constraint is met, otherwise the values that break it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from model_build.kpu import ram
from model_build.kpu.layer import KpuLayer

LARGEST_SIZE = (512, 256)
"""The largest width and height that the KPU's registers hold, in pixels."""
LEAST_CELLS = 4
PARAMETER_MEMORY_BYTES = 30 * 1024
"""The KPU holds this many bytes of weights at a time; layers with more are loaded in several parts."""


def nearest_size(
    width_px: int, height_px: int, output_stride: int, largest: tuple[int, int] = LARGEST_SIZE
) -> tuple[int, int]:
    """The nearest size that meets all constraints: (width, height) in pixels."""
    cells = (
        min(max(round(side / output_stride), LEAST_CELLS), most // output_stride)
        for side, most in zip((width_px, height_px), largest, strict=True)
    )
    width, height = (count * output_stride for count in cells)
    return width, height


def size_multiple(width_px: int, height_px: int, output_stride: int) -> str | None:
    """Width and height of the picture must be multiples of the output stride."""
    if width_px % output_stride or height_px % output_stride:
        return f"{width_px}x{height_px} with output stride {output_stride}"
    return None


def size_limit(width_px: int, height_px: int, output_stride: int) -> str | None:
    """The picture must be at most 512 wide and 256 high."""
    return f"{width_px}x{height_px}" if width_px > LARGEST_SIZE[0] or height_px > LARGEST_SIZE[1] else None


def map_minimum(width_px: int, height_px: int, output_stride: int) -> str | None:
    """Every feature map must be at least 4x4 pixels."""
    width, height = width_px // output_stride, height_px // output_stride
    if width < LEAST_CELLS or height < LEAST_CELLS:
        least = LEAST_CELLS * output_stride
        return f"{width_px}x{height_px} gives a map of {width}x{height}; at least {least}x{least} is needed"
    return None


def channel_limit(layer: KpuLayer) -> str | None:
    """A KPU layer has at most 1,024 input and 1,024 output channels."""
    most = max(layer.weights.shape[:2])
    return f"{most} channels" if most > 1024 else None


def kernel_form(layer: KpuLayer) -> str | None:
    """Kernels are 1x1 or 3x3; depthwise ones are 3x3."""
    if layer.depthwise and layer.kernel_size != 3:
        return f"depthwise {layer.kernel_size}x{layer.kernel_size}"
    return None


def depthwise_pooling(layer: KpuLayer) -> str | None:
    """Depthwise layers cannot pool, so they cannot have a stride; the layer after them pools instead."""
    return f"depthwise with pooling type {layer.pool_type}" if layer.depthwise and layer.pool_type else None


def weights_per_channel(layer: KpuLayer) -> str | None:
    """The weights of one output channel must fit into one load of 30,720 bytes, and 64 loads must be enough."""
    if layer.depthwise:
        return None
    channel_bytes = layer.weights[0].nbytes
    if channel_bytes > PARAMETER_MEMORY_BYTES:
        return f"{channel_bytes} bytes a channel"
    loads = layer.registers.load_time + 1
    return f"{loads} loads" if loads > 64 else None


def inside_ram(layer: KpuLayer) -> str | None:
    """Feature maps must lie inside the 32,768 lines of 64 bytes of KPU RAM."""
    ends = {"input": layer.source_line + layer.in_lines, "output": layer.target_line + layer.out_lines}
    over = [f"{name} ends at line {end}" for name, end in ends.items() if end > ram.RAM_LINES]
    return ", ".join(over) or None


def main_memory_width(layer: KpuLayer) -> str | None:
    """An output's map must not be a multiple of 64 wide: otherwise MaixPy leaves its last byte unwritten."""
    if layer.main_mem_address is not None and layer.out_width % 64 == 0:
        return f"output {layer.out_width} wide"
    return None


def main_memory_pixels(layer: KpuLayer) -> str | None:
    """An output's map must have at most 65,536 pixels (register channel_byte_num)."""
    pixels = layer.out_width * layer.out_height
    return f"{pixels} pixels" if layer.main_mem_address is not None and pixels > 65536 else None


SIZE_CONSTRAINTS: tuple[Callable[[int, int, int], str | None], ...] = (size_multiple, size_limit, map_minimum)
LAYER_CONSTRAINTS: tuple[Callable[[KpuLayer], str | None], ...] = (
    channel_limit,
    kernel_form,
    depthwise_pooling,
    weights_per_channel,
    inside_ram,
    main_memory_width,
    main_memory_pixels,
)


def _sentence(constraint: Callable[..., str | None]) -> str:
    return " ".join((constraint.__doc__ or "").split()).rstrip(".")


def check_size(width_px: int, height_px: int, output_stride: int) -> None:
    """Raise UserError with the first sentence that the picture's size breaks, the values, and the nearest possible
    size."""
    for constraint in SIZE_CONSTRAINTS:
        values = constraint(width_px, height_px, output_stride)
        if values:
            width, height = nearest_size(width_px, height_px, output_stride)
            raise UserError(f"{_sentence(constraint)}: got {values}; the nearest is {width}x{height}", exit_code=2)


def check_layer(layer: KpuLayer) -> None:
    """Raise UserError with the first sentence that a layer breaks, and the values."""
    for constraint in LAYER_CONSTRAINTS:
        values = constraint(layer)
        if values:
            raise UserError(f"{layer.name or 'KPU layer'}: {_sentence(constraint)}: got {values}")


def markdown() -> str:
    """The text of docs/constraints.md."""
    lines = [
        "# What the KPU asks of a model",
        "",
        "For anyone who designs a network for this chip, or whose size was refused. After reading this page you know",
        "every rule that a model must keep. `python -m model_build.kpu.constraints` writes the page. If a build breaks",
        "a rule, the message is the same sentence with the actual values.",
        "",
        "## The picture",
        "",
        *(f"- {_sentence(c)}. (`{c.__name__}`)" for c in SIZE_CONSTRAINTS),
        "",
        "## Each layer",
        "",
        *(f"- {_sentence(c)}. (`{c.__name__}`)" for c in LAYER_CONSTRAINTS),
        "",
        "The layout search finds out whether the feature maps of a whole network fit side by side into KPU RAM; if",
        "they do not, the message names the layer, the lines that it needs, and sizes that fit.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    target = Path(__file__).resolve().parents[2] / "docs" / "constraints.md"
    target.write_text(markdown(), encoding="utf-8")
    print(f"wrote {target}", file=sys.stderr)
