"""The report on KPU layers: figures that follow from shapes, and one table in three forms."""

from __future__ import annotations

import csv
import io
import json

import pytest

from model_build.kpu import cycles, layout, layout_search, ram, report
from tests.support import kpu_networks

SHAPE = {"widths": (12, 24, 32), "strides": (1, 2)}


@pytest.fixture(scope="module")
def made():
    """A program, its model and plan, and their report."""
    program = kpu_networks.lowered(**SHAPE)
    model, plan = layout.lay_out(program, 144, 96)
    return program, model, plan, report.make(model, plan, program, [{"name": "heatmap", "scale": 0.5}])


def test_useful_macs_do_not_depend_on_the_form(made):
    """A network needs the same multiply-adds however its layers are run: output pixels times weights."""
    program, _, _, _ = made
    width, height = 144, 96
    expected = 0
    for layer, scale in zip(program.layers, (2, 2, 2, 4, 4, 4, 4, 4, 4), strict=True):
        expected += layer.weights.size * (width // scale) * (height // scale)
    for forms in (("plain",), ("sliding",), ("plain", "diagonal"), layout_search.FORMS):
        model, plan = layout.lay_out(program, width, height, forms)
        made_report = report.make(model, plan, program)
        assert made_report.totals["macs_useful"] == expected
        assert made_report.totals["macs_executed"] >= expected


def test_rows_follow_from_the_model(made):
    """Each row says what its layer's registers say, and the totals are sums of rows."""
    program, model, plan, found = made
    assert len(found.rows) == len(model.layers) == found.totals["kpu_layers"]
    for row, layer in zip(found.rows, model.kpu_layers, strict=True):
        assert row["in_shape"] == f"{layer.in_width}x{layer.in_height}x{layer.in_channels}"
        assert row["in_lines"] == ram.lines(layer.in_channels, layer.in_height, layer.in_width)
        assert (row["source_line"], row["target_line"]) == (layer.source_line, layer.target_line)
        assert row["macs_executed"] == layer.in_width * layer.in_height * layer.weights.size
    assert sum(row["share"] for row in found.rows) == pytest.approx(1, abs=1e-3)
    total_us = sum(cycles.layer_us(layer) for layer in model.kpu_layers)
    assert found.totals["estimate_ms"] == pytest.approx(total_us / 1000, abs=1e-3)
    assert plan.estimate_us == pytest.approx(total_us)
    assert found.totals["kpu_ram_peak_bytes"] == 64 * plan.peak_lines
    assert found.totals["cpu_layers"] == 0


def test_text_csv_and_json_are_one_table(made):
    """They come from one list of columns and must not differ."""
    *_, found = made
    keys = [column.key for column in report.COLUMNS]
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert list(rows[0]) == keys
    as_json = json.loads(json.dumps(found.to_dict()))
    assert list(as_json["columns"]) == keys
    assert [{k: str(v) for k, v in row.items()} for row in as_json["layers"]] == rows
    assert as_json["heads"] == [{"name": "heatmap", "scale": 0.5}]
    text = found.text()
    assert len(text.splitlines()[0].split("  ")) > 5
    for row in found.rows:
        assert row["name"] in text and row["in_shape"] in text
    assert "estimate" in text and "not a measurement" in text
