"""A small network in PoseNet's form whose heads show nearly everything that a silicon profile can say.

Ordinary builds avoid ties, several loads of weights and falling segments; this network consists of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.synthetic_kmodel import make_manifest, make_model
from model_build.kpu import kmodel_v3
from model_build.kpu.layer import Activation, BatchNorm, KpuLayer

_SHIFTS = {3: 11, 8: 11, 16: 12}
"""Input channels → the batch norm's shift that leaves some hundred values."""


def _table() -> Activation:
    """A steep and coarse table with ties, falling segments, inputs at a start, and results beyond 0 and 255."""
    rows = [(-(1 << 35), 0, 0, 20), (-60, 8, 2, 0), (0, -5, 1, 180), (40, 18, 1, 100), (60, 3, 66, 30)]
    rows += [((1 << 35) - 1, 0, 0, 0)] * (16 - len(rows))
    return Activation(*np.array(rows, np.int64).T)


def _touchy(layer: KpuLayer) -> KpuLayer:
    channels = layer.out_channels
    mul = np.where(np.arange(channels) % 3 == 0, -1, 1)
    norm = BatchNorm(mul, np.full(channels, _SHIFTS[layer.in_channels]), np.arange(channels) % 7)
    half = channels // 2
    regs = {"arg_x": -257, "shr_x": 1, "arg_add": 2000, "pad_value": 90, "o_ch_num_coef": half - 1}
    regs |= {"load_time": -(-channels // half) - 1, "para_size": half * layer.weights[0].size}
    return replace(layer.with_registers(**regs), batch_norm=norm, activation=_table())


def write_touchy_build(folder: Path) -> Path:
    """Write a build folder with posenet.kmodel and posenet.json for 64×48."""
    model = make_model()
    model = replace(model, layers=tuple(_touchy(layer) for layer in model.kpu_layers))
    kmodel = kmodel_v3.write(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "posenet.kmodel").write_bytes(kmodel)
    manifest = make_manifest(kmodel, model.main_mem_bytes)
    (folder / "posenet.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
