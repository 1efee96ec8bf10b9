"""diff names the stage that is wrong and says "equal" only if everything is equal."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.synthetic_kmodel import make_model, write_build
from common import rgb565
from common.cli import dispatch
from common.errors import UserError
from common.firmware_modules import firmware_module
from common.flash_map import KMODEL_ADDRESS
from host_tools.__main__ import COMMANDS
from host_tools.board_frames import measure
from host_tools.board_link import start_target
from host_tools.board_session import simulated_board
from host_tools.diff import (
    STAGES,
    BoardFrame,
    SimulatedFrame,
    compare,
    compare_arrays,
    compare_heads,
    compare_input,
    compare_poses,
    metrics,
    unpack_poses,
)
from host_tools.diff_html import render_page
from host_tools.expected_stages import StageSimulator
from model_build.engines.kpu import KpuEngine
from model_build.network import HEADS

WIDTH, HEIGHT = 64, 48


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def simulator(build, manifest):
    engine = KpuEngine((build / "posenet.kmodel").read_bytes())
    return StageSimulator(manifest, lambda planes: dict(zip(HEADS, engine.run(planes), strict=True)))


def compare_board(build, manifest, count=2, prepare=lambda session: None):
    """The results for pictures on a simulated board that `prepare` may have spoilt."""
    right = simulator(build, manifest)
    with simulated_board(build, prepare) as transport:
        link = start_target(transport)
        link.speed_up()
        results = []
        for i, picture in enumerate(pictures(count)):
            frame = measure(link, f"picture {i}", picture, manifest)
            results.append(compare(frame, right.simulate(frame), manifest))
        link.close()
    return results


@pytest.mark.slow
def test_fifty_pictures_are_equal_in_every_stage(build, manifest):
    """The simulated board and the simulator are the same machine.

    Everything must be compared and nothing may differ.
    """
    results = compare_board(build, manifest, 50)
    assert len(results) == 50
    for result in results:
        assert [stage.stage for stage in result.stages] == list(STAGES)
        assert all(stage.compared and stage.equal for stage in result.stages)
    assert sum(stage.total for result in results for stage in result.stages) > 50 * 13_700
    assert len({result.times_us["forward"] for result in results}) > 1


@pytest.mark.parametrize("width", [320, 256])
def test_a_whole_camera_frame_fits_the_boards_memory(tmp_path, width):
    """At QVGA two forms of the picture take 384,000 bytes beside a heap of 524,288 that holds other things too.

    Squeezed to 256 columns, poses are in pixels of the field and are drawn in pixels of the picture on both sides.
    """
    build = write_build(tmp_path / "qvga", width, 240)
    manifest = json.loads((build / "posenet.json").read_text())
    picture = np.random.default_rng(3).integers(0, 256, (240, width, 3)).astype(np.uint8)
    with simulated_board(build) as transport:
        link = start_target(transport)
        link.speed_up()
        frame = measure(link, "qvga", picture, manifest)
        facts = link.info()
        assert facts["gc_free_bytes"] > 200_000 and facts["field"] == [320, 240]
        assert facts["double_buffer"] is True
        link.close()
    result = compare(frame, simulator(build, manifest).simulate(frame), manifest)
    assert result.first_fault is None and len(frame.multi)


# Each fault is put only into the board, where it would really happen.


@contextlib.contextmanager
def _planes(change):
    """Let pix_to_ai() of the board write other planes."""
    original = rgb565.to_planes
    rgb565.to_planes = lambda words: np.ascontiguousarray(change(original(words)))
    try:
        yield
    finally:
        rgb565.to_planes = original


def _flip_weight(layer_index):
    """Change one weight of one layer in the board's flash."""
    model = make_model()
    layer = model.layers[layer_index]
    weights = layer.weights.tobytes()

    def prepare(session):
        flash = session.devices.flash
        at = bytes(flash).index(weights, KMODEL_ADDRESS)
        flash[at + 3] ^= 0x80

    return prepare


def _edit(name, old, new):
    """Change a line of a program on the board."""

    def prepare(session):
        path = session.flash_dir / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return prepare


def _json(change):
    def prepare(session):
        path = session.flash_dir / "posenet.json"
        facts = json.loads(path.read_text())
        change(facts)
        path.write_text(json.dumps(facts))

    return prepare


def _offset_zero_point(facts):
    facts["heads"][1]["zero_point"] += 1


def _swap_outputs(facts):
    facts["heads"][2]["output"], facts["heads"][3]["output"] = 3, 2


def _one_row(planes):
    planes[:, 20] = planes[:, 19]
    return planes


def _all_rows(planes):
    return np.roll(planes, 1, axis=1)


FAULTS = {
    "weight of a head flipped": (_flip_weight(4), None, {"short_offset"}, "weights or bias"),
    "weight of the trunk flipped": (_flip_weight(0), None, set(HEADS), "layers before the heads"),
    "rows shifted": (None, _all_rows, {"input"}, "rows shifted by +1"),
    "one row shifted": (None, _one_row, {"input"}, "row 20 holds what belongs in row 19"),
    "planes swapped": (None, lambda planes: planes[[2, 1, 0]], {"input"}, "planes swapped: the board's are BGR"),
    "wrong zero point": (_json(_offset_zero_point), None, {"decoder"}, ""),
    "outputs in the wrong order": (
        _json(_swap_outputs), None, {"displacement_fwd", "displacement_bwd"}, "outputs in the wrong order",
    ),
    "decoder off by one": (
        _edit("decoder.py", "offset_x[offsets[at_x + cell]]", "offset_x[offsets[at_x + cell]] + 1"),
        None, {"decoder"}, "off by +1",
    ),
    "lines too thin": (_edit("drawing.py", "thickness=3", "thickness=2"), None, {"drawing"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_by_its_stage(name, build, manifest):
    """A fault is found in its own stage, in every picture that can show it, and in no other stage."""
    prepare, change, stages, text = FAULTS[name]
    with _planes(change) if change else contextlib.nullcontext():
        results = compare_board(build, manifest, 2, prepare or (lambda session: None))
    for result in results:
        assert {stage.stage for stage in result.stages if not stage.equal} == stages
        assert result.first_fault == next(stage for stage in STAGES if stage in stages)
        wrong = next(stage for stage in result.stages if not stage.equal)
        assert text in wrong.looks_like
        assert wrong.first and wrong.first.board != wrong.first.simulator
        assert wrong.differing and sum(wrong.histogram.values()) <= wrong.total


def run_command(*words):
    return dispatch("python -m host_tools", "", COMMANDS, ["diff", *map(str, words)])


@pytest.fixture
def picture_file(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(pictures(1)[0]).save(path)
    return path


def test_command_says_equal_with_exit_0(build, picture_file, tmp_path, capsys):
    """Terminal, JSON and page must agree, both for a picture from the host and for a frame of the board's camera."""
    json_file, html_file = tmp_path / "out.json", tmp_path / "out.html"
    code = run_command(
        "--board", "sim", "--build", build, picture_file, "--camera", 1, "--json", json_file, "--html", html_file
    )
    assert code == 0
    assert "EQUAL: 2 pictures, every stage bit for bit" in capsys.readouterr().out
    report = json.loads(json_file.read_text())
    assert report["equal"] and report["first_fault"] is None and len(report["pictures"]) == 2
    assert report["pictures"][1]["stages"][0]["compared"] is False  # Only the camera knows its input.
    page = html_file.read_text()
    assert "every stage bit for bit" in page and "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_command_says_where_it_differs_with_exit_1(build, picture_file, tmp_path, capsys, monkeypatch):
    """A CI that tests a board needs the exit code and the name of the stage."""
    monkeypatch.setattr(rgb565, "to_planes", lambda words: rgb565.unpack(words).transpose(2, 0, 1)[[1, 0, 2]].copy())
    code = run_command("--board", "sim", "--build", build, picture_file, "--html", tmp_path / "out.html")
    assert code == 1
    out = capsys.readouterr().out
    assert "first differs in: input" in out and "the board's are GRB" in out
    assert "DIFFERS: 1 of 1 picture, first in stage input" in out
    assert "s are GRB" in (tmp_path / "out.html").read_text()


def test_command_cannot_measure_with_exit_2(build, picture_file, tmp_path, capsys):
    """No board, no pictures or no build: each is one line, exit code 2 and no report."""
    assert run_command("--port", tmp_path / "no-port", "--build", build, picture_file) == 2
    assert run_command("--board", "sim", "--build", build) == 2
    assert run_command("--board", "sim", "--build", tmp_path, picture_file) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 3 and "Traceback" not in err


def test_another_network_on_the_board_is_said(build, tmp_path, manifest):
    """Comparing two different networks would only say that everything differs."""
    from host_tools.board_frames import check_board

    other = write_build(tmp_path / "other", seed=6)
    with simulated_board(other) as transport:
        link = start_target(transport)
        with pytest.raises(UserError, match="kmodel CRC"):
            check_board(link, manifest)
        link.close()


# The comparison without a board.


def frames(manifest):
    """Two equal sides, which a test then spoils."""
    rng = np.random.default_rng(1)
    picture = pictures(1)[0]
    sent = rgb565.to_memory(picture)
    planes = rgb565.planes_of(sent, WIDTH, HEIGHT)
    heads = {
        facts["name"]: rng.integers(0, 256, (facts["channels"], 3, 4)).astype(np.uint8) for facts in manifest["heads"]
    }
    poses = rng.integers(0, 9000, (1, 52)).astype(np.int32)
    board = BoardFrame("x", sent, planes, heads, poses, poses, sent, sent, {})
    return board, SimulatedFrame(planes, {k: v.copy() for k, v in heads.items()}, poses.copy(), poses.copy(), sent)


def test_several_faults_are_all_seen(manifest):
    """Each stage is judged by the board's own input to it, so that one fault does not hide the next."""
    board, simulated = frames(manifest)
    planes = board.planes.copy()
    planes[1, 5, 7] += 1
    heads = {name: head.copy() for name, head in board.heads.items()}
    heads["displacement_bwd"][3, 2, 1] ^= 4
    multi = board.multi.copy()
    multi[0, 1 + 3 * 9 + 1] += 2
    result = compare(replace(board, planes=planes, heads=heads, multi=multi), simulated, manifest)
    assert [stage.stage for stage in result.stages if not stage.equal] == ["input", "displacement_bwd", "decoder"]
    assert result.first_fault == "input"
    first = {stage.stage: stage.first.where for stage in result.stages if stage.first}
    assert first["input"] == "plane 1, y 5, x 7"
    assert first["displacement_bwd"] == "channel 3, y 2, x 1"
    assert first["decoder"] == "multi-pose, pose 0, leftWrist y (1/256 px)"


def test_text_from_elsewhere_is_text_on_the_page(manifest):
    """File names, a build's keypoint names and a board's words must not become markup of the page."""
    evil = "</td><script>alert(1)</script><img src=x onerror='alert(2)'>"
    manifest = {**manifest, "keypoints": [evil] * len(manifest["keypoints"])}
    board, simulated = frames(manifest)
    multi = board.multi.copy()
    multi[0, 1 + 3 * 9 + 1] += 2
    planes = board.planes.copy()
    planes[1, 5, 7] += 1
    result = compare(replace(board, name=evil, planes=planes, multi=multi), simulated, manifest)
    context: dict[str, object] = dict.fromkeys(("board", "network", "simulator"), evil)
    line = dict.fromkeys(("frames", "errors", "resent", "baud"), 1)
    context |= {"remarks": [evil], "line": {"host": line, "board": line}}
    page = render_page([result], [(board, simulated)], manifest, context)
    assert evil not in page and "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_another_number_of_poses_is_a_difference(manifest):
    """One pose more or less must be reported and must not end in an index error."""
    board, simulated = frames(manifest)
    result = compare_poses((board.multi[:0], board.single), (simulated.multi, simulated.single), manifest["keypoints"])
    assert not result.equal and "finds 0 poses, the simulator 1" in result.looks_like


def test_stale_last_byte_is_recognised():
    """MaixPy leaves the last byte of an output of width 64·n stale. diff says so and does not blame the network."""
    rng = np.random.default_rng(3)
    heads = {name: rng.integers(1, 256, (4, 2, 64)).astype(np.uint8) for name in HEADS}
    board = {name: head.copy() for name, head in heads.items()}
    board["heatmap"][-1, -1, -1] ^= 1
    assert "one byte too few" in compare_heads(board, heads)[0].looks_like


def test_bit_replication_is_recognised():
    """This is the mistake that a converter on the host makes most easily."""
    planes = rgb565.planes_of(rgb565.to_memory(pictures(1)[0]), WIDTH, HEIGHT)
    five, six = planes >> 3, planes >> 2
    board = np.stack((five[0] << 3 | five[0] >> 2, six[1] << 2 | six[1] >> 4, five[2] << 3 | five[2] >> 2))
    assert "bit replication" in compare_input(board, planes).looks_like


def test_compare_arrays_counts_and_places():
    """Count, place, greatest difference, rms and histogram are checked against values computed by hand."""
    ours = np.zeros((2, 3, 4), np.uint8)
    theirs = ours.copy()
    ours[0, 1, 2], ours[1, 2, 3] = 3, 4
    result = compare_arrays("heatmap", ours, theirs, ("channel", "y", "x"))
    assert (result.differing, result.total, result.max_abs) == (2, 24, 4)
    assert result.first is not None
    assert (result.first.where, result.first.board, result.first.simulator) == ("channel 0, y 1, x 2", 3, 0)
    assert result.rms == pytest.approx((25 / 24) ** 0.5)
    assert result.histogram == {0: 22, 3: 1, 4: 1}


def test_metrics_agree_with_values_computed_by_hand():
    """acc counts the best cells of a heatmap, and for offsets the values within half a pixel."""
    a = np.array([[[1.0, 2.0]], [[3.0, 0.0]]])
    b = np.array([[[1.0, 3.0]], [[0.0, 3.0]]])
    heat = metrics(a, b, True)
    assert heat.acc == 0.5 and heat.mae == pytest.approx(7 / 4)
    assert heat.rmse == pytest.approx((19 / 4) ** 0.5) and heat.l2r == pytest.approx((19 / 19) ** 0.5)
    assert heat.cos == pytest.approx(7 / (14**0.5 * 19**0.5))
    assert metrics(a, b, False).acc == 0.25
    assert metrics(a, a, False) == type(heat)(1.0, 0.0, 0.0, 0.0, 1.0)


def test_poses_from_the_board_are_checked():
    """A buffer whose counts do not fit its length is refused, whatever it contains."""
    with pytest.raises(ValueError, match="bytes of poses"):
        unpack_poses(b"\0\0", 17)
    with pytest.raises(ValueError, match="do not hold"):
        unpack_poses(b"\1\0\0\0\0\0\0\0", 17)


def test_the_host_draws_with_the_firmwares_own_code():
    """The expected picture comes from the firmware's drawing.py, so a change there changes both sides."""
    from host_tools.firmware_drawing import draw_poses

    pose = np.array([[20000] + [v for k in range(17) for v in (k * 600, k * 500, 20000)]], np.int32)
    black = bytes(2 * WIDTH * HEIGHT)
    drawn = draw_poses(black, WIDTH, HEIGHT, pose, [(0, 1), (1, 2)], 16384)
    assert drawn != black
    assert firmware_module("drawing").COLORS[1][0] == (255, 160, 0)
