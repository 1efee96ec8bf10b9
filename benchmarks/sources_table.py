"""Every source of weights that is at hand, at every size: its cost on the chip and the cost of quantization.

    python -m benchmarks.sources_table [--sizes 256x192,320x240] [--calibration DIR] [--out TABLE.md] [FILE …]

Without FILEs, the networks of the catalogue that are on this machine are measured. KPU time is an estimate (report.txt
names its model). The keypoint error is measured: the KPU simulator on the kmodel against float on calibration pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common.cli import guarded, parse_size
from common.errors import UserError
from common.files import write_atomic
from model_build import catalog
from model_build.build import build

COLUMNS = ("source", "size", "KPU RAM, KiB", "kmodel, bytes", "KPU layers", "KPU time, ms (estimate)",
           "keypoint error, px: median", "p95", "keypoints")  # fmt: skip


def row(source: str, size: str, calibration: Path | None) -> tuple[str, ...]:
    """One build's figures, or the reason why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            built = build(source, *parse_size(size), Path(folder) / "build", calibration)
        except UserError as error:
            return (Path(source).name, size, str(error), *[""] * (len(COLUMNS) - 3))
        report = json.loads(built.report_json.read_text(encoding="utf-8"))
    totals, quality = report["kpu"]["totals"], report["quality"]
    return (
        Path(source).name,
        size,
        f"{totals['kpu_ram_peak_bytes'] / 1024:,.0f}",
        f"{report['kmodel_bytes']:,}",
        str(totals["kpu_layers"]),
        f"{totals['estimate_ms']:.1f}",
        "–" if quality["median_px"] is None else f"{quality['median_px']:.2f}",
        "–" if quality["p95_px"] is None else f"{quality['p95_px']:.2f}",
        str(quality["keypoints"]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="FILE")
    parser.add_argument("--sizes", default="256x192,320x240")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sources = args.sources or [entry.name for entry in catalog.NETWORKS if catalog.locate(entry)]
    if not sources:
        raise UserError("no weights on this machine: `python -m model_build fetch all`, or name files")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    for source in sources:
        for size in args.sizes.split(","):
            lines.append("| " + " | ".join(row(source, size, args.calibration)) + " |")
            print(lines[-1], flush=True)
    if args.out:
        write_atomic(args.out, "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
