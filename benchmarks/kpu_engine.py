"""Speed of the KPU engine against float TFLite, and on request against nncase's Simulator, in one run.

    python -m benchmarks.kpu_engine [--network posenet-075] [--size 320x240] [--threads 1] [--rounds 30] [--nncase]

The engine and the same network in float TFLite take turns in one process, with the same number of threads; the best
round of each counts, in wall time and in CPU time (which says more on a machine that does other things as well).
First the engine's bytes are compared with those that come by way of KPU RAM, layer by layer. With --nncase a kmodel
V5 of the network at 224x224 is run by the engine and by nncase's Simulator, bytes compared as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.straight_kmodel import from_program
from common.arrays import Numbers
from common.cli import guarded, parse_size
from common.errors import UserError
from model_build import calibration, importers, nncase_witness, tflite_writer
from model_build.build import build
from model_build.engines import litert
from model_build.engines.kpu import KpuEngine
from model_build.kpu import kmodel_v3, kmodel_v5, ram

FLOAT_RATIO = 3.0
"""The engine may take this many times the float network."""
NNCASE_SIZE = (224, 224)
"""A size that nncase can place."""


def _best_ms(run: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[Numbers, Numbers]:
    """The wall and CPU milliseconds of the best round of each; the two take turns."""
    taken: list[list[tuple[float, float]]] = [[], []]
    for _ in range(rounds):
        for times, call in zip(taken, (run, other), strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    return np.min(taken[0], axis=0), np.min(taken[1], axis=0)


def _line(name: str, times_ms: Numbers) -> str:
    return f"  {name:<22}{times_ms[0]:8.1f} ms a frame ({times_ms[1]:.1f} ms of CPU)"


def against_float(network: str, size: tuple[int, int], threads: int, rounds: int) -> float:
    """Print the comparison and return the engine's CPU time over that of float TFLite."""
    with tempfile.TemporaryDirectory() as folder:
        made = build(network, *size, out_dir=Path(folder) / "build")
        kmodel, tflite = made.kmodel.read_bytes(), made.tflite.read_bytes()
    start = time.perf_counter()
    engine = KpuEngine(kmodel, threads)
    opening_ms = 1000 * (time.perf_counter() - start)
    interpreter = litert.open_interpreter(tflite, threads)
    (source,) = interpreter.get_input_details()
    width, height = size
    planes = np.random.default_rng(0).integers(0, 256, (3, height, width)).astype(np.uint8)
    slow = KpuEngine(kmodel)
    slow._steps, slow._kpu_ram = None, np.zeros(ram.RAM_BYTES, np.uint8)
    for ours, expected in zip(engine.run(planes), slow.run(planes), strict=True):
        if not np.array_equal(ours, expected):
            raise UserError("the engine's bytes differ from those by way of KPU RAM")
    picture = (planes.transpose(1, 2, 0)[None].astype(np.float32) - 128) / 128

    def run_float() -> None:
        interpreter.set_tensor(source["index"], picture)
        interpreter.invoke()

    ours_ms, float_ms = _best_ms(lambda: engine.run(planes), run_float, rounds)
    ratio = ours_ms / float_ms
    print(f"{network} at {width}x{height}, {threads} thread(s), bytes as by way of KPU RAM, best of {rounds}:")
    print(_line("float TFLite", float_ms))
    print(_line("kpu engine", ours_ms) + f", opened in {opening_ms:.0f} ms")
    print(f"  {'ratio':<22}{ratio[0]:8.2f} (CPU time {ratio[1]:.2f}), at most {FLOAT_RATIO:.0f} wanted")
    return float(ratio[1])


def against_nncase(network: str, rounds: int) -> None:
    """Print the comparison. In nncase's kmodel the tables bend at their ends, so the engine runs them in NumPy."""
    width, height = NNCASE_SIZE
    pictures = calibration.choose().at(width, height)
    v5 = nncase_witness.compile_tflite(tflite_writer.write(importers.open_network(network), width, height), pictures)
    program = kmodel_v5.read(v5)
    engine = KpuEngine(kmodel_v3.write(from_program(program)), threads=1)
    planes = np.ascontiguousarray(pictures[0].transpose(2, 0, 1))
    peer = _nncase(v5, pictures[0])
    for ours, theirs, output in zip(engine.run(planes), peer(), program.outputs, strict=True):
        assert output.scale is not None and output.zero_point is not None
        if not np.array_equal(ours, np.rint(theirs / output.scale + output.zero_point).astype(np.uint8)):
            raise UserError("the engine's bytes differ from nncase's")
    ours_ms, peer_ms = _best_ms(lambda: engine.run(planes), peer, rounds)
    ratio = peer_ms / ours_ms
    print(f"{network} at {width}x{height}, kmodel V5 of nncase's, the same bytes out of both, best of {rounds}:")
    print(_line("nncase 1.9 Simulator", peer_ms))
    print(_line("kpu engine", ours_ms))
    print(f"  {'ratio':<22}{ratio[0]:8.1f} (CPU time {ratio[1]:.1f})")


def _nncase(v5: bytes, nhwc: Numbers) -> Callable[[], list[Numbers]]:
    import nncase

    simulator = nncase.Simulator()
    simulator.load_model(v5)
    simulator.set_input_tensor(0, nncase.RuntimeTensor.from_numpy(np.ascontiguousarray(nhwc[None])))

    def run() -> list[Numbers]:
        simulator.run()
        return [simulator.get_output_tensor(i).to_numpy()[0] for i in range(simulator.outputs_size)]

    return run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="posenet-075")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--nncase", action="store_true", help="compare with nncase's Simulator as well")
    args = parser.parse_args(argv)
    ratio = against_float(args.network, parse_size(args.size), args.threads, args.rounds)
    if args.nncase:
        against_nncase(args.network, min(args.rounds, 10))
    return 0 if ratio <= FLOAT_RATIO else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
