"""Time of a warm build against nncase's own compile of the same network with the same pictures.

    python -m benchmarks.build_time [--network NAME] [--size WxH] [--calibration DIR]

Peer: nncase 1.9 alone (import, calibration on all pictures, compile, code generation) at the size that the build
quantizes at. Ours: everything that `python -m model_build build` does after its modules are loaded: float TFLite,
quantization, layout, kmodel V3, quality of the heads on pictures, report. Both in wall time and in CPU time, since
wall time on a busy machine says little.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common.cli import guarded, parse_size
from common.errors import UserError


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) of work, child processes included."""

    def cpu() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    wall_before, cpu_before = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - wall_before, cpu() - cpu_before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default=None, help="default: posenet-075, or demo where that cannot be had")
    parser.add_argument("--size", default="256x192")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--limit", type=float, help="fail if the ratio of CPU times is above this")
    args = parser.parse_args()

    from model_build.build import build_network
    from model_build.calibration import choose
    from model_build.importers import open_network
    from model_build.quantize import NNCASE_METHODS, quantize

    width, height = parse_size(args.size)
    try:
        network = open_network(args.network or "posenet-075")
    except UserError:
        if args.network:
            raise
        network = open_network("demo")
    calibration = choose(args.calibration)
    print(f"{network.name} at {width}x{height}, {calibration.origin}")
    rows = {}
    rows["nncase compile"] = seconds(lambda: quantize(network, width, height, calibration, NNCASE_METHODS[0]))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "build"
        rows["build"] = seconds(lambda: build_network(network, width, height, out, calibration))
    for name, (wall, cpu) in rows.items():
        print(f"{name:<16}{wall:8.1f} s wall {cpu:8.1f} s CPU")
    wall_ratio, cpu_ratio = (rows["build"][i] / rows["nncase compile"][i] for i in (0, 1))
    print(f"build / nncase compile: {wall_ratio:.2f} wall, {cpu_ratio:.2f} CPU")
    return 0 if args.limit is None or cpu_ratio <= args.limit else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
