"""The comparison as a single HTML page that loads nothing else: tables, heatmaps, skeletons, histograms."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.arrays import Numbers
from common.pictures import png, rescaled_width
from common.pose import PIXEL_Q8, SCORE_ONE_Q15
from host_tools.diff import STAGES, BoardFrame, PictureResult, SimulatedFrame, StageDifference
from host_tools.diff_text import (
    describe_distances,
    describe_stage,
    distance_rows,
    mean_metrics,
    timing_rows,
    verdict_line,
)
from host_tools.expected_stages import field_width
from model_build.manifest import dequantize
from model_build.network import HEADS
from model_build.reference_decoder import ReferenceDecoder

SHOWN_PICTURES = 12
"""This many pictures are shown in full: first those that differ, then equal ones."""

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2rem 0 .6rem}h3{font-size:1rem;margin:1.6rem 0 .4rem}
.verdict{font-size:1.1rem;font-weight:600;padding:.6rem .9rem;border-radius:6px;margin:.8rem 0}
.good{background:#e3f4e5;color:#155724}.bad{background:#fde5e3;color:#842029}.none{background:#eef0f3;color:#555}
table{border-collapse:collapse;margin:.4rem 0}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e3e6ea}
th{color:#5a6472;font-weight:600}td:first-child,th:first-child,.left{text-align:left}
td.chip{text-align:center;font-size:.85rem}.mono{font-family:ui-monospace,monospace;font-size:.86rem}
figure{display:inline-block;margin:.3rem 1rem .6rem 0;vertical-align:top}figcaption{color:#5a6472;font-size:.84rem}
img{image-rendering:pixelated;display:block;background:#000}svg{display:block}.hint{color:#842029}
.key span{display:inline-block;margin-right:1.1rem}.key i{display:inline-block;width:22px;height:4px;margin-right:.4rem;
vertical-align:middle}
"""
COLOURS = {"board": "#ff4fa3", "simulator": "#27d3ff", "float": "#ffd23f"}


def render_page(
    results: Sequence[PictureResult],
    frames: Sequence[tuple[BoardFrame, SimulatedFrame]],
    manifest: Mapping[str, Any],
    context: Mapping[str, Any],
) -> str:
    """The whole page; each of `frames` belongs to one of `results`."""
    differing = [result for result in results if result.first_fault]
    about = "<br>".join(f"{name}: {escape(str(context[name]))}" for name in ("board", "network", "simulator"))
    parts = [
        "<h1>Board against simulator</h1>",
        f"<p class=mono>{about}</p>",
        f"<p class='verdict {'bad' if differing else 'good'}'>{escape(verdict_line(len(results), differing))}</p>",
        *(f"<p class=hint>{escape(str(remark))}</p>" for remark in context.get("remarks", ())),
        "<h2>Stages</h2>",
        _stage_table(results),
        "<h2>Validation</h2>",
        _metric_table(results),
        "<p>Mean over the pictures, real values of the heads. acc of the heatmap: keypoints with the same best cell; "
        "of the others: values within half a pixel. l2r: ‖a − b‖ / ‖b‖.</p>",
        _distance_table(results),
        "<p>Keypoints of the single-pose decoders over the whole chain, where the reference is surer than one half; "
        "pixels of the network's input.</p>",
        "<h2>Times on the board</h2>",
        _timing(results),
        "<h2>Pictures</h2>",
    ]
    order = sorted(range(len(results)), key=lambda i: results[i].first_fault is None)
    for i in order[:SHOWN_PICTURES]:
        parts.append(_picture(results[i], *frames[i], manifest))
    if len(results) > SHOWN_PICTURES:
        parts.append(f"<p>{len(results) - SHOWN_PICTURES} more are in the tables above.</p>")
    parts.append(_line(context))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Board against simulator</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _chip(stage: StageDifference) -> str:
    if not stage.compared:
        return "<td class='chip none'>–</td>"
    return "<td class='chip good'>equal</td>" if stage.equal else f"<td class='chip bad'>{stage.differing}</td>"


def _stage_table(results: Sequence[PictureResult]) -> str:
    rows = ["<tr><th>picture</th>" + "".join(f"<th>{stage.replace('_', ' ')}</th>" for stage in STAGES) + "</tr>"]
    for result in results:
        rows.append(f"<tr><td>{escape(result.name)}</td>{''.join(_chip(stage) for stage in result.stages)}</tr>")
    return f"<table>{''.join(rows)}</table><p>A number counts values that differ; – was not compared.</p>"


def _metric_table(results: Sequence[PictureResult]) -> str:
    rows = ["<tr><th></th><th class=left>output</th><th>acc</th><th>rmse</th><th>mae</th><th>l2r</th><th>cos</th></tr>"]
    for row, head, figures in mean_metrics(results):
        numbers = "".join(f"<td>{figures[name]:.6f}</td>" for name in ("rmse", "mae", "l2r", "cos"))
        rows.append(f"<tr><td>{row}</td><td class=left>{head}</td><td>{figures['acc']:.2%}</td>{numbers}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _distance_table(results: Sequence[PictureResult]) -> str:
    rows = ["<tr><th></th><th>keypoints</th><th>median px</th><th>greatest px</th></tr>"]
    for row, count, middle, greatest in distance_rows(results):
        rows.append(f"<tr><td>{row}</td><td>{count}</td><td>{middle:.2f}</td><td>{greatest:.2f}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _timing(results: Sequence[PictureResult]) -> str:
    rows = timing_rows(results)
    if not rows:
        return "<p>none</p>"
    longest = max(high for _, _, _, high in rows) or 1
    lines = ["<tr><th>stage</th><th>median</th><th>least</th><th>greatest</th><th></th></tr>"]
    for name, middle, low, high in rows:
        bar = (
            f"<svg width=320 height=14><rect width='{320 * high / longest:.1f}' height=14 fill='#d5dce6'/>"
            f"<rect width='{320 * middle / longest:.1f}' height=14 fill='#4878b0'/></svg>"
        )
        lines.append(
            f"<tr><td>{name}</td><td>{middle:.2f} ms</td><td>{low:.2f}</td><td>{high:.2f}</td><td>{bar}</td></tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _picture(result: PictureResult, board: BoardFrame, simulated: SimulatedFrame, manifest: Mapping[str, Any]) -> str:
    parts = [f"<h3>{escape(result.name)}</h3>"]
    wrong = [stage for stage in result.stages if not stage.equal]
    if wrong:
        rows = []
        for stage in wrong:
            hint = f"<br><span class=hint>→ {escape(stage.looks_like)}</span>" if stage.looks_like else ""
            rows.append(
                f"<tr><td>{stage.stage.replace('_', ' ')}</td><td class=left>{escape(describe_stage(stage))}{hint}</td>"
                f"<td>{_histogram(stage)}</td></tr>"
            )
        parts.append(f"<table><tr><th>stage</th><th></th><th>board − simulator</th></tr>{''.join(rows)}</table>")
    for row, found in result.keypoints_px.items():
        parts.append(f"<p>Keypoints, {row}: {describe_distances(found)}.</p>")
    parts.append(_skeletons(board, simulated, manifest))
    height, width = board.planes.shape[1:]
    drawn = rescaled_width(rgb565.picture_of(board.drawn, width, height), field_width(manifest))
    parts.append(_figure(drawn, "drawn by the board", 2 if width < 200 else 1))
    parts.append("<br>" + _heatmaps(board, simulated, manifest))
    return "".join(parts)


def _skeletons(board: BoardFrame, simulated: SimulatedFrame, manifest: Mapping[str, Any]) -> str:
    """The KPU's input with all decoded poses over it, as vectors: simulator wide below, board narrow above.

    If the field is squeezed, people are shown in their true shape.
    """
    height, width = board.planes.shape[1], field_width(manifest)
    zoom = max(1, round(480 / width))
    layers = [("simulator", 5, list(simulated.multi)), ("board", 2, list(board.multi))]
    if simulated.real is not None:
        layers.insert(0, ("float", 8, _float_poses(simulated.real, manifest)))
    lines = []
    for side, thickness, poses in layers:
        for pose in poses:
            points = np.asarray(pose, dtype=np.float64)[1:].reshape(-1, 3) / (PIXEL_Q8, PIXEL_Q8, SCORE_ONE_Q15)
            for i, j in manifest["edges"]:
                if min(points[i, 2], points[j, 2]) >= 0.25:
                    (x0, y0, _), (x1, y1, _) = points[i], points[j]
                    lines.append(
                        f"<line x1='{x0:.2f}' y1='{y0:.2f}' x2='{x1:.2f}' y2='{y1:.2f}' stroke='{COLOURS[side]}' "
                        f"stroke-width='{thickness / zoom:.2f}' stroke-linecap=round opacity='.85'/>"
                    )
    key = "".join(
        f"<span><i style='background:{COLOURS[side]}'></i>{side} ({len(poses)})</span>" for side, _, poses in layers
    )
    return (
        f"<figure><svg xmlns='http://www.w3.org/2000/svg' width='{width * zoom}' height='{height * zoom}' "
        f"viewBox='0 0 {width} {height}'><image width='{width}' height='{height}' "
        f"href='{_png(rescaled_width(np.ascontiguousarray(board.planes.transpose(1, 2, 0)), width))}'/>"
        f"{''.join(lines)}</svg>"
        f"<figcaption class=key>input of the KPU; poses: {key}</figcaption></figure>"
    )


def _float_poses(real: Mapping[str, Numbers], manifest: Mapping[str, Any]) -> list[NDArray[np.int32]]:
    """The reference decoder's poses for the float heads, in the integers' form."""
    edges = tuple(tuple(edge) for edge in manifest["edges"])
    widening = field_width(manifest) / manifest["input"]["width"]
    reference = ReferenceDecoder(manifest["output_stride"], edges, widening=widening)
    poses = reference.multi(*(np.asarray(real[name], dtype=np.float64) for name in HEADS))
    return [pose.to_integers() for pose in poses]


def _heatmaps(board: BoardFrame, simulated: SimulatedFrame, manifest: Mapping[str, Any]) -> str:
    """Greatest score over the keypoints per cell, side by side, and where the four heads differ."""
    table = np.array(manifest["sigmoid_q15"]) / SCORE_ONE_Q15
    zoom = max(1, 160 // board.heads["heatmap"].shape[2])
    figures = []
    for title, heads in (("board", board.heads), ("simulator", simulated.heads)):
        figures.append(_figure(_warm(table[heads["heatmap"]].max(axis=0)), f"heatmap, {title}", zoom))
    if simulated.real is not None:
        score = 1 / (1 + np.exp(-np.asarray(simulated.real["heatmap"], dtype=np.float64)))
        figures.append(_figure(_warm(score.max(axis=0)), "heatmap, float", zoom))
    for facts in manifest["heads"]:
        name = facts["name"]
        ours, theirs = board.heads[name], simulated.heads[name]
        if ours.shape == theirs.shape:
            steps = np.abs(ours.astype(int) - theirs).max(axis=0)
            note = "equal" if not steps.any() else f"up to {steps.max()} steps"
            if simulated.real is not None:
                real = dequantize(ours, facts["scale"], facts["zero_point"])
                error = np.abs(real - simulated.real[name]).max()
                note += f"; to float {error:.2f}"
            figures.append(_figure(_warm(np.minimum(steps / 8, 1)), f"difference {name}: {note}", zoom))
    return "".join(figures)


def _warm(value: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours for values 0…1: from black through red and yellow to white."""
    value = np.clip(value, 0, 1)[..., None] * 3
    return np.asarray(np.clip(value - np.array((0, 1, 2)), 0, 1) * 255, np.uint8)


def _figure(picture: NDArray[np.uint8], caption: str, zoom: int) -> str:
    height, width = picture.shape[:2]
    return (
        f"<figure><img src='{_png(picture)}' width='{width * zoom}' height='{height * zoom}' alt=''>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _png(picture: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(np.ascontiguousarray(picture))).decode()


def _histogram(stage: StageDifference) -> str:
    """Bars over board − simulator, 0 left out, heights by the logarithm of the count."""
    bars = {value: count for value, count in stage.histogram.items() if value}
    if not bars:
        return ""
    greatest = max(np.log1p(count) for count in bars.values())
    reach = max(abs(value) for value in bars)
    parts = []
    for value, count in bars.items():
        x = 100 + value / reach * 92
        bar = 44 * np.log1p(count) / greatest
        parts.append(f"<rect x='{x - 2:.1f}' y='{46 - bar:.1f}' width=4 height='{bar:.1f}' fill='#b0413e'/>")
    parts.append("<line x1=0 x2=200 y1=46.5 y2=46.5 stroke='#99a'/><line x1=100 x2=100 y1=0 y2=46 stroke='#ccd'/>")
    for x, anchor, text in ((2, "start", -reach), (100, "middle", 0), (198, "end", reach)):
        parts.append(f"<text x={x} y=58 font-size=10 text-anchor={anchor} fill='#5a6472'>{text:+d}</text>")
    return f"<svg width=200 height=60>{''.join(parts)}</svg>"


def _line(context: Mapping[str, Any]) -> str:
    line = context.get("line")
    if not line:
        return ""
    host, board = line["host"], line["board"]
    return (
        f"<h2>Serial line</h2><p>{host['baud']} baud. Host: {host['frames']} frames received, {host['errors']} pieces "
        f"that were no frame, {host['resent']} sent again. Board: {board['frames']:d}, {board['errors']:d}, "
        f"{board['resent']:d}.</p>"
    )
