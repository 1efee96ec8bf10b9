"""Speed of the KPU engine against nncase's Simulator on the same PoseNet and picture.

    python -m benchmarks.kpu_engine [--network posenet-075-coral] [--size 224x224] [--rounds 10]

Both run in turn in one process, single-threaded; the best round of each counts. Every output byte is compared
first. Prints milliseconds a frame, the ratio, and the engine alone on the layouts that the build makes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from common.errors import UserError
from model_build import calibration, importers, nncase_witness, tflite_writer
from model_build.engines.kpu import KpuEngine
from model_build.kpu import kmodel_v3, kmodel_v5, layout

REQUIRED_RATIO = 10.0


def _nncase(v5: bytes, nhwc: np.ndarray) -> Callable[[], list[np.ndarray]]:
    import nncase

    simulator = nncase.Simulator()
    simulator.load_model(v5)
    simulator.set_input_tensor(0, nncase.RuntimeTensor.from_numpy(np.ascontiguousarray(nhwc[None])))

    def run() -> list[np.ndarray]:
        simulator.run()
        return [simulator.get_output_tensor(i).to_numpy()[0] for i in range(simulator.outputs_size)]

    return run


def _best_ms(run: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="posenet-075-coral")
    parser.add_argument("--size", default="224x224", help="a size that nncase can place (default 224x224)")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args(argv)
    width, height = map(int, args.size.split("x"))
    network = importers.open_network(args.network)
    pictures = calibration.choose()
    v5 = nncase_witness.compile_tflite(tflite_writer.write(network, width, height), pictures.at(width, height))
    program = kmodel_v5.read(v5)
    nhwc = pictures.at(width, height)[0]
    planes = np.ascontiguousarray(nhwc.transpose(2, 0, 1))
    engine = KpuEngine(kmodel_v3.write(kmodel_v3.from_program(program)))
    peer = _nncase(v5, nhwc)
    for ours, theirs, output in zip(engine.run(planes), peer(), program.outputs, strict=True):
        assert output.scale is not None and output.zero_point is not None
        if not np.array_equal(ours, np.rint(theirs / output.scale + output.zero_point).astype(np.uint8)):
            raise UserError("the engine's bytes differ from nncase's")
    ours_ms, peer_ms = [], []
    for _ in range(args.rounds):
        ours_ms.append(_best_ms(lambda: engine.run(planes)))
        peer_ms.append(_best_ms(peer))
    (wall, cpu), (peer_wall, peer_cpu) = np.min(ours_ms, axis=0), np.min(peer_ms, axis=0)
    print(f"{args.network} at {args.size}, the same bytes out of both, best of {args.rounds}:")
    print(f"  nncase 1.9 Simulator   {peer_wall:8.1f} ms a frame ({peer_cpu:.1f} ms of CPU)")
    print(f"  kpu engine             {wall:8.1f} ms a frame ({cpu:.1f} ms of CPU)")
    ratios = f"{peer_wall / wall:8.1f} (CPU time {peer_cpu / cpu:.1f})"
    print(f"  ratio                  {ratios}, {REQUIRED_RATIO:.0f} wanted")
    for w, h in ((width, height), (320, 240)):
        laid_out = KpuEngine(layout.lay_out(program, w, h)[0])
        blank = np.random.default_rng(0).integers(0, 256, (3, h, w)).astype(np.uint8)
        runs = [_best_ms(lambda e=laid_out, b=blank: e.run(b)) for _ in range(args.rounds)]  # type: ignore[misc]
        print(f"  kpu engine, own layout at {w}x{h}: {np.min(runs, axis=0)[0]:.1f} ms a frame, random picture")
    return 0 if peer_cpu / cpu >= REQUIRED_RATIO else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
