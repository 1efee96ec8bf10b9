"""Silicon profiles: the slow way computes what the fast one does, and wrong files are refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import FormatError, UserError
from model_build.engines.kpu_layer import PreparedLayer, execute_layer
from model_build.engines.silicon_layer import activate_as, execute_as, run_layer
from model_build.engines.staircase import activate
from model_build.kpu import ram, silicon
from model_build.kpu.cycles import PUBLISHED
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from tests.model_build.test_kpu_engine import _random_layer


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans(), st.booleans(), st.sampled_from(range(10)))
def test_the_assumed_profile_is_what_the_fast_engine_computes(seed, kernel, depthwise, rising, pool):
    """Alternatives mean something only if the profile that they depart from is the proven one, byte for byte."""
    rng = np.random.default_rng(seed)
    layer = _random_layer(rng, depthwise=depthwise, kernel=kernel, pool=pool, rising=rising, shr_x=int(rng.integers(3)))
    x = rng.integers(0, 256, (layer.in_channels, layer.in_height, layer.in_width)).astype(np.uint8)
    np.testing.assert_array_equal(run_layer(layer, x, ASSUMED), PreparedLayer(layer).run(x))
    v = rng.integers(-(1 << 34), 1 << 34, 200)
    np.testing.assert_array_equal(activate_as(v, layer.activation, ASSUMED), activate(v, layer.activation))


@given(st.integers(0, 2**32 - 1))
def test_the_slow_way_uses_kpu_ram_as_the_fast_one(seed):
    """All of KPU RAM must be the same afterwards: the same lines, and no byte beside them."""
    rng = np.random.default_rng(seed)
    layer = _random_layer(rng, depthwise=False, kernel=3)
    fast = rng.integers(0, 256, ram.RAM_BYTES).astype(np.uint8)
    slow = fast.copy()
    execute_layer(layer, fast)
    execute_as(layer, slow, ASSUMED)
    np.testing.assert_array_equal(slow, fast)


def test_every_question_has_answers_and_words():
    """The page shows them. An answer without words, or a question with one answer, cannot be asked."""
    for name in silicon.names():
        answers = silicon.answers_of(name)
        assert len(answers) >= 2 and getattr(ASSUMED, name) == answers[0]
        assert silicon.title_of(name) and all(silicon.words(name, answer) for answer in answers)
    assert ASSUMED.assumed_arithmetic and not ASSUMED.differences()


def test_a_profile_survives_its_file(tmp_path):
    """Engine and boards must read what certify writes."""
    profile = ASSUMED
    for name in silicon.names():
        profile = silicon.with_answer(profile, name, silicon.answers_of(name)[-1])
    profile = SiliconProfile(**{**profile.__dict__, "cycles": PUBLISHED.slower(1.2)})
    path = tmp_path / "chip.json"
    path.write_text(profile.to_json(), encoding="utf-8")
    assert SiliconProfile.load(path) == profile and not profile.assumed_arithmetic
    assert len(profile.differences()) == len(silicon.names())
    assert SiliconProfile.from_dict({"format": 1}) == ASSUMED


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[" * 5000, b"[]", b"null", b'{"format": 2}', b'{"format": 1, "kpu": []}',
        b'{"format": 1, "kpu": {"rounding": "up"}}', b'{"format": 1, "kpu": {"rounding": {}}}',
        b'{"format": 1, "kpu": {"camera_planes": "full"}}', b'{"format": 1, "board": {"\\u001b[31m": 1}}',
        b'{"format": 1, "cycle_model": {"conv_line_ns": -1}}', b'{"format": 1, "cycle_model": {"conv_line_ns": NaN}}',
        b'{"format": 1, "cycle_model": {"conv_line_ns": true}}', b'{"format": 1, "cycle_model": {"x": 1}}',
        b'{"format": 1}' + b" " * 70000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path, content):
    """A profile comes from a stranger's issue, so the line must be printable and say what to do."""
    path = tmp_path / "chip.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        SiliconProfile.load(path)
    assert "\n" not in str(refused.value) and str(refused.value).isprintable() and "certify" in str(refused.value)


def test_a_missing_profile_is_named(tmp_path):
    """A wrong path is the usual mistake."""
    with pytest.raises(UserError, match="make one with"):
        SiliconProfile.load(tmp_path / "none.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("half_up"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["format", "kpu", "board", "cycle_model", "rounding", "conv_line_ns", "x"]), inner, max_size=4
    ),
    max_leaves=10,
)  # fmt: skip


@given(_JSON)
@example({"format": 1, "kpu": {"rounding": "half_up"}})
def test_any_json_is_a_profile_or_a_format_error(content):
    """No other exception may leave the reader."""
    try:
        made = SiliconProfile.from_dict(json.loads(json.dumps(content)))
    except FormatError:
        return
    assert SiliconProfile.from_dict(made.to_dict()) == made
