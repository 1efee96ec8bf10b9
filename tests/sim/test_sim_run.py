"""`python -m sim run` and its parts: letterboxing there and back, results, drawing, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.scripted_network import heads, manifest, person
from common import pictures
from common.arrays import Numbers
from common.decoder_options import DecoderOptions
from common.drawing import draw_poses
from common.errors import UserError
from common.flash_map import KMODEL_ADDRESS
from common.pose import result, to_json
from common.skeleton import EDGES, KEYPOINTS
from common.videos import codec_in_file
from model_build import manifest as manifest_file
from model_build.decoding import make_decoder
from model_build.network import HEADS
from sim.commands import run as run_command
from sim.parts.camera_source import open_camera
from tests.support.letterboxes import to_input


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([(256, 192), (320, 240), (224, 224)]))
def test_letterbox_keeps_aspect_and_maps_back(width, height, size):
    """Any picture fits and is centred, and points come back to where they were."""
    picture = np.zeros((height, width, 3), np.uint8)
    fitted, box = pictures.letterbox(picture, *size)
    assert fitted.shape == (size[1], size[0], 3)
    x, y = box.to_source(*to_input(box, 0.3 * width, 0.7 * height))
    assert abs(x - 0.3 * width) < 1e-6 and abs(y - 0.7 * height) < 1e-6
    inside = (fitted == 0).all(axis=2)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (fitted[~inside] == pictures.GREY).all()
    assert len(rows) == size[1] or len(columns) == size[0]
    assert abs((size[1] - len(rows)) / 2 - rows[0]) <= 0.5 and abs((size[0] - len(columns)) / 2 - columns[0]) <= 0.5


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([0, 90, 180, 270]))
def test_a_squeezed_letterbox_maps_back(width, height, mount):
    """With 256 columns for a field of 320, poses in the field's pixels lie where they were in the picture."""
    picture = np.zeros((height, width, 3), np.uint8)
    fitted, box = pictures.letterbox(picture, 256, 240, mount, 1.25)
    assert fitted.shape == (240, 256, 3)
    x, y = to_input(box, 0.3 * width, 0.7 * height)
    back = box.to_source(1.25 * x, y)
    assert abs(back[0] - 0.3 * width) < 1e-6 and abs(back[1] - 0.7 * height) < 1e-6


def test_squeezed_people_keep_their_shape_in_the_field():
    """A square is 0.8 as wide as high in the input. A frame that has the input's size is passed on unchanged."""
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[100:300, 200:400] = 255
    fitted, _ = pictures.letterbox(picture, 256, 240, widening=1.25)
    rows, columns = np.nonzero(fitted[..., 0] > 127)
    assert (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) == (80, 100)
    again, box = pictures.letterbox(fitted, 256, 240, widening=1.25)
    assert again is fitted and box.to_source(1.25 * 80, 50) == (80, 50)


def test_letterbox_of_the_right_size_is_the_picture():
    """Engines must see the very bytes, so nothing is resampled if the size is right."""
    picture = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)
    fitted, box = pictures.letterbox(picture, 256, 192)
    assert (fitted == picture).all() and box.to_source(3, 4) == (3, 4)


def _entry(size=(640, 480)):
    """People, and the result for them as `sim run` gives it."""
    facts = manifest_file.from_dict(manifest(320, 240))
    people = [person(100, 120), person(230, 125, height=150)]
    decode = make_decoder(facts, DecoderOptions())
    poses = decode(dict(zip(HEADS, heads(people, 320, 240), strict=True)))
    _, box = pictures.letterbox(np.zeros((size[1], size[0], 3), np.uint8), 320, 240)
    return people, result("a.jpg", size, poses, box, KEYPOINTS)


def test_results_have_the_documented_form():
    """Names are in order, places in pixels of the source picture, and scores fall from 1.

    Sizes are width and height.
    """
    people, entry = _entry()
    assert entry["image"] == "a.jpg" and entry["size"] == [640, 480] and len(entry["poses"]) == 2
    scores = [pose["score"] for pose in entry["poses"]]
    assert scores == sorted(scores, reverse=True) and 0 < scores[0] <= 1
    for pose in entry["poses"]:
        assert [point["name"] for point in pose["keypoints"]] == list(KEYPOINTS)
        found = np.array([(point["x"], point["y"]) for point in pose["keypoints"]])
        assert min(np.abs(found - ((points + 0.5) * 2 - 0.5)).max() for points in people) < 1
    assert json.loads(to_json([entry])) == entry
    assert json.loads(to_json([entry, entry])) == [entry, entry]


def test_integer_and_float_decoders_agree():
    """The same tensors go as bytes through the board's decoder and as real values through the float one."""
    data = manifest(320, 240)
    facts = manifest_file.from_dict(data)
    raw = dict(zip(HEADS, heads([person(100, 120), person(230, 125)], 320, 240), strict=True))
    real = {h["name"]: (raw[h["name"]].astype(float) - h["zero_point"]) * h["scale"] for h in data["heads"]}
    for options in (DecoderOptions(), DecoderOptions(single=True)):
        ours, reference = make_decoder(facts, options)(raw), make_decoder(facts, options, float_heads=True)(real)
        assert len(ours) == len(reference) > 0
        for a, b in zip(ours, reference, strict=True):
            assert np.abs(a.keypoints - b.keypoints).max() < 0.1 and np.abs(a.scores - b.scores).max() < 0.001


def test_skeleton_is_drawn_where_the_keypoints_are():
    """Joints are coloured, and the rest of the picture stays as it was."""
    _, entry = _entry()
    picture = np.full((480, 640, 3), 9, np.uint8)
    drawn = draw_poses(picture, entry, EDGES)
    assert (picture == 9).all()
    for pose in entry["poses"]:
        nose = pose["keypoints"][0]
        assert (drawn[round(nose["y"]), round(nose["x"])] != 9).any()
    assert (drawn[:40, :40] == 9).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not a picture"),
        (lambda path: path.write_bytes(b"GIF89a, it says"), "picture"),
        (lambda path: path.write_text("<html>"), "not a picture"),
        (lambda path: _half_a_png(path), "damaged"),
    ],
)
def test_bad_pictures_are_one_line(make, words, tmp_path):
    """The message names the file and what is wrong with it, without a traceback."""
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(UserError, match=words) as error:
        pictures.load_picture(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def _ramp(dtype: type, top: float) -> Numbers:
    """48 rows that go from 0 to `top` in 256 columns."""
    return np.linspace(0, top, 256).astype(dtype)[None].repeat(48, 0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_of_grey_keep_their_shades(tmp_path, suffix):
    """Depth and thermal cameras and scanners write 16-bit grey. Clipped at 255 it would be all white."""
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), _ramp(np.uint16, 65535))
    picture = pictures.load_picture(path)
    assert picture.shape == (48, 256, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0, :, 0], np.arange(256))
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize(
    ("dtype", "top", "words"), [(np.float32, 1.0, "floating-point numbers"), (np.int32, 70000, "32-bit integers")]
)
def test_pixels_without_a_known_white_are_refused(tmp_path, dtype, top, words):
    """Floats from 0 to 1 once came out black. Nobody can know what is white in such a file."""
    Image.fromarray(_ramp(dtype, top)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif: its pixels are {words}.*save it with 8 or 16 bits"):
        pictures.load_picture(tmp_path / "a.tif")


def _half_a_png(path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])


def test_the_command_refuses_in_one_line(tmp_path):
    """Without a build, without a picture, or with an empty folder it exits with 1 and writes nothing."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["--build", "absent", "a.png"], "holds no build"),
        (["--build", "absent", "b.png"], "b.png: no such file"),
        (["--build", "absent", "empty"], "no picture in this folder"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "sim", "run", *arguments, "--json", "out.json"],
            capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(Path.cwd()), "PATH": ""},
        )  # fmt: skip
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "empty"]


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path):
    """a/x.png and b/x.png become x and x-2."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    files = run_command._files([tmp_path / "a", tmp_path / "b"])
    assert [stem for _, stem, _, _ in run_command._pictures(files, 1)] == ["x", "x-2"]


def test_a_video_gives_every_nth_frame(tmp_path):
    """Each frame has its number and time, and a file that is no video is refused."""
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(6):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()
    frames = list(run_command._pictures([path], 2))
    assert [(stem, more["frame"], more["time_ms"]) for _, stem, more, _ in frames] == [
        ("v-000000", 0, 0), ("v-000002", 2, 200), ("v-000004", 4, 400),
    ]  # fmt: skip
    assert abs(int(frames[1][3].mean()) - 80) < 6
    (tmp_path / "w.mp4").write_text("no video")
    with pytest.raises(UserError, match="not a video"):
        list(run_command._pictures([tmp_path / "w.mp4"], 1))


def _video(path: Path, codec: str, frames: int = 3) -> None:
    """Write a short video with that codec."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()


@pytest.mark.parametrize(
    ("name", "codec", "written", "unknown"),
    [("v.avi", "MJPG", b"MJPG", b"ZQX7"), ("v.mp4", "mp4v", b"mp4v", b"zqx7"),
     ("v.mkv", "mp4v", b"V_MPEG4/ISO/ASP", b"V_QZX/SEVEN/PRO")],
)  # fmt: skip
def test_codec_that_cannot_be_read_is_named(tmp_path, name, codec, written, unknown):
    """Phones record in codecs that OpenCV's build may lack. The message names the codec and how to convert the file.

    In this test the container is whole, and only the codec's name is one that nobody has.
    """
    path = tmp_path / name
    _video(path, codec)
    assert len(list(run_command._pictures([path], 1))) == 3
    assert codec_in_file(path) == written.decode()
    data = path.read_bytes()
    assert written in data
    # MP4 has a box (esds) that names the codec a second time.
    path.write_bytes(data.replace(written, unknown).replace(b"esds", b"none"))
    with pytest.raises(UserError, match=rf"codec {unknown.decode()}, which cannot be decoded here.*ffmpeg -i {name}"):
        list(run_command._pictures([path], 1))
    with pytest.raises(UserError, match=f"codec {unknown.decode()}"):
        open_camera(path)


def test_board_and_host_say_the_same(tmp_path):
    """The same network and pictures go through the command and through the board, which must find the same people.

    On the board they pass through flash, camera, KPU, the decoder in MicroPython and a line on UART1. The command's
    pictures and tensors are checked too.
    """
    from benchmarks.scripted_network import flash_dir
    from benchmarks.showcase import run_until
    from benchmarks.synthetic_kmodel import write_build
    from sim.boards.devices import Devices
    from sim.boards.vm import MicroPythonVm
    from sim.parts.camera_source import PicturesCamera

    build = write_build(tmp_path / "build")
    rng = np.random.default_rng(8)
    shots = [np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(3)]
    for number, shot in enumerate(shots):
        Image.fromarray(shot).save(tmp_path / f"{number}.png")
    command = [sys.executable, "-m", "sim", "run", "--build", str(build), "--threshold", "0.5"]
    command += [str(tmp_path / f"{n}.png") for n in range(3)]
    command += ["--json", str(tmp_path / "r.json"), "--png", str(tmp_path / "png"), "--tensors", str(tmp_path / "npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    host = json.loads((tmp_path / "r.json").read_text())
    assert sum(len(entry["poses"]) for entry in host) >= 3

    board = Devices(camera=PicturesCamera(shots))
    data = (build / "posenet.kmodel").read_bytes()
    board.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + len(data)] = data
    # With two frame buffers the first pictures, which come before the registers are written, would be skipped.
    folder = flash_dir(tmp_path / "flash", 64, 48, track=False, uart={"crc": False}, double_buffer=False)
    (folder / "posenet.json").write_bytes((build / "posenet.json").read_bytes())
    with MicroPythonVm(folder, board) as vm:
        said = run_until(vm, lambda _: board.lcd.frames >= 4)
    lines = [json.loads(line) for line in board.uarts[0].collect().decode().splitlines()[:3]]
    assert len(lines) == 3, said
    for entry, line in zip(host, lines, strict=True):
        assert len(entry["poses"]) == len(line["poses"])
        for there, here in zip(entry["poses"], line["poses"], strict=True):
            assert abs(there["score"] * 100 - here["score"]) <= 1
            for point, (x, y, score) in zip(there["keypoints"], here["keypoints"], strict=True):
                assert abs(point["x"] - x) <= 0.51 and abs(point["y"] - y) <= 0.51
                assert abs(point["score"] * 100 - score) <= 1

    for number, shot in enumerate(shots):
        assert (np.load(tmp_path / "npy" / f"{number}.input.npy") == shot.transpose(2, 0, 1)).all()
        tensor = np.load(tmp_path / "npy" / f"{number}.heatmap.npy")
        assert tensor.shape == (17, 3, 4) and tensor.dtype == np.uint8
        assert np.asarray(Image.open(tmp_path / "png" / f"{number}.png")).shape == (48, 64, 3)
