"""The questions for a chip: every known answer gives other bytes, and a profile can be found again from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_build import silicon_questions
from model_build.engines.silicon_layer import execute_as
from model_build.kpu import cycles, kmodel_v3, ram, silicon
from model_build.kpu.cycles import PUBLISHED
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from model_build.silicon_questions import Question, expected, questions, settle, timed_layers

ALTERED = [(name, answer) for name in silicon.names("kpu") for answer in silicon.answers_of(name)[1:]]


def _chip_says(question: Question, chip: SiliconProfile, rng: np.random.Generator) -> bytes:
    """What a board answers: layer by layer, whatever lay in KPU RAM before."""
    said = b""
    for probe in question.probes:
        layers = kmodel_v3.read(probe.kmodel).kpu_layers
        kpu_ram = rng.integers(0, 256, ram.RAM_BYTES, np.uint8)
        ram.write(kpu_ram, layers[0].source_line, probe.planes)
        for layer in layers:
            execute_as(layer, kpu_ram, chip)
        last = layers[-1]
        said += ram.read(kpu_ram, last.target_line, last.out_channels, last.out_height, last.out_width).tobytes()
    return said


@pytest.mark.parametrize("name", silicon.names("kpu"))
def test_every_answer_gives_other_bytes(name):
    """Otherwise a chip could answer and nobody would know what. The files are small, as a board has little room."""
    question = next(question for question in questions() if question.name == name)
    said = [expected(question, silicon.with_answer(ASSUMED, name, answer)) for answer in silicon.answers_of(name)]
    assert len(set(said)) == len(said)
    assert all(len(probe.kmodel) < 4096 and probe.output_bytes <= 1280 for probe in question.probes)
    assert len(said[0]) == sum(probe.output_bytes for probe in question.probes)


@pytest.mark.parametrize(("name", "answer"), ALTERED)
def test_an_altered_chip_is_found_by_its_own_question(name, answer):
    """If one thing is altered, its own question must find it and every other question must say "as assumed"."""
    chip = silicon.with_answer(ASSUMED, name, answer)
    rng = np.random.default_rng(3)
    found, findings = settle({question.name: _chip_says(question, chip, rng) for question in questions()})
    assert found == chip
    assert {finding.name: finding.answer for finding in findings} == {
        other: answer if other == name else silicon.answers_of(other)[0] for other in silicon.names("kpu")
    }
    # If a chip holds results at 0 before the bias, nobody can see how it rounds negative ones.
    hidden = {"negative_rounding"} if answer == "before_bias" else set()
    assert {finding.name for finding in findings if finding.alike} == hidden


@settings(max_examples=6)
@given(st.fixed_dictionaries({name: st.sampled_from(silicon.answers_of(name)) for name in silicon.names("kpu")}))
def test_a_chip_with_many_answers_of_its_own_is_found_whole(answers):
    """Questions whose bytes depend on other answers must be computed with those answers."""
    if answers["saturation"] == "before_bias":
        answers["negative_rounding"] = "below"  # Such a chip shows no negative results.
    chip = SiliconProfile(**answers)
    rng = np.random.default_rng(5)
    assert settle({question.name: _chip_says(question, chip, rng) for question in questions()})[0] == chip


def test_bytes_that_no_known_answer_gives_are_reported():
    """The profile stays as assumed in that respect, and the page keeps the bytes."""
    said = {question.name: expected(question, ASSUMED) for question in questions()}
    said["padding"] = bytes(len(said["padding"]))
    said["rounding"] = b""
    found, findings = settle(said)
    assert found == ASSUMED
    assert {finding.name for finding in findings if finding.answer is None} == {"padding", "rounding"}


def test_a_question_that_was_not_asked_changes_nothing():
    """A run that was cut short still makes a profile of what it knows."""
    chip = silicon.with_answer(ASSUMED, "arg_add", "once")
    question = next(question for question in questions() if question.name == "arg_add")
    found, findings = settle({"arg_add": expected(question, chip)})
    assert found == chip and [finding.name for finding in findings] == ["arg_add"]


@pytest.mark.parametrize("model", [PUBLISHED, PUBLISHED.slower(1.2), cycles.CycleModel(2.0, 6.0, 22.0, 7.0, 40.0, 9.0)])
def test_the_cycle_model_is_fitted_again_from_layer_times(model):
    """Exact times must give the coefficients back, at another clock too, with no error left."""
    for kpu_hz in (400e6, 300e6):
        times = {t.name: cycles.layer_us(t.layer, model) * 400e6 / kpu_hz for t in timed_layers()}
        fitted = silicon_questions.fit(times, kpu_hz)
        assert fitted.__dict__ == pytest.approx(model.__dict__, rel=0.01, abs=0.01)
        assert silicon_questions.model_error(times, kpu_hz, fitted) < 0.001
    assert silicon_questions.time_factor(times, 300e6) == pytest.approx(
        sum(cycles.layer_us(t.layer, model) for t in timed_layers()) / sum(map(_published_us, timed_layers()))
    )


def _published_us(timed):
    return cycles.layer_us(timed.layer)


def test_times_that_say_nothing_about_a_coefficient_scale_the_published_model():
    """Otherwise coefficients could become negative, and layers elsewhere would take negative time."""
    times = {t.name: 100.0 for t in timed_layers() if not t.layer.depthwise}
    fitted = silicon_questions.fit(times, 400e6)
    assert fitted.conv_line_ns / PUBLISHED.conv_line_ns == pytest.approx(
        fitted.depthwise_fixed_us / PUBLISHED.depthwise_fixed_us
    )
    assert min(fitted.__dict__.values()) > 0
