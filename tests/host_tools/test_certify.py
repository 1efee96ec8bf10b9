"""certify asks a board what only a board can tell.

The tests are a control, altered chips, interruptions, hostile answers, and privacy.
"""

from __future__ import annotations

import argparse
import getpass
import json
import socket
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from common import rgb565
from common.cli import dispatch
from common.errors import UserError
from host_tools import certify
from host_tools.__main__ import COMMANDS
from host_tools.board_link import PROBE, BoardLink, start_target
from host_tools.board_session import open_transport, simulated_board
from host_tools.certify import Progress, Step
from host_tools.certify_html import render_page
from host_tools.commands import certify as command
from model_build import silicon_questions
from model_build.engines.kpu import KpuEngine
from model_build.kpu import cycles, silicon
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from model_build.scene import Scene
from tests.support.quiet_line import QuietLine
from tests.support.touchy_network import write_touchy_build

SHOWN_BY_THE_NETWORK = (
    ("rounding", "half_up"), ("rounding", "half_down"), ("rounding", "floor"), ("negative_rounding", "nearest"),
    ("negative_rounding", "floor"), ("segment_start", "inside"), ("saturation", "before_bias"), ("saturation", "wrap"),
    ("shift_number", "six_bits"), ("norm_shift", "to_zero"), ("norm_shift", "nearest"), ("norm_mul", "unsigned"),
    ("arg_add", "once"), ("padding", "zero"), ("padding", "edge"), ("weight_loads", "first"), ("line_edges", "next"),
)  # fmt: skip
CAMERAS = (("camera_planes", "zeros"), ("camera_planes", "repeated"), ("camera_window", "ignored"))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return write_touchy_build(tmp_path_factory.mktemp("build") / "touchy")


def run_command(*words) -> int:
    return dispatch("python -m host_tools", "", COMMANDS, ["certify", *map(str, words)])


class _Links(HTMLParser):
    """Everything that a page would load or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        loads = [name for name, _ in attributes if name in ("src", "href", "action") or name.startswith("on")]
        if tag in ("script", "link", "iframe", "object", "form", "meta") and tag != "meta" or loads:
            self.found.append((tag, loads))


def test_the_control_is_as_assumed_and_says_nothing_private(tmp_path, build, capsys):
    """The simulated board computes with the proven engine, so all answers must be as assumed and all stages equal.

    What is written is meant for a public issue, so it must not name this computer, its ports or its user.
    """
    out = tmp_path / "certificate"
    assert run_command("--board", "sim", "--build", build, "--out", out) == 0
    report = json.loads((out / "certify.json").read_text())
    assert report["as_assumed"] and report["departures"] == [] and report["unanswered"] == []
    assert SiliconProfile.load(out / "certify.json") == SiliconProfile.load(out / "silicon.json") == ASSUMED
    assert report["network"]["equal"] and report["network"]["pictures"] == 2
    assert report["facts"]["lcd"]["answer"] == "upright"
    page = (out / "certify.html").read_text()
    links = _Links()
    links.feed(page)
    assert links.found == [] and "All as assumed: 18 questions" in page
    assert len(page) < 60_000 and len((out / "certify.json").read_bytes()) < 20_000
    for text in (page, (out / "certify.json").read_text()):
        for private in (str(tmp_path), str(build), socket.gethostname(), f"/{getpass.getuser()}/", "/dev/", "/tmp"):
            assert private not in text
    assert "All as assumed: 18 questions." in capsys.readouterr().out
    # Everything is known now, so the same command asks nothing and writes the same files.
    again = [(out / name).read_bytes() for name in ("certify.json", "certify.html", "silicon.json")]
    assert run_command("--board", "sim", "--build", build, "--out", out) == 0
    assert again == [(out / name).read_bytes() for name in ("certify.json", "certify.html", "silicon.json")]


def certified(chip: SiliconProfile, build, folder, wanted) -> certify.Certificate:
    """The certificate of a simulated board with that chip: the network, and only the steps in `wanted`."""
    progress = Progress(folder / "state.json")
    with simulated_board(build, silicon=chip) as transport:
        link = start_target(transport, program=PROBE)
        link.speed_up()
        progress.board = certify.identity(link)
        todo = [step for step in certify.steps(lambda what: "not_asked", timed=False) if step.name in wanted]
        assert len(list(certify.run_steps(link, todo, progress, transport.now()))) == len(wanted)
        link.close()
        progress.done["network"] = command.ask_network(transport, build, progress, 1_500_000)
    return certify.conclude(progress)


def check_altered(name, answer, build, folder, wanted):
    chip = silicon.with_answer(ASSUMED, name, answer)
    certificate = certified(chip, build, folder, wanted)
    found = {finding.name: finding.answer for finding in certificate.findings}
    assert found == {other: answer if other == name else silicon.answers_of(other)[0] for other in wanted}
    assert certificate.silicon == chip and certificate.network and certificate.network["equal"]
    assert certificate.departures == [f"{silicon.title_of(name)}: {silicon.words(name, answer)}"]
    assert silicon.words(name, answer).split(" (")[0] in render_page(certificate).replace("&#x27;", "'")


def heads_differ(name, answer, build) -> bool:
    """Whether the network's heads show the alteration; without that, an equal network would prove nothing."""
    kmodel = (build / "posenet.kmodel").read_bytes()
    planes = rgb565.planes_of(rgb565.to_memory(Scene(7).frame(0, 64, 48)), 64, 48)
    ours, theirs = (
        KpuEngine(kmodel, silicon=chip).run(planes) for chip in (ASSUMED, silicon.with_answer(ASSUMED, name, answer))
    )
    return any(not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_an_altered_chip_is_named_and_its_network_is_equal_again(build, tmp_path):
    """One of the many below, for the quick tests: the whole way over the link of a board with another tie rule."""
    assert heads_differ("rounding", "half_up", build)
    check_altered("rounding", "half_up", build, tmp_path, ["rounding", "padding"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "answer"), SHOWN_BY_THE_NETWORK)
def test_every_altered_kpu_is_found_by_its_question_and_diff_is_equal_with_its_profile(name, answer, build, tmp_path):
    """Without the profile the network differs, so the test can fail; with it, no stage differs."""
    assert heads_differ(name, answer, build)
    check_altered(name, answer, build, tmp_path, silicon.names("kpu"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "answer"), CAMERAS)
def test_every_altered_camera_is_found(name, answer, build, tmp_path):
    """Some sensors ignore a window, and some camera interfaces give planes with fewer bits."""
    check_altered(name, answer, build, tmp_path, silicon.names("board"))


def test_diff_is_equal_only_with_the_profile(build, tmp_path, capsys):
    """The command that users know finds that a board's chip is different, and with its profile all stages are equal."""
    chip = tmp_path / "chip.json"
    chip.write_text(silicon.with_answer(ASSUMED, "arg_add", "once").to_json(), encoding="utf-8")
    words = ["diff", "--board", "sim", "--chip", str(chip), "--build", str(build), "--camera", "1", "--no-float"]
    assert dispatch("python -m host_tools", "", COMMANDS, words) == 1
    assert dispatch("python -m host_tools", "", COMMANDS, [*words, "--silicon", str(chip)]) == 0
    assert "1 answer of its own" in capsys.readouterr().out


def test_a_chip_cannot_be_chosen_for_a_real_board(tmp_path):
    """--chip on a serial port would promise something impossible."""
    with pytest.raises(UserError, match="a real board has its own"):
        arguments = argparse.Namespace(board="auto", port="/dev/null", chip=tmp_path / "x", state=tmp_path, baud=1)
        with open_transport(arguments, None):
            pass


@pytest.mark.slow
def test_flash_certifies_what_it_has_flashed(build, tmp_path, monkeypatch, capsys):
    """`flash.py --certify` is the one command that a board's owner is asked to run."""
    import flash

    monkeypatch.setattr(command, "DEFAULT_OUT", tmp_path / "out")
    words = ["--board", "sim", "--model", str(build), "--state", str(tmp_path / "board"), "--no-start", "--certify"]
    assert flash.main(words) == 0
    said = capsys.readouterr().out
    assert "asking the board what only a board can tell" in said and "All as assumed: 18 questions." in said
    assert json.loads((tmp_path / "out" / "certify.json").read_text())["network"]["equal"]


class CutError(Exception):
    """Here somebody pulls the plug."""


@pytest.mark.slow
def test_an_interrupted_certification_continues_and_says_the_same(tmp_path, build, monkeypatch):
    """Each run ends at the first result that it saves. All runs together must say what one whole run says."""
    whole = tmp_path / "whole"
    assert run_command("--board", "sim", "--build", build, "--out", whole) == 0
    out, runs = tmp_path / "cut", 0
    save = Progress.save

    def save_and_cut(progress):
        save(progress)
        raise CutError

    while True:
        monkeypatch.setattr(Progress, "save", save_and_cut)
        arguments = argparse.Namespace(
            board="sim", port=None, chip=None, state=None, trace=None, baud=1_500_000, build=build, out=out, again=False
        )
        try:
            assert command.run(arguments) == 0
            break
        except CutError:
            runs += 1
            assert not (out / "certify.json").exists() and len(Progress.load(out / "state.json").done) == runs
    assert runs == len(certify.steps(lambda what: "", timed=False)) + 1
    said, expected = (json.loads((folder / "certify.json").read_text()) for folder in (out, whole))
    for report in (said, expected):
        del report["seconds"], report["network"]["us"], report["facts"]["memory"]
        for name in ("camera_planes", "double_buffer"):
            del report["facts"][name]["snap_us"]
    assert said == expected


def steps_of(*works):
    return [Step(f"step {number}", "", work) for number, work in enumerate(works)]


def test_a_step_that_kills_the_board_is_left_out_after_two_tries(tmp_path):
    """A kmodel that hangs the KPU must not prevent the other questions from being asked."""

    def dies(link):
        raise UserError("no answer")

    path = tmp_path / "state.json"
    todo = steps_of(dies, lambda link: {"us": 1.0})
    for _ in range(certify.SILENT_TRIES):
        with pytest.raises(UserError, match="no answer"):
            list(certify.run_steps(BoardLink(QuietLine()), todo, Progress.load(path), 0.0))
    results = [result for _, result in certify.run_steps(BoardLink(QuietLine()), todo, Progress.load(path), 0.0)]
    assert results == [{"silent": True}, {"us": 1.0}]
    assert "did not come back" in certify.describe(todo[0], results[0])


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b'{"format": 1}', b"[" * 9000, b'{"format":1,"questions":"FP","done":[1]}',
     b'{"format":1,"questions":"FP","board":{},"done":{"a":1},"gone":["",0],"seconds":1}',
     b'{"format":1,"questions":"older","board":{},"done":{},"gone":["",0],"seconds":1}'],
)  # fmt: skip
def test_an_unusable_state_begins_anew(tmp_path, content):
    """The file is of another version, cut off by a full disk or edited by hand. Nothing in it is believed."""
    path = tmp_path / "state.json"
    path.write_bytes(content.replace(b"FP", silicon_questions.fingerprint().encode()))
    assert Progress.load(path) == Progress(path)


@pytest.mark.parametrize(
    "done",
    [{"rounding": {"bytes": "zz"}}, {"rounding": {"bytes": 5}}, {"camera_planes": {"sensor": "x", "snap_us": 1}},
     {"network": {}}, {"lcd": {"answer": "fine"}}],
)  # fmt: skip
def test_results_that_make_no_sense_are_said_in_one_line(tmp_path, done):
    """A damaged file of results must name --again as the remedy and not end in a traceback."""
    with pytest.raises(UserError, match="--again"):
        Progress(tmp_path / "state.json", done=done).save()
        command.known_before(tmp_path / "state.json")


def test_another_board_is_not_mixed_up_with_the_first(tmp_path, build, capsys):
    """Somebody certifies two boards with one folder. What the first one said must not count for the second."""
    out = tmp_path / "out"
    progress = Progress(out / "state.json", board={"system": "another"}, done={"rounding": {"bytes": ""}})
    progress.save()
    with simulated_board(None) as transport, pytest.MonkeyPatch.context() as patch:
        # Only the first step is needed here; other tests ask the rest.
        patch.setattr(certify, "steps", lambda *_: [Step("memory", "Memory", certify.memory)])
        now = command.ask_board(transport, Progress.load(out / "state.json"), 1_500_000)
    assert list(now.done) == ["memory"] and now.board["system"].startswith("v0.6")
    assert "not the board that was asked before" in capsys.readouterr().err


def test_what_a_board_says_cannot_change_the_page(tmp_path):
    """The words of a board are shown as text on the page and on the terminal and are never executed."""
    evil = "<script>alert(1)</script>\x1b[31m"
    progress = Progress(
        tmp_path / "s", board={"system": evil, "machine": evil, "cpu_mhz": 1, "kpu_mhz": 1},
        done={"lcd": {"refused": evil}, "double_buffer": {"refused": evil}},
    )  # fmt: skip
    page = render_page(certify.conclude(progress))
    links = _Links()
    links.feed(page)
    assert links.found == [] and "<script" not in page
    assert "\x1b" not in command.summary(certify.conclude(progress), tmp_path)


def test_a_slower_kpu_is_named(tmp_path):
    """All layers take 20 % longer. A newly fitted model has no error left, whereas the published one has."""
    slower = cycles.PUBLISHED.slower(1.2)
    times = {f"time: {t.name}": {"us": cycles.layer_us(t.layer, slower)} for t in silicon_questions.timed_layers()}
    made = certify.conclude(Progress(tmp_path / "s", board={"kpu_mhz": 400}, done=times))
    assert made.departures == ["KPU: 20% slower than the published times"]
    assert made.old_error == pytest.approx(1 - 1 / 1.2, abs=0.001) and made.new_error < 0.001
    assert made.silicon.cycles.__dict__ == pytest.approx(slower.__dict__, rel=0.01)
    at_half = {name: {"us": 2 * value["us"] / 1.2} for name, value in times.items()}
    half = certify.conclude(Progress(tmp_path / "s", board={"kpu_mhz": 200}, done=at_half))
    assert half.time_factor == pytest.approx(1) and half.departures == []


def scene(seed=1):
    return np.random.default_rng(seed).integers(0, 256, (120, 160, 3)).astype(np.uint8)


def test_the_cameras_planes_are_told_apart():
    """The planes have eight bits, or the display's bits widened in one of two ways. A black picture tells nothing."""
    picture = scene()
    words = rgb565.truncate(picture)
    pixels = words.byteswap().astype("<u2").tobytes()
    assert certify.planes_answer(pixels, picture.transpose(2, 0, 1)) == "full"
    for answer, repeat in (("zeros", False), ("repeated", True)):
        planes = rgb565.widen(words, repeat).transpose(2, 0, 1)
        assert certify.planes_answer(pixels, planes) == answer
    assert certify.planes_answer(pixels, 255 - picture.transpose(2, 0, 1)) is None
    assert certify.planes_answer(bytes(2 * 160 * 120), np.zeros((3, 120, 160), np.uint8)) is None


def test_a_window_of_the_sensor_is_told_from_the_whole_field():
    """Only the picture can tell, and a real camera adds noise. A wall without edges tells nothing."""
    whole = Scene(7).frame(0, 160, 120).transpose(2, 0, 1)
    view = certify.middle_view(50, False)
    assert (view.left, view.size) == (12, 26) and certify.middle_view(40, True) == certify.View(10, 20, 40)
    middle = whole.transpose(1, 2, 0)[28:91, 38:122]
    part = cv2.resize(middle, (160, 120), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1)
    noise = np.random.default_rng(2).integers(-6, 7, whole.shape)
    for seen, answer in ((part, "honoured"), (whole, "ignored"), (np.full_like(whole, 90), None)):
        noisy = np.clip(seen.astype(int) + noise, 0, 255).astype(np.uint8)
        assert certify.window_answer(whole, noisy, view) == answer
    assert certify.window_answer(np.full_like(whole, 90), whole, view) is None


def lcd_picture():
    shown = np.zeros((240, 320, 3), np.uint8)
    shown[75:97, 100:220] = 255
    shown[97:165, 100:130] = (255, 0, 0)
    return shown


def test_the_lcd_is_described_as_a_person_would():
    """This program looks at an emulated board's LCD and answers in the words that a person chooses from."""
    shown = lcd_picture()
    views = {
        "upright": shown, "mirrored": shown[:, ::-1], "upside_down": shown[::-1, ::-1], "red_blue": shown[..., ::-1],
        "inverted": 255 - shown, "other": 0 * shown,
    }  # fmt: skip
    assert {name: certify.lcd_answer(np.ascontiguousarray(view)) for name, view in views.items()} == {
        name: name for name in views
    }


@pytest.mark.parametrize(("panel", "answer"), [({"mounting": 2}, "upside_down"), ({"inverted": True}, "inverted")])
def test_a_panel_that_is_mounted_otherwise_is_seen(panel, answer, tmp_path):
    """The picture goes through probe.py, MaixPy's lcd module and the panel, as somebody before the board sees it."""

    def prepare(session):
        for name, value in panel.items():
            setattr(session.devices.lcd, name, value)

    progress = Progress(tmp_path / "state.json")
    with simulated_board(None, prepare) as transport:
        link = start_target(transport, program=PROBE)
        todo = [step for step in certify.steps(command.eyes(transport)) if step.name == "lcd"]
        list(certify.run_steps(link, todo, progress, 0.0))
        link.close()
    assert certify.conclude(progress).departures == [f"LCD: {certify.LCD_ANSWERS[answer]}"]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [(["1"], "upright"), (["9", "x", "²", "3"], "upside_down"), ([""], "not_asked"), ([], "not_asked")],
)
def test_a_person_is_asked_until_the_answer_is_one(typed, answer, capsys):
    """A wrong key asks again, and no answer counts as "not asked"."""

    def read(prompt):
        if not typed:
            raise EOFError
        return typed.pop(0)

    assert command.ask_person(read)("the LCD") == answer


def test_a_mirrored_lcd_is_a_departure(tmp_path):
    """What a person sees counts as much as what the KPU computes."""
    made = certify.conclude(Progress(tmp_path / "s", done={"lcd": {"answer": "mirrored", "width": 1, "height": 1}}))
    assert made.departures == ["LCD: the white bar is on top and the red one at the right"]
    assert made.unanswered and not made.to_dict()["as_assumed"]
    assert replace(made, facts={}).departures == []
