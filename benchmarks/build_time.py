"""Measures the CPU time of whole builds and compares it with an earlier commit's or with nncase's compile.

    python -m benchmarks.build_time [NETWORK …] [--size WxH …] [--against CHECKOUT] [--limit RATIO]

Our time is that of `python -m model_build build` in a process of its own, importing and reporting included. The peer is
the same command in another checkout with that checkout's own environment (`git worktree add CHECKOUT COMMIT`, then `uv
sync` in it). Without one, the peer is nncase 1.9 alone (dependency group `nncase`) on the same pictures. They take
turns, and the faster of two rounds counts. CPU time is measured, since wall time on a busy machine says little.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.cli import guarded, parse_size
from common.errors import UserError
from model_build.calibration import choose
from model_build.importers import open_network
from model_build.nncase_witness import compile_tflite
from model_build.tflite_writer import write

ROUNDS = 2


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time, user and system, of the child processes that `work` starts."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    work()
    return used() - before


def build(checkout: Path, python: str, network: str, size: str, out: Path) -> None:
    command = [python, "-m", "model_build", "build", network, "--size", size, "--out", str(out)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{checkout}: {done.stderr.strip()}")


def nncase_compile(network: str, size: str) -> None:
    width, height = parse_size(size)
    compile_tflite(write(open_network(network), width, height), choose(None).at(width, height))


def run(args: argparse.Namespace) -> int:
    here = Path(__file__).resolve().parents[1]
    worst = float("inf")
    for network in args.networks:
        for size in args.size:
            with tempfile.TemporaryDirectory() as folder:
                ours, peer = [], []
                for number in range(ROUNDS):
                    out = Path(folder) / str(number)
                    ours.append(cpu_seconds(lambda o=out: build(here, sys.executable, network, size, o)))  # type: ignore[misc]  # noqa: B023
                    if args.against:
                        python, out = str(args.against / ".venv" / "bin" / "python"), Path(folder) / f"peer{number}"
                        peer.append(cpu_seconds(lambda o=out, p=python: build(args.against, p, network, size, o)))  # type: ignore[misc]  # noqa: B023
                    else:
                        peer.append(cpu_seconds(lambda: nncase_compile(network, size)))  # noqa: B023
            ratio = min(peer) / min(ours)
            worst = min(worst, ratio)
            print(f"{network} {size}: {min(ours):.1f} s of CPU, peer {min(peer):.1f} s, ratio {ratio:.2f}", flush=True)
    return 0 if args.limit is None or worst >= args.limit else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["demo"], metavar="NETWORK")
    parser.add_argument("--size", nargs="+", default=["256x192"], metavar="WxH")
    parser.add_argument("--against", type=lambda path: Path(path).resolve(), metavar="CHECKOUT")
    parser.add_argument("--limit", type=float, help="fail if a ratio is below this")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
