"""How a feature map lies in KPU RAM.

KPU RAM is 2 MiB of 64-byte lines. Maps up to 16 pixels wide put four channels into one line, up to 32 two;
wider maps take one or more lines per image row. (nncase, k210 runtime: get_kpu_row_layout.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.arrays import Bytes

LINE_BYTES = 64
RAM_LINES = 32768
RAM_BYTES = LINE_BYTES * RAM_LINES


@dataclass(frozen=True)
class RowLayout:
    """groups: channels that share a line; row_lines: lines per image row; pitch_bytes: per channel in a line."""

    groups: int
    row_lines: int
    pitch_bytes: int


def row_layout(width_px: int) -> RowLayout:
    """The layout that the KPU uses for maps of this width."""
    if width_px <= 16:
        return RowLayout(4, 1, 16)
    if width_px <= 32:
        return RowLayout(2, 1, 32)
    return RowLayout(1, -(-width_px // LINE_BYTES), LINE_BYTES)


def lines(channels: int, height_px: int, width_px: int) -> int:
    """64-byte lines that a feature map occupies."""
    layout = row_layout(width_px)
    return -(-channels // layout.groups) * layout.row_lines * height_px


def view(ram: Bytes, first_line: int, channels: int, height_px: int, width_px: int) -> Bytes:
    """A writable uint8 view of whole channel groups: (blocks, groups, height, width), no copy.

    Channel c is view[c // groups, c % groups]. Raises ValueError beyond the end of KPU RAM.
    """
    layout = row_layout(width_px)
    start = first_line * LINE_BYTES
    count = lines(channels, height_px, width_px)
    if first_line < 0 or start + count * LINE_BYTES > ram.size:
        raise ValueError(f"feature map at line {first_line} with {count} lines exceeds {ram.size // 64} lines")
    block = ram[start : start + count * LINE_BYTES]
    blocks = -(-channels // layout.groups)
    if layout.groups == 1:
        return block.reshape(blocks, 1, height_px, layout.row_lines * LINE_BYTES)[..., :width_px]
    grouped = block.reshape(blocks, height_px, layout.groups, layout.pitch_bytes)
    return grouped.transpose(0, 2, 1, 3)[..., :width_px]


def read(ram: Bytes, first_line: int, channels: int, height_px: int, width_px: int) -> Bytes:
    """Copy a feature map out of KPU RAM: uint8 (channels, height, width), contiguous."""
    grouped = view(ram, first_line, channels, height_px, width_px)
    return np.ascontiguousarray(grouped).reshape(-1, height_px, width_px)[:channels]


def write(ram: Bytes, first_line: int, feature_map: Bytes) -> None:
    """Write a uint8 (channels, height, width) map; bytes between its rows do not change."""
    channels, height_px, width_px = feature_map.shape
    target = view(ram, first_line, channels, height_px, width_px)
    groups = target.shape[1]
    whole = channels // groups
    target[:whole] = feature_map[: whole * groups].reshape(whole, groups, height_px, width_px)
    if channels % groups:
        target[whole, : channels % groups] = feature_map[whole * groups :]
