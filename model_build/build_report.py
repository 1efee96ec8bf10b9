"""The report of a build: one dictionary, shown as JSON, text and CSV."""

from __future__ import annotations

from typing import Any

from model_build import fingerprint
from model_build.calibration import CalibrationSet
from model_build.kpu.report import KpuReport
from model_build.manifest import Manifest
from model_build.network import Network
from model_build.quality import Quality

_UNITS = {"heatmap": "logit", "short_offset": "px", "displacement_fwd": "px", "displacement_bwd": "px"}


def make(
    network: Network, manifest: Manifest, kpu: KpuReport, calibration: CalibrationSet, measured: Quality, rounding: str
) -> dict[str, Any]:
    """The contents of report.json, without times of day and durations, so that equal builds have equal reports."""
    return {
        "network": network.name,
        "source": {"id": network.source_id, "sha256": network.source_sha256},
        "sources_sha256": fingerprint.of_sources(),
        "input": {"width": manifest.width, "height": manifest.height},
        "output_stride": network.output_stride,
        "parameters": network.parameters(),
        "quantization": {"pictures": list(calibration.names), "origin": calibration.origin, "rounding": rounding},
        "kpu": kpu.to_dict(),
        "kmodel_bytes": manifest.kmodel.bytes,
        "flash_address": manifest.kmodel.flash_address,
        "quality": measured.to_dict(),
        "warnings": _warnings(measured),
    }


def _warnings(measured: Quality) -> list[str]:
    """Warnings that a person should read before using the build."""
    if measured.found_by_float:
        return []
    return [
        f"the float network itself finds next to nothing: {measured.keypoints} keypoints with a score of at least 0.5 "
        f"in {measured.pictures} calibration pictures. Either no person is in them (give photos of people with "
        "--calibration), or the weights are damaged or too coarse (tfjs quant1), and no kmodel of them can find more"
    ]


def _scale_text(scale: float | list[float]) -> str:
    return f"{min(scale):.4f}…{max(scale):.4f}" if isinstance(scale, list) else f"{scale:.5f}"


def text(report: dict[str, Any], kpu: KpuReport) -> str:
    """The text of report.txt."""
    size, quality = report["input"], report["quality"]
    lines = [
        f"{report['network']} at {size['width']}x{size['height']}, output stride {report['output_stride']}",
        f"weights        {report['source']['id']} (sha256 {report['source']['sha256'][:16]}…), "
        f"{report['parameters']:,} values",
        f"calibration    {report['quantization']['origin']}",
        f"rounding       of weights, {report['quantization']['rounding']}",
        f"kmodel         {report['kmodel_bytes']:,} bytes, flash address {report['flash_address']:#x}",
        f"main memory    {kpu.totals['main_mem_bytes'] / 1024:,.0f} KiB for the outputs",
        "",
        *kpu.text().splitlines(),
        "",
        f"Quantization against float on {quality['pictures']} of the calibration pictures (KPU simulator):",
        f"  {'head':<18}{'range':>22}{'unit':>7}{'scale':>16}{'zero':>6}{'rmse':>10}{'cosine':>10}{'clipped':>9}",
    ]
    for head in quality["heads"]:
        span = f"{head['low']:.2f} … {head['high']:.2f}"
        lines.append(
            f"  {head['name']:<18}{span:>22}{_UNITS[head['name']]:>7}{_scale_text(head['scale']):>16}"
            f"{head['zero_point']!s:>6}{head['rmse']:>10.4f}{head['cosine']:>10.5f}{head['clipped']:>9.2%}"
        )
    lines += [
        "  rmse and cosine are over what bytes can say; clipped values lie beyond it, where decoding has no use for",
        "  them: heatmap logits of scores below 0.02, offsets far from every keypoint.",
    ]
    if quality["keypoints"]:
        lines += [
            "",
            f"Keypoint error against float: median {quality['median_px']:.2f} px, 95th percentile "
            f"{quality['p95_px']:.2f} px of the input,",
            f"over {quality['keypoints']} keypoints with a float score of at least 0.5; "
            f"{quality['moved']} moved by more than two cells.",
        ]
    else:
        lines += ["", "Keypoint error: no keypoint in the pictures has a float score of 0.5."]
    lines += [line for warning in report["warnings"] for line in ("", f"Warning: {warning}.")]
    return "\n".join(lines) + "\n"
