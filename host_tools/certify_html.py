"""A certificate as one HTML page that loads nothing else. Its texts came over a serial line, so they are escaped."""

from __future__ import annotations

from html import escape

from host_tools.certify import LCD_ANSWERS, Certificate, kpu_clock_hz
from host_tools.diff_html import STYLE
from model_build import silicon_questions
from model_build.kpu import cycles, silicon

_SHOWN_BYTES = 64


def render_page(certificate: Certificate) -> str:
    """The whole page."""
    departures = certificate.departures
    if departures:
        verdict, kind = f"Not as assumed: {len(departures)}", "bad"
    else:
        verdict, kind = f"All as assumed: {len(certificate.findings)} questions", "good"
    parts = [
        "<h1>A board's certificate</h1>",
        f"<p class=mono>{_facts(certificate)}</p>",
        f"<p class='verdict {kind}'>{escape(verdict)}</p>",
        *(f"<p class=hint>{escape(line)}</p>" for line in departures),
        "<h2>What only the chip can tell</h2>",
        _answers(certificate),
        "<h2>Time of the KPU's layers</h2>",
        _times(certificate),
        "<h2>Camera, LCD, network</h2>",
        _others(certificate),
        "<p>Answers are recognized by equal bytes. With <span class=mono>--silicon certify.json</span> the simulator, "
        "both simulated boards and <span class=mono>diff</span> compute like this chip.</p>",
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>A board's certificate</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _facts(certificate: Certificate) -> str:
    known = {**certificate.board, **certificate.facts.get("memory", {}), "seconds on the line": certificate.seconds}
    return "<br>".join(escape(f"{name.replace('_', ' ')}: {value}") for name, value in known.items())


def _answers(certificate: Certificate) -> str:
    rows = ["<tr><th>question</th><th class=left>answer</th><th></th></tr>"]
    found = {finding.name: finding for finding in certificate.findings}
    for name in silicon.names():
        finding = found.get(name)
        if finding is None:
            text, chip = "not answered", "<td class='chip none'>–</td>"
        elif finding.answer is None:
            given = certificate.unknown.get(name, "")
            more = " …" if len(given) > 2 * _SHOWN_BYTES else ""
            text = f"none of the known answers: {given[: 2 * _SHOWN_BYTES]}{more}"
            chip = "<td class='chip bad'>unknown</td>"
        else:
            text = silicon.words(name, finding.answer)
            if finding.alike:
                text += f" (cannot be told from: {'; '.join(silicon.words(name, other) for other in finding.alike)})"
            assumed = finding.answer == silicon.answers_of(name)[0]
            chip = f"<td class='chip {'good' if assumed else 'bad'}'>{'as&nbsp;assumed' if assumed else 'differs'}</td>"
        title = escape(silicon.title_of(name))
        rows.append(f"<tr><td>{title}</td><td class=left style='overflow-wrap:anywhere'>{escape(text)}</td>{chip}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _times(certificate: Certificate) -> str:
    layers = [layer for layer in silicon_questions.timed_layers() if layer.name in certificate.times_us]
    if not layers:
        return "<p>not measured</p>"
    kpu_hz = kpu_clock_hz(certificate.board)
    scale = cycles.KPU_CLOCK_HZ / kpu_hz
    longest = max(certificate.times_us.values())
    rows = ["<tr><th>layer</th><th>measured</th><th>published model</th><th>fitted again</th><th></th></tr>"]
    for layer in layers:
        measured = certificate.times_us[layer.name]
        before = scale * cycles.layer_us(layer.layer)
        after = scale * cycles.layer_us(layer.layer, certificate.silicon.cycles)
        bar = (
            f"<svg width=240 height=14><rect width='{240 * measured / longest:.1f}' height=14 fill='#4878b0'/>"
            f"<rect x='{min(240 * before / longest, 238):.1f}' width=2 height=14 fill='#1c2430'/></svg>"
        )
        rows.append(
            f"<tr><td>{escape(layer.name)}</td><td>{measured:.1f} µs</td><td>{before:.1f}</td><td>{after:.1f}</td>"
            f"<td>{bar}</td></tr>"
        )
    factor = ""
    if certificate.time_factor is not None:
        factor = f"All layers take {certificate.time_factor:.3f} of the published time. "
    return (
        f"<table>{''.join(rows)}</table><p>{factor}Error of a layer's estimate (rms): {certificate.old_error:.1%} by "
        f"the published model (the black mark), {certificate.new_error:.1%} fitted again. KPU at "
        f"{kpu_hz / 1e6:.0f} MHz.</p>"
    )


def _others(certificate: Certificate) -> str:
    facts = certificate.facts
    rows = []
    camera, double, lcd = (facts.get(name, {}) for name in ("camera_planes", "double_buffer", "lcd"))
    if "sensor" in camera:
        rows.append(("Image sensor", f"0x{camera['sensor']:04x}"))
        rows.append(("A picture of 160x120", f"{camera['snap_us'] / 1000:.1f} ms"))
    if "buffers" in double:
        rows.append(("The same with two frame buffers", f"{double['snap_us'] / 1000:.1f} ms, {double['buffers']} used"))
    if "answer" in lcd:
        size = f", {lcd['width']}x{lcd['height']}" if "width" in lcd else ""
        rows.append(("LCD", LCD_ANSWERS[lcd["answer"]] + size))
    network = certificate.network
    if network is not None:
        equal = f"{network['pictures']} pictures, every stage equal" if network["equal"] else network["fault"]
        rows.append((network["network"], equal))
        rows += [(f"its stage {name}", f"{value / 1000:.2f} ms") for name, value in sorted(network["us"].items())]
    for name, result in facts.items():
        if "refused" in result:
            rows.append((name.replace("_", " "), f"the board cannot: {result['refused']}"))
    cells = "".join(f"<tr><td>{escape(str(a))}</td><td class=left>{escape(str(b))}</td></tr>" for a, b in rows)
    return f"<table>{cells}</table>" if rows else "<p>not asked</p>"
