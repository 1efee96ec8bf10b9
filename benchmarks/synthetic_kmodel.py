"""Makes a small network of random weights in PoseNet's form (stride 16, four heads): a V3 kmodel with its manifest."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from common.flash_map import KMODEL_ADDRESS
from common.skeleton import EDGES, KEYPOINTS
from model_build.kpu import kmodel_v3, ram
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import Activation, BatchNorm, KpuLayer
from model_build.kpu.registers import LayerRegisters
from model_build.manifest import field_facts, mul_q16, sigmoid_table_q15, usual_field_width
from model_build.network import HEADS

CHANNELS = dict(zip(HEADS, (17, 34, 32, 32), strict=True))
SCALES = dict(zip(HEADS, (0.04, 0.25, 0.5, 0.5), strict=True))


def _table(spread: float, middle: float) -> Activation:
    """A table that maps accumulators linearly: middle ± 3·spread becomes 0…255, clamped."""
    shift = 24
    slope = 255 / (6 * spread)
    while slope * 2**shift > 30000:
        shift -= 1
    never = (1 << 35) - 1
    start = np.full(16, never, np.int64)
    start[:2] = -(1 << 35), int(middle - 3 * spread)
    mul, shifts, bias = np.zeros(16, np.int64), np.zeros(16, np.int64), np.zeros(16, np.int64)
    mul[1], shifts[1] = round(slope * 2**shift), shift
    return Activation(start, mul, shifts, bias)


def _layer(
    rng: np.random.Generator, inputs: int, outputs: int, width: int, height: int, kernel: int, pool: int,
    source: int, target: int, main: int | None = None, name: str = "",
) -> KpuLayer:  # fmt: skip
    stride = {0: 1, 5: 2, 7: 4}[pool]
    out_width, out_height = width // stride, height // stride
    weights = rng.integers(0, 256, (outputs, inputs, kernel, kernel)).astype(np.uint8)
    # Σx·(w − 128) for x around 128 with a spread of 60.
    spread = np.sqrt(inputs * kernel**2) * 74 * 141
    layout, out_layout = ram.row_layout(width), ram.row_layout(out_width)
    registers = LayerRegisters(
        i_ch_num=inputs - 1, o_ch_num=outputs - 1, o_ch_num_coef=outputs - 1,
        i_row_wid=width - 1, i_col_high=height - 1, o_row_wid=out_width - 1, o_col_high=out_height - 1,
        kernel_type=1 if kernel == 3 else 0, pool_type=pool, load_para=1, load_coor=1, load_act=1,
        dma_burst_size=15, pad_value=128, arg_x=-128, image_src_addr=source, image_dst_addr=target,
        coef_group=layout.groups, row_switch_addr=layout.row_lines, channel_switch_addr=layout.row_lines * height,
        wb_group=out_layout.groups, wb_row_switch_addr=out_layout.row_lines,
        wb_channel_switch_addr=out_layout.row_lines * out_height,
        para_size=weights.size, channel_byte_num=out_width * out_height - 1,
        dma_total_byte=out_width * out_height * outputs - 1,
    )  # fmt: skip
    add = rng.integers(-int(spread / 4), int(spread / 4), outputs)
    norm = BatchNorm(np.ones(outputs, np.int64), np.zeros(outputs, np.int64), add)
    return KpuLayer(registers, weights, norm, _table(0.25 * spread, 0), main, name)


def make_model(width: int = 64, height: int = 48, seed: int = 5) -> KmodelV3:
    """A model of four heads after three 3x3 convolutions, which pool by 2, 2 and 4."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 8, 5), (8, 16, 5), (16, 16, 7)]
    layers, w, h, source = [], width, height, 0
    for i, (inputs, outputs, pool) in enumerate(shapes):
        target = 16000 if i % 2 == 0 else 0
        layers.append(_layer(rng, inputs, outputs, w, h, 3, pool, source, target, name=f"conv{i}"))
        stride = {5: 2, 7: 4}[pool]
        w, h, source = w // stride, h // stride, target
    sizes = [CHANNELS[name] * w * h for name in HEADS]
    places, main_bytes = kmodel_v3.place_outputs(sizes)
    for name, place in zip(HEADS, places, strict=True):
        layers.append(_layer(rng, 16, CHANNELS[name], w, h, 1, 0, source, 24000, place.address, name))
    return KmodelV3(tuple(layers), places, main_bytes, 26000)


def make_manifest(kmodel: bytes, main_bytes: int, width: int = 64, height: int = 48) -> dict[str, Any]:
    """The posenet.json that belongs to make_model()."""
    map_width, map_height = width // 16, height // 16
    heads = [
        {
            "name": name, "output": i, "channels": CHANNELS[name], "scale": SCALES[name], "zero_point": 120,
            "mul_q16": mul_q16(SCALES[name]), "bytes": CHANNELS[name] * map_width * map_height,
        }
        for i, name in enumerate(HEADS)
    ]  # fmt: skip
    return {
        **field_facts(width, height, usual_field_width(width, height)),
        "network": "small",
        "source": {"id": "random", "sha256": "0" * 64},
        "input": {"width": width, "height": height},
        "mount": 0,
        "output_stride": 16,
        "map": {"width": map_width, "height": map_height},
        "keypoints": list(KEYPOINTS),
        "edges": [list(edge) for edge in EDGES],
        "heads": heads,
        "sigmoid_q15": list(sigmoid_table_q15(SCALES["heatmap"], 120)),
        "kmodel": {
            "version": 3, "bytes": len(kmodel), "sha256": "0" * 64, "crc32": zlib.crc32(kmodel),
            "flash_address": KMODEL_ADDRESS, "kpu_ram_bytes": 0, "main_mem_bytes": main_bytes,
        },
    }  # fmt: skip


def write_build(folder: Path, width: int = 64, height: int = 48, seed: int = 5) -> Path:
    """A build folder with posenet.kmodel and posenet.json (no float network)."""
    model = make_model(width, height, seed)
    kmodel = kmodel_v3.write(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "posenet.kmodel").write_bytes(kmodel)
    (folder / "posenet.json").write_text(
        json.dumps(make_manifest(kmodel, model.main_mem_bytes, width, height)), encoding="utf-8"
    )
    return folder
