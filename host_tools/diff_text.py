"""The comparison as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from host_tools.diff import ROWS, STAGES, Distances, PictureResult, StageDifference
from model_build.network import HEADS

TIMED = ("camera", "picture", "forward", "decode", "single", "draw")


def describe_stage(stage: StageDifference) -> str:
    """One line about one stage."""
    if not stage.compared:
        return "not compared"
    if stage.equal:
        return f"equal ({stage.total} values)"
    text = f"DIFFERS in {stage.differing} of {stage.total}"
    if stage.first:
        text += f"; first at {stage.first.where}: board {stage.first.board}, simulator {stage.first.simulator}"
    if stage.max_abs:
        text += f"; max {stage.max_abs}, rms {stage.rms:.3g}"
    return text


def describe_distances(found: Distances) -> str:
    """One line about keypoints."""
    return f"median {found.median_px:.2f} px, max {found.max_px:.2f} px over {found.keypoints}"


def distance_rows(pictures: Sequence[PictureResult]) -> list[tuple[str, int, float, float]]:
    """(row, keypoints in all pictures, median of the pictures' medians, greatest), in pixels of the input."""
    rows = []
    for row in ROWS:
        found = [picture.keypoints_px[row] for picture in pictures if row in picture.keypoints_px]
        if found:
            count = sum(item.keypoints for item in found)
            rows.append((row, count, median(item.median_px for item in found), max(item.max_px for item in found)))
    return rows


def distance_table(pictures: Sequence[PictureResult]) -> list[str]:
    """The lines about the final keypoints, single-pose."""
    lines = [f"{'':<22}{'keypoints':<19}{'median px':>9}{'max px':>11}"]
    for row, count, middle, greatest in distance_rows(pictures):
        lines.append(f"{row:<22}{count:<19}{middle:>9.2f}{greatest:>11.2f}")
    return lines


def render(pictures: Sequence[PictureResult], context: Mapping[str, Any], verbose: bool = False) -> str:
    """The report; pictures that are equal in every stage take one line unless `verbose`."""
    lines = [f"{name:<11}{context[name]}" for name in ("board", "network", "simulator")] + [""]
    for picture in pictures:
        if picture.first_fault is None and not verbose:
            lines.append(f"{picture.name}: equal in every stage")
            continue
        verdict = f"first differs in: {picture.first_fault}" if picture.first_fault else "equal in every stage"
        lines.append(f"{picture.name}: {verdict}")
        for stage in picture.stages:
            lines.append(f"  {stage.stage:<17} {describe_stage(stage)}")
            if stage.looks_like:
                lines.append(f"  {'':<17} → {stage.looks_like}")
        for row, found in picture.keypoints_px.items():
            lines.append(f"  keypoints, {row}: {describe_distances(found)}")
    lines += ["", *stage_table(pictures), "", *metric_table(pictures), ""]
    lines += [*distance_table(pictures), "", *timing_table(pictures)]
    differing = [picture for picture in pictures if picture.first_fault]
    lines += ["", verdict_line(len(pictures), differing)]
    lines += [str(remark) for remark in context.get("remarks", ())]
    return "\n".join(lines)


def verdict_line(count: int, differing: Sequence[PictureResult]) -> str:
    """The line that sums up whether board and simulator agree."""
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    if not differing:
        return f"EQUAL: {pictures}, every stage bit for bit"
    stages = sorted({str(picture.first_fault) for picture in differing}, key=STAGES.index)
    return f"DIFFERS: {len(differing)} of {pictures}, first in stage {', '.join(stages)}"


def stage_table(pictures: Sequence[PictureResult]) -> list[str]:
    """The table of stages: equal pictures, values that differ, and the greatest difference."""
    lines = [f"{'stage':<18}{'equal':>12}{'differing values':>22}{'max':>8}{'rms':>10}"]
    for i, name in enumerate(STAGES):
        stages = [picture.stages[i] for picture in pictures if picture.stages[i].compared]
        if not stages:
            lines.append(f"{name:<18}{'not compared':>12}")
            continue
        equal = sum(stage.equal for stage in stages)
        wrong, total = sum(stage.differing for stage in stages), sum(stage.total for stage in stages)
        rms = (sum(stage.rms**2 * stage.total for stage in stages) / max(total, 1)) ** 0.5
        lines.append(
            f"{name:<18}{f'{equal} of {len(stages)}':>12}{f'{wrong} of {total}':>22}"
            f"{max(stage.max_abs for stage in stages):>8}{rms:>10.3g}"
        )
    return lines


def mean_metrics(pictures: Sequence[PictureResult]) -> list[tuple[str, str, dict[str, float]]]:
    """(row, head, figures) averaged over the pictures."""
    rows = []
    for row in ROWS:
        for head in HEADS:
            found = [picture.metrics[row][head] for picture in pictures if head in picture.metrics.get(row, {})]
            if found:
                names = ("acc", "rmse", "mae", "l2r", "cos")
                rows.append((row, head, {name: sum(getattr(m, name) for m in found) / len(found) for name in names}))
    return rows


def metric_table(pictures: Sequence[PictureResult]) -> list[str]:
    """The rows of on-target validation: mean over the pictures, real values of the heads."""
    lines = [f"{'':<22}{'output':<19}{'acc':>9}{'rmse':>11}{'mae':>11}{'l2r':>11}{'cos':>11}"]
    for row, head, figures in mean_metrics(pictures):
        numbers = "".join(f"{figures[name]:>11.6f}" for name in ("rmse", "mae", "l2r", "cos"))
        lines.append(f"{row:<22}{head:<19}{figures['acc']:>9.2%}{numbers}")
    return lines


def timing_rows(pictures: Sequence[PictureResult]) -> list[tuple[str, float, float, float]]:
    """(stage, median, least, greatest) in milliseconds, measured by the board."""
    rows = []
    for stage in TIMED:
        times = [picture.times_us[stage] / 1000 for picture in pictures if stage in picture.times_us]
        if times:
            rows.append((stage, median(times), min(times), max(times)))
    return rows


def timing_table(pictures: Sequence[PictureResult]) -> list[str]:
    """The table of times by stage, by the board's own clock."""
    lines = [f"{'board, ms':<12}{'median':>10}{'min':>10}{'max':>10}"]
    for name, middle, low, high in timing_rows(pictures):
        lines.append(f"{name:<12}{middle:>10.2f}{low:>10.2f}{high:>10.2f}")
    return lines
