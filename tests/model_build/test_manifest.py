"""posenet.json: what is written is read back, and nothing damaged gets through."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, UserError
from common.skeleton import EDGES, KEYPOINTS
from model_build import manifest
from model_build.manifest import HeadQuantization, KmodelFacts, Manifest
from model_build.network import HEADS
from tests.support.refusals import unless_refused


def example(per_channel: bool = True) -> Manifest:
    """A manifest for 256×192 with offsets that have a scale for each channel."""
    heads = []
    for index, (name, channels) in enumerate(zip(HEADS, (17, 34, 32, 32), strict=True)):
        scale: Any = 0.1 if name == "heatmap" or not per_channel else [0.1 + 0.01 * c for c in range(channels)]
        heads.append(HeadQuantization(name, index, channels, scale, 128, manifest.mul_q16(scale), channels * 192))
    facts = KmodelFacts(3, 1000, "ab" * 32, 123, 0x300000, 1 << 20, 22080)
    table = manifest.sigmoid_table_q15(0.1, 128)
    return Manifest("n", "s", "cd" * 32, 256, 192, 16, KEYPOINTS, EDGES, tuple(heads), table, facts)


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    """The file must contain everything, since the board has nothing else."""
    path = tmp_path / "posenet.json"
    path.write_text(example().to_json())
    assert manifest.load(path) == example()
    assert (example().map_width, example().map_height) == (16, 12)
    told = dataclasses.replace(example(), appear_score_q15=26214)
    assert manifest.from_dict(told.to_dict()) == told
    without = example().to_dict()
    del without["appear_score_q15"]
    assert manifest.from_dict(without) == example()


def test_a_squeezed_field_is_kept_and_has_its_own_format() -> None:
    """Firmware that knows only format 2 would put people at wrong places of a squeezed field, so it must refuse 3."""
    squeezed = dataclasses.replace(example(), field_width=320)
    data = squeezed.to_dict()
    assert data["format"] == 3 and data["field"] == {"width": 320, "height": 192}
    assert manifest.from_dict(data) == squeezed and squeezed.widening == 1.25
    assert example().to_dict()["format"] == 2 and "field" not in example().to_dict()
    field: object
    for field in ({"width": 256, "height": 192}, {"width": 320, "height": 240}, {"width": 320}, [], None):
        with pytest.raises(FormatError, match="field|height"):
            manifest.from_dict({**data, "field": field})


def test_sigmoid_table_is_the_formula() -> None:
    """Each byte has its score, and a table of 15 bits must clip both ends."""
    table = manifest.sigmoid_table_q15(0.1, 177)
    for byte in (0, 100, 177, 255):
        assert table[byte] == round(32768 / (1 + math.exp(-(byte - 177) * 0.1)))
    assert table[177] == 16384
    steep = manifest.sigmoid_table_q15(50.0, 128)
    assert (steep[0], steep[255]) == (0, 32767)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("heads"), "heads"),
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d["heads"][0].update(channels=18), "heatmap has 18 channels"),
        (lambda d: d["heads"][1].update(scale=[0.1] * 33), "33 constants"),
        (lambda d: d["heads"][0].update(scale=[0.1] * 17), "one scale"),
        (lambda d: d["heads"].reverse(), "heads are"),
        (lambda d: d["input"].update(width="256"), "width must be an integer"),
        (lambda d: d["map"].update(width=17), "map is not"),
        (lambda d: d["edges"].append([0, 17]), "not a pair of keypoint indices"),
        (lambda d: d["sigmoid_q15"].pop(), "256 integers"),
        (lambda d: d["kmodel"].update(crc32=-1), "crc32"),
        (lambda d: d["heads"][2].update(mul_q16=float("nan")), "mul_q16"),
    ],
)
def test_damage_is_named(change: Any, message: str) -> None:
    """One line names the field that is wrong."""
    data = copy.deepcopy(example().to_dict())
    change(data)
    with pytest.raises(FormatError, match=message):
        manifest.from_dict(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_any_value_in_any_field_is_refused_or_accepted(data: st.DataObject) -> None:
    """Whatever a field contains, the parser raises FormatError, or accepts it and can write it again."""
    whole = json.loads(example().to_json())
    place: Any = whole
    for _ in range(data.draw(st.integers(0, 2))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    place[data.draw(st.sampled_from(keys))] = data.draw(_JSON)
    read = unless_refused(manifest.from_dict, whole)
    assert read is None or manifest.from_dict(json.loads(read.to_json())) == read


def test_missing_files_and_files_without_json_are_named(tmp_path: Path) -> None:
    """Somebody gives a wrong path or another file."""
    with pytest.raises(UserError, match="no such file"):
        manifest.load(tmp_path / "posenet.json")
    (tmp_path / "posenet.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="not text"):
        manifest.load(tmp_path / "posenet.json")
    (tmp_path / "posenet.json").write_text("[" * 100_000)
    with pytest.raises(FormatError, match="not JSON"):
        manifest.load(tmp_path / "posenet.json")
