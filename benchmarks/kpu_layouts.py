"""What the layout search gains: KPU RAM and estimated time for each form of layout, for PoseNet's shapes.

    python -m benchmarks.kpu_layouts

The peer is "plain": every layer reads one place and writes another, as nncase does it, but with the best placement
there is, since nncase's own first-fit allocator fails earlier. Times are estimates (model_build/kpu/cycles.py). The
weights are not needed.
"""

from __future__ import annotations

import argparse
import sys
import time

from common.cli import guarded
from model_build.kpu import layout_search, ram
from model_build.kpu.layer import LEFT_TOP_2

WIDTHS = (32, 64, 128, 128, 256, 256, *(512,) * 8)
STRIDES = (1, 2, 1, 2, 1, 2, *(1,) * 7)
HEAD_CHANNELS = (17, 34, 32, 32)
SIZES = ((224, 224), (256, 192), (256, 256), (320, 240), (512, 256))
FORMS = (("plain",), ("plain", "sliding"), layout_search.FORMS)


def posenet_nodes(multiplier: float) -> tuple[layout_search.LayoutNode, ...]:
    """The shapes of PoseNet on MobileNet v1 with output stride 16."""
    channels = [int(width * multiplier) for width in WIDTHS]
    nodes = [layout_search.LayoutNode(-1, False, 3, 3, channels[0], LEFT_TOP_2, False, False)]
    for before, after, stride in zip(channels[:-1], channels[1:], STRIDES, strict=True):
        last = len(nodes) - 1
        pool = LEFT_TOP_2 if stride == 2 else 0
        nodes.append(layout_search.LayoutNode(last, True, 3, before, before, 0, False, True))
        nodes.append(layout_search.LayoutNode(last + 1, False, 1, before, after, pool, False, False))
    trunk = len(nodes) - 1
    nodes += [layout_search.LayoutNode(trunk, False, 1, channels[-1], head, 0, True, False) for head in HEAD_CHANNELS]
    return tuple(nodes)


def _cell(
    nodes: tuple[layout_search.LayoutNode, ...], width: int, height: int, forms: tuple[str, ...]
) -> tuple[str, float | None]:
    found = layout_search.search(nodes, width, height, forms, ram.RAM_LINES)
    if not isinstance(found, layout_search.LayoutPlan):
        return "does not fit", None
    kib = found.peak_lines * ram.LINE_BYTES // 1024
    used = "+".join(sorted({piece.form for piece in found.pieces} - {"plain"}))
    return f"{kib:,} KiB, {found.estimate_us / 1000:.1f} ms{', ' + used if used else ''}", found.estimate_us


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| multiplier | picture | plain | with sliding | all forms | plain / all | search |")
    print("|---|---|---|---|---|---|---|")
    for multiplier in (0.5, 0.75, 1.0):
        nodes = posenet_nodes(multiplier)
        for width, height in SIZES:
            started = time.perf_counter()
            cells = [_cell(nodes, width, height, forms) for forms in FORMS]
            plain_us, all_us = cells[0][1], cells[-1][1]
            ratio = f"{plain_us / all_us:.2f}" if plain_us and all_us else "-"
            row = [f"{multiplier:.2f}", f"{width}x{height}", *(text for text, _ in cells), ratio]
            print("| " + " | ".join(row) + f" | {time.perf_counter() - started:.1f} s |")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
