"""nncase 1.9 as a witness of the build: another compiler and another simulator for the same float network.

No build needs it. Where a wheel of nncase exists (x86-64, Python 3.10; dependency group `nncase`), `compile_tflite`
makes its own kmodel V5 of a float TFLite file, and `witness_of` puts a build's weights and tables into such a file, so
that nncase's simulator computes what our engine computes, byte for byte.

nncase prints to the process's stdout, writes files into the current folder and can end the process on graphs that it
does not support, so it runs in a process of its own: `python -m model_build.nncase_witness FOLDER` compiles
FOLDER/model.tflite with the pictures FOLDER/samples.npy into FOLDER/model.kmodel, or leaves FOLDER/error.txt.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.arrays import Bytes
from common.errors import UserError
from model_build.kpu import kmodel_v5, layout, layout_search
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import BatchNorm, KpuLayer
from model_build.kpu.program import KpuProgram

METHODS = ("no_clip", "kld_m0", "kld_m1", "kld_m2")
"""How nncase chooses ranges: by the extremes seen, or by the smallest Kullback–Leibler divergence."""

_OUT_OF_MEMORY = "Allocator has ran out of memory"


class OutOfKpuMemoryError(UserError):
    """nncase cannot place the network at this size."""


def require() -> None:
    """UserError unless nncase is installed."""
    try:
        import nncase  # noqa: F401
    except ImportError:
        raise UserError(
            "nncase is not installed: on x86-64 with Python 3.10, `uv sync --group nncase` installs it; "
            "elsewhere there is no nncase, and only this cross-check needs it"
        ) from None


def with_extremes(pictures: Bytes) -> Bytes:
    """uint8 (N, H, W, 3) with one pixel 0 and one 255 in a corner of the first.

    nncase takes the input's range from the extremes that it sees. With both of these pixels the range is [−1, 127/128],
    the scale 1/128 and the zero point 128, so camera bytes go into the KPU unchanged.
    """
    samples = pictures.copy()
    samples[0, 0, 0], samples[0, 0, 1] = 0, 255
    return samples


def compile_tflite(tflite: bytes, pictures: Bytes, method: str = METHODS[0]) -> bytes:
    """kmodel V5 of a float TFLite file, quantized on pictures uint8 (N, H, W, 3) of its input's size.

    OutOfKpuMemoryError if nncase cannot place it at this size; UserError if nncase is not installed or fails.
    """
    require()
    with tempfile.TemporaryDirectory(prefix="maix-posenet-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(tflite)
        np.save(folder / "samples.npy", with_extremes(pictures))
        root = Path(__file__).resolve().parents[1]
        worker = subprocess.run(
            [sys.executable, "-m", "model_build.nncase_witness", str(folder), method],
            cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if worker.returncode == 0:
            return (folder / "model.kmodel").read_bytes()
        said = folder / "error.txt"
        reason = (
            said.read_text(encoding="utf-8")
            if said.is_file()
            else worker.stderr.decode(errors="replace").strip()[-300:]
        )
    height, width = pictures.shape[1:3]
    if _OUT_OF_MEMORY in reason:
        raise OutOfKpuMemoryError(f"nncase cannot place the network at {width}x{height}: {reason}")
    raise UserError(f"nncase failed at {width}x{height} (exit {worker.returncode}): {' '.join(reason.split())}")


def witness_of(tflite: bytes, model: KmodelV3) -> bytes:
    """nncase's kmodel V5 of a build's float TFLite, with the weights and tables of the build's kmodel V3."""
    first = model.kpu_layers[0]
    noise = np.random.default_rng(0).integers(0, 256, (1, first.in_height, first.in_width, 3), np.uint8)
    v5 = compile_tflite(tflite, noise)
    theirs = kmodel_v5.read(v5)
    plan = layout.plan(layout.nodes_of(theirs), first.in_width, first.in_height)
    if len(plan.pieces) != len(model.kpu_layers):
        raise UserError(
            f"nncase's program has the layout of {len(plan.pieces)} KPU layers, the build has {len(model.kpu_layers)}; "
            "another version may have built it: build it again"
        )
    return kmodel_v5.rewrite(v5, tables_into(theirs, plan, model.kpu_layers))


def tables_into(program: KpuProgram, plan: layout_search.LayoutPlan, made: list[KpuLayer]) -> KpuProgram:
    """`program` with the weights, tables and arithmetic of KPU layers that were laid out by `plan`."""
    pieces: list[list[tuple[layout_search.Piece, KpuLayer]]] = [[] for _ in program.layers]
    for piece, layer in zip(plan.pieces, made, strict=True):
        pieces[piece.layer].append((piece, layer))
    layers = []
    for layer, parts in zip(program.layers, pieces, strict=True):
        parts.sort(key=lambda part: part[0].first)
        weights, norms = [], []
        for piece, part in parts:
            channel = np.arange(piece.last - piece.first)
            weights.append(part.weights[channel, channel][:, None] if piece.form == "diagonal" else part.weights)
            norms.append(part.batch_norm)
        norm = BatchNorm(*(np.concatenate([getattr(one, name) for one in norms]) for name in ("mul", "shift", "add")))
        registers = parts[0][1].registers
        arithmetic = layer.with_registers(
            arg_x=registers.arg_x,
            arg_w=registers.arg_w,
            arg_add=registers.arg_x * registers.arg_w * layer.kernel_size**2,
            pad_value=registers.pad_value,
        )
        tables = {"weights": np.concatenate(weights), "batch_norm": norm, "activation": parts[0][1].activation}
        layers.append(replace(arithmetic, **tables))
    return replace(program, layers=tuple(layers))


def main(folder: Path, method: str) -> int:
    """Compile FOLDER/model.tflite; 0 on success, 1 with error.txt."""
    import nncase

    os.chdir(folder)
    samples = np.load("samples.npy")
    count, height, width, channels = samples.shape

    compile_options = nncase.CompileOptions()
    compile_options.target = "k210"
    compile_options.quant_type = "uint8"
    compile_options.input_type = "uint8"
    compile_options.input_shape = [1, height, width, channels]
    compile_options.input_layout = "NHWC"
    compile_options.output_layout = "NCHW"
    compile_options.preprocess = True
    compile_options.input_range = [0, 255]
    compile_options.mean = [128] * channels
    compile_options.std = [128] * channels
    compiler = nncase.Compiler(compile_options)
    try:
        compiler.import_tflite(Path("model.tflite").read_bytes(), nncase.ImportOptions())
        ptq = nncase.PTQTensorOptions()
        ptq.calibrate_method = method
        ptq.samples_count = count
        ptq.set_tensor_data(samples.tobytes())
        compiler.use_ptq(ptq)
        compiler.compile()
        data = compiler.gencode_tobytes()
    except Exception as error:
        Path("error.txt").write_text(str(error) or type(error).__name__, encoding="utf-8")
        return 1
    Path("model.kmodel").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
