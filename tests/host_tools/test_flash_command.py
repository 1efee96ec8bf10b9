"""flash.py as a command: what it accepts, refuses and prints, and how it chooses port and board."""

import errno
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

import flash
from benchmarks.synthetic_kmodel import write_build
from common import rom_image
from common.cli import dispatch, parse_size
from common.errors import NotObtainableError, UserError
from common.firmware_modules import firmware_module
from common.flash_parts import FlashPart
from common.skeleton import EDGES, KEYPOINTS
from common.transport import TracingTransport, open_failure
from host_tools import known_boards, payload
from host_tools.__main__ import COMMANDS as HOST_TOOLS
from host_tools.commands import info
from host_tools.flashing import Flasher, Wanted
from host_tools.known_boards import Port, choose_port, serial_ports, wirings_for
from host_tools.repl import BoardInfo
from host_tools.show import Show
from model_build import catalog, fingerprint
from model_build.manifest import HeadQuantization, KmodelFacts, Manifest, sigmoid_table_q15
from model_build.network import HEADS
from sim.boards.faults import Faults
from sim.boards.simulated_session import SimulatedSession
from sim.k210.profiles import PROFILES
from sim.live.line_server import LiveBoard, Rfc2217Line
from sim.open_board import KINDS as BOARD_KINDS
from sim.open_board import BoardChoice, open_session
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import scene_camera
from tests.support.quiet_line import QuietLine
from tests.support.refusals import is_refused

ROOT = Path(__file__).resolve().parents[2]


def make_build(folder: Path, kmodel: bytes | None = None) -> Path:
    """A build folder whose kmodel is random bytes behind a V3 header: enough for everything except running it."""
    folder.mkdir()
    if kmodel is None:
        kmodel = struct.pack("<7I", 3, 1, 0, 0, 0, 0, 0) + random.Random(4).randbytes(20_000)
    (folder / "posenet.kmodel").write_bytes(kmodel)
    channels = dict(zip(HEADS, (17, 34, 32, 32), strict=True))
    heads = tuple(
        HeadQuantization(name, index, channels[name], 0.1, 128, 6554, channels[name] * 192)
        for index, name in enumerate(HEADS)
    )
    facts = KmodelFacts(3, len(kmodel), "0" * 64, zlib.crc32(kmodel), 0x300000, 1000, 1000)
    manifest = Manifest(
        "random", "x", "0" * 64, 256, 192, 16, tuple(KEYPOINTS), tuple(EDGES), heads,
        sigmoid_table_q15(0.1, 128), facts,
    )  # fmt: skip
    (folder / "posenet.json").write_text(manifest.to_json())
    return folder


def make_whole_build(folder: Path, sources: str | None) -> Path:
    """As `make_build`, with all files that flash.py looks for under build/, and a report that names the sources."""
    folder.parent.mkdir(exist_ok=True)
    make_build(folder)
    (folder / "posenet.tflite").touch()
    (folder / "report.json").write_text(json.dumps({"sources_sha256": sources} if sources else {}))
    return folder


@pytest.fixture
def build(tmp_path):
    return make_build(tmp_path / "build")


def run(*args, timeout=120):
    return subprocess.run(
        [sys.executable, "flash.py", *map(str, args)], capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )


def test_the_second_run_on_a_board_writes_nothing(build, tmp_path):
    """The first run writes everything, the second finds it all there. The trace contains the bytes of both sides."""
    options = ("--board", "sim", "--model", build, "--state", tmp_path / "board", "--no-start")
    first = run(*options, "--trace", tmp_path / "trace.txt")
    assert first.returncode == 0, first.stderr
    assert "read back right, length and CRC-32" in first.stdout and "copied, read back right" in first.stdout
    trace = (tmp_path / "trace.txt").read_text()
    assert "DTR 0 RTS 1" in trace and "1500000 baud" in trace and " c0 d4 e0 c0 " in trace
    second = run(*options)
    assert second.returncode == 0 and "everything was there already" in second.stdout
    files = {path.name for path in (tmp_path / "board" / "flash").iterdir()}
    assert {"main.py", "posenet.json", "decoder.py"} <= files


def test_frames_are_those_that_were_asked_for(tmp_path):
    """Three frames mean three lines and at least three pictures.

    A busy machine once named the second picture as last.
    """
    build = write_build(tmp_path / "build")
    done = run("--board", "sim", "--model", build, "--state", tmp_path / "board", "--frames", 3)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"frame (\d+):", done.stdout) == ["1", "2", "3"] and "3 frame(s)" in done.stdout
    shown = re.search(r"LCD picture: (.*)/frame-(\d+)\.png", done.stdout)
    assert shown is not None and Path(shown[1]) == tmp_path / "board" / "lcd" and int(shown[2]) >= 3


@pytest.mark.parametrize("board", ["auto", "emu"])
def test_a_board_is_watched_until_somebody_can_be_reported(board, monkeypatch, capsys):
    """The tracker begins a person with the second picture, so a run that ended with the first always said "no pose"."""
    pose = {"id": 1, "score": 90, "keypoints": [[160, 42, 99]] * len(KEYPOINTS)}

    def start(flasher, payload, board, on_line):
        lines = [{"seq": n, "ms": n, "poses": [pose] * (n > 1)} for n in range(1, 9)]
        assert any(on_line(json.dumps(line, separators=(",", ":"))) for line in lines)

    monkeypatch.setattr(flash, "start_poses", start)
    options: Any = types.SimpleNamespace(frames=None, board=board)
    line: Any = types.SimpleNamespace(lcd=None)
    unused: Any = None
    flash.run_poses(options, line, unused, unused, Show())
    assert "2 frame(s), at most 1 pose(s) in one" in capsys.readouterr().out


HOLDER = """
import sys
from pathlib import Path
from sim.open_board import BoardChoice, open_session
from sim.parts.camera_source import scene_camera
session = open_session(BoardChoice("sim"), Path(sys.argv[1]), scene_camera())
print("open", flush=True)
sys.stdin.read()
"""


def test_only_one_process_at_a_time_uses_a_board(build, tmp_path):
    """Two runs on one folder once overwrote each other's flash. Now the second is refused in one line.

    A run that was killed must not lock out the next one, and `host_tools info` then finds what that one flashed.
    """
    folder = tmp_path / "board"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    options = ("--board", "sim", "--model", build, "--state", folder, "--no-start")
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        refused = run(*options)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert f"the board in {folder} is in use by another run" in refused.stderr
    finally:
        holder.kill()
        holder.wait()
    assert run(*options).returncode == 0
    told = subprocess.run(
        [sys.executable, "-m", "host_tools", "info", "--board", "sim", "--state", str(folder)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0 and "random 256x192" in told.stdout and "crc32" in told.stdout, told.stderr


@pytest.mark.slow
def test_erase_files_empties_flash(build, tmp_path):
    """With --erase files a file of the user is gone afterwards, and ours are there again."""
    state = tmp_path / "board"
    options = ("--board", "sim", "--model", build, "--state", state, "--no-start")
    assert run(*options).returncode == 0
    (state / "flash" / "old.py").write_text("x")
    done = run(*options, "--erase", "files")
    assert done.returncode == 0, done.stderr
    assert not (state / "flash" / "old.py").exists() and (state / "flash" / "main.py").exists()


def test_dry_run_lists_addresses_sizes_and_hashes(build, capsys):
    """Somebody wants to know beforehand what would be written, and where."""
    assert flash.main(["--dry-run", "--model", str(build)]) == 0
    out = capsys.readouterr().out
    data = (build / "posenet.kmodel").read_bytes()
    assert "0x00300000" in out and str(len(data)) in out and f"{zlib.crc32(data):08x}" in out
    assert "main.py" in out and "no overlaps" in out


def test_dry_run_touches_nothing(tmp_path):
    """A dry run names what is missing and neither builds nor downloads it. No file appears or changes anywhere."""
    checkout = tmp_path / "checkout"
    for name in ("common", "firmware", "host_tools", "model_build", "sim", "flash.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, checkout / name)
    make_whole_build(checkout / "build" / "demo-256x192", "0" * 64)
    homes = {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    environment = os.environ | homes | {"PYTHONDONTWRITEBYTECODE": "1", "MAIX_POSENET_DATA": ""}

    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = files()
    pictures = str(ROOT / "docs" / "pictures")
    cases = (
        (["--firmware", "maixpy-minimum"], ["posenet-075 for 320x240", "downloaded from", "MaixPy would be"]),
        (["--model", "demo"], ["demo for 256x192 would be built again", "another version"]),
        (["--model", "demo", "--calibration", pictures], [f"with the photos of {pictures}"]),
        (["--board", "sim", "--model", "people-k210", "--erase", "kmodel"], ["people-k210 for 320x240 would be built"]),
    )
    program = "import flash\nfor options in %r: print('code', flash.main(['--dry-run', *options]))"
    done = subprocess.run(
        [sys.executable, "-c", program % [options for options, _ in cases]],
        capture_output=True, text=True, cwd=checkout, env=environment, timeout=120,
    )  # fmt: skip
    told = done.stdout.split("code 0\n")
    assert len(told) == len(cases) + 1 and told[-1] == "", done
    for (_, words), said in zip(cases, told, strict=False):
        assert all(word in said for word in [*words, "not there yet: ", "main.py"]), said
    assert files() == before
    assert flash.main(["--dry-run", "--model", "demo", "--calibration", "/nonexistent"]) == 2


def test_a_written_package_can_be_flashed(build, tmp_path, capsys):
    """--kfpkg writes a package, and --model accepts it."""
    package = tmp_path / "out.kfpkg"
    assert flash.main(["--kfpkg", str(package), "--model", str(build)]) == 0
    assert flash.main(["--dry-run", "--model", str(package)]) == 0
    assert "0x00300000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"LDMK\x05\x00\x00\x00", "V5"),
        (b"LDMK\x04\x00\x00\x00", "V4"),
        (b"\x89PNG", "not a kmodel V3"),
        (b"", "not a kmodel V3"),
    ],
)
def test_other_kmodels_are_refused(tmp_path, capsys, head, text):
    """A V5 file hangs some MaixPy builds, so it must not reach the board, either in a folder or alone."""
    folder = make_build(tmp_path / "build", head + bytes(100 if head else 0))
    assert flash.main(["--dry-run", "--model", str(folder)]) == 1
    (folder / "posenet.json").unlink()
    assert flash.main(["--dry-run", "--model", str(folder / "posenet.kmodel")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(text in line for line in errors)


def test_a_kmodel_that_posenet_json_does_not_describe_is_refused(build, capsys):
    """kmodel and posenet.json belong together. One wrong bit is reported before anything is erased."""
    data = bytearray((build / "posenet.kmodel").read_bytes())
    data[5000] ^= 1
    (build / "posenet.kmodel").write_bytes(data)
    assert flash.main(["--dry-run", "--model", str(build)]) == 1
    assert "not the one that posenet.json names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--board", "nonsense"], 2, "no board is called"),
        (["--board", "sim", "--fault", "nonsense"], 2, "no fault is called"),
        (["--board", "emu", "--fault", "dead"], 2, "--fault is for --board sim"),
        (["--board", "sim", "--images", "/nonexistent.png"], 1, "no such file"),
        (["--port", "/dev/nonexistent"], 1, "no such port"),
        (["--port", "rfc2217://127.0.0.1:1"], 1, "cannot be reached"),
        (["--board", "sim", "--firmware", "/nonexistent.bin"], 1, "no known release"),
        (["--board", "sim", "--firmware", "maixpy-minimun"], 1, "did you mean maixpy-minimum"),
        (["--board", "sim", "--erase", "all"], 2, "removes MaixPy"),
    ],
)
def test_wrong_calls_end_in_one_line(build, tmp_path, capsys, args, code, text):
    """The exit code is 2 for a wrong call and 1 for something that went wrong; each is one line."""
    assert flash.main([*args, "--model", str(build), "--state", str(tmp_path / "board")]) == code
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--board", "bitt"], "did you mean bit"),
        (["--port", "/dev/nonexistent"], "no such port"),
        (["--board", "sim", "--port", "COM3"], "not a board on a port"),
        (["--board", "sim", "--fault", "nonsense"], "no fault is called"),
        (["--board", "bit", "--fault", "dead"], "--board sim"),
        (["--board", "sim", "--images", "/nonexistent.png"], "no such file"),
        (["--board", "sim", "--profile", "bit"], "--board emu"),
        (["--board", "emu", "--profile", "bitt"], "did you mean bit"),
        (["--board", "emu", "--camera", "ov264"], "did you mean ov2640"),
        (["--board", "sim", "--erase", "all"], "removes MaixPy"),
        (["--board", "sim", "--state", __file__], "is a file; give a folder"),
        (["--board", "sim", "--lcd", __file__], "is a file; give a folder"),
        (["--board", "sim", "--trace", str(ROOT)], "is a folder; give a file"),
        (["--kfpkg", __file__ + "/out"], "is a file; give a folder"),
        (["--size", "big"], "give WIDTHxHEIGHT"),
    ],
)
def test_a_wrong_word_is_told_before_anything_is_built(args, text, monkeypatch, capsys):
    """A build takes minutes, and `--board bitt` was once refused only after it."""
    monkeypatch.setattr(flash, "payload_of", lambda *given, **named: pytest.fail("built first"))
    assert flash.main(args) in (1, 2)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--model", "posenet-75"], "did you mean posenet-075"),
        (["--model", "demo", "--calibration", "/nonexistent"], "no such folder"),
        (["--size", "312x240"], "the nearest is 320x240"),
        (["--size", "8x8"], "the nearest is 64x64"),
        (["--size", "9000x16"], "the nearest is 320x64"),
        (["--size", "520x250", "--no-start"], "the nearest is 512x256"),
    ],
)
def test_a_wrong_network_photo_folder_or_size_is_told_before_weights_are_read(args, text, monkeypatch, capsys):
    """A wrong photo folder was once refused only after the weights had been downloaded, and 8x8 twice."""
    monkeypatch.setattr("model_build.build.open_network", lambda *_: pytest.fail("opened the weights first"))
    assert flash.main([*args, "--board", "sim"]) in (1, 2)
    assert text in capsys.readouterr().err


def test_without_a_board_nothing_is_built(monkeypatch, capsys):
    """Half a minute of building once ended in `no board is connected`."""
    monkeypatch.setattr(flash, "serial_ports", list)
    monkeypatch.setattr(flash, "payload_of", lambda *given, **named: pytest.fail("built first"))
    assert flash.main([]) == 1
    assert "no board is connected" in capsys.readouterr().err


def test_a_wrong_size_is_a_wrong_call(capsys):
    """Somebody types `--size big`. The message shows the form that is expected."""
    assert flash.main(["--size", "big", "--dry-run"]) == 2
    assert "'big' is not a size: give WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.parametrize(
    "size", ["320x240", "256x192", "160x120", "8x8", "328x240", "320x248", "512x256", "316x240", "320x236"]
)
def test_sizes_are_those_of_the_boards_camera(size, monkeypatch):
    """flash.py refuses exactly the sizes that the board would refuse after everything had been written."""
    for name in ("micropython", "sensor", "utime"):
        monkeypatch.setitem(sys.modules, name, MagicMock(const=lambda value: value))
    posenet = firmware_module("posenet")
    sys.modules.pop("posenet")
    sys.modules["sensor"].get_id.return_value = 0
    width, height = parse_size(size)
    board_refuses = is_refused(posenet.start_camera, width, height, by=posenet.ModelError)
    assert is_refused(payload.check_camera_size, width, height, by=UserError) == board_refuses


def noting(noted: list[Any], which: int, answer: Callable[[tuple[Any, ...]], object]) -> Callable[..., object]:
    """A function that records one of its arguments and answers with `answer` of all of them."""

    def called(*given: Any) -> object:
        noted.append(given[which])
        return answer(given)

    return called


def test_too_large_a_size_is_refused_before_it_is_built(tmp_path, monkeypatch, capsys):
    """A build takes 25 s. With --no-start the same size passes, since a user's own program may need no camera."""
    built: list[Any] = []
    monkeypatch.setattr(payload, "_build", noting(built, 1, lambda given: build))
    build = write_build(tmp_path / "large", 512, 256)
    assert flash.main(["--size", "512x256", "--dry-run"]) == 2 and built == []
    assert flash.main(["--model", str(build), "--dry-run"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all("512x256: the camera gives up to 320x240" in line for line in errors)
    package = tmp_path / "large.kfpkg"
    assert flash.main(["--size", "512x256", "--no-start", "--kfpkg", str(package)]) == 0 and built == [(512, 256)]


@pytest.mark.parametrize("args", [["--frames", "0"], ["--frames", "-3"], ["--baud", "0"]])
def test_counts_and_rates_below_one_are_refused(capsys, args):
    """A count or rate below 1 is refused before anything is done."""
    with pytest.raises(SystemExit) as end:
        flash.main(["--board", "sim", *args])
    assert end.value.code == 2 and "less than 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "tried"),
    [
        (NotObtainableError("cannot get the weights"), 0, ["posenet-075", "people-k210"]),
        (UserError("321x240 is no size", 2), 2, ["posenet-075"]),
    ],
)
def test_our_network_replaces_only_weights_that_cannot_be_obtained(tmp_path, monkeypatch, capsys, error, code, tried):
    """Other errors, such as a size that cannot be built, are for the user to correct and must not be hidden."""
    names = []

    def build(name, size, out, calibration, ui, mount):
        names.append(name)
        if name != "people-k210":
            raise error
        return make_build(out.parent / "people-k210")

    monkeypatch.setattr(payload, "_build", build)
    monkeypatch.setattr(payload, "ROOT", tmp_path)
    (tmp_path / "build").mkdir()
    assert flash.main(["--kfpkg", str(tmp_path / "out.kfpkg")]) == code
    assert names == tried and str(error) in "".join(capsys.readouterr())


def test_a_build_that_is_there_is_used_unless_calibration_is_given(tmp_path, monkeypatch):
    """If the user names photos for the calibration, they must count, so an existing build is not used."""
    built: list[Any] = []
    monkeypatch.setattr(payload, "_build", noting(built, 3, lambda given: given[2]))
    monkeypatch.setattr(payload, "ROOT", tmp_path)
    make_whole_build(tmp_path / "build" / "demo-256x192", fingerprint.of_sources())
    packing = ["--kfpkg", str(tmp_path / "out.kfpkg"), "--model", "demo"]
    assert flash.main(packing) == 0 and built == []
    assert flash.main([*packing, "--calibration", str(tmp_path)]) == 0 and built == [tmp_path]


@pytest.mark.parametrize("sources", [None, "0" * 64])
def test_a_build_of_other_sources_is_built_again(tmp_path, monkeypatch, capsys, sources):
    """Somebody pulls a change to the quantization. It must reach the board, except if the user names a build folder.

    Builds of early versions do not say which sources made them.
    """
    built: list[Any] = []
    monkeypatch.setattr(payload, "_build", noting(built, 0, lambda given: given[2]))
    monkeypatch.setattr(payload, "ROOT", tmp_path)
    folder = make_whole_build(tmp_path / "build" / "demo-256x192", sources)
    packing = ["--kfpkg", str(tmp_path / "out.kfpkg"), "--model"]
    assert flash.main([*packing, str(folder)]) == 0 and built == []
    assert flash.main([*packing, "demo"]) == 0 and built == ["demo"]
    assert capsys.readouterr().out.count("another version") == 1


def test_an_old_build_serves_where_it_cannot_be_built_again(tmp_path, monkeypatch, capsys):
    """Without the internet, a board that was flashed yesterday can be flashed today with the same network."""

    def build(*_):
        raise NotObtainableError("cannot get the weights")

    monkeypatch.setattr(payload, "_build", build)
    monkeypatch.setattr(payload, "ROOT", tmp_path)
    make_whole_build(tmp_path / "build" / "posenet-075-320x240", None)
    assert flash.main(["--kfpkg", str(tmp_path / "out.kfpkg")]) == 0
    assert "going on with the old build: cannot get the weights" in capsys.readouterr().out


def test_all_asks_for_no_choice_between_boards(monkeypatch):
    """`--all` with two boards connected once asked which of them was meant."""
    ports = [Port(f"/dev/ttyUSB{number}", "", 0x1A86, 0x7523, "", f"1-{number}:1.0") for number in range(2)]
    monkeypatch.setattr(flash, "serial_ports", lambda: ports)
    flash.check_arguments(flash.arguments(["--all"]))
    flash.check_arguments(flash.arguments(["--all", "/dev/ttyUSB0", "rfc2217://127.0.0.1:2217"]))
    with pytest.raises(UserError, match="/dev/ttyUSB7: no such port"):
        flash.check_arguments(flash.arguments(["--all", "/dev/ttyUSB0", "/dev/ttyUSB7"]))
    with pytest.raises(UserError, match="several boards are connected"):
        flash.check_arguments(flash.arguments([]))


@pytest.mark.parametrize(("kind", "words"), [("sim", "flash.py --board sim"), ("simm", "did you mean sim?")])
def test_host_tools_know_the_simulated_board(kind, words, tmp_path, capsys):
    """`info --board sim` once asked whether sim was meant."""
    assert dispatch("", "", HOST_TOOLS, ["info", "--board", kind, "--state", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_list_boards_names_every_board(capsys):
    """Somebody looks for the name of their board in this table."""
    assert flash.main(["--list-boards"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*known_boards.BOARDS, *BOARD_KINDS))


# -- MaixPy images -------------------------------------------------------------------------------------------

PROGRAM = bytes.fromhex("21a8efbeadde01000100") + bytes(200_000) + b"MicroPython v1.11 v0.6.2-84" + bytes(50_000)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(300_000), "only zeros"),
        (b"\xff" * 300_000, "only zeros or FF"),
        (struct.pack("<7I", 3, 1, 0, 0, 0, 0, 0) + bytes(300_000), "kmodel V3"),
        (b"LDMK\x05\0\0\0" + bytes(300_000), "a kmodel"),
        (b"\n<!DOCTYPE html><html>" + bytes(300_000), "web page"),
        (b"PK\x03\x04" + bytes(300_000), "zip archive"),
        (b"\x1f\x8b\x08\0" + bytes(300_000), "gzip"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(300_000), "7z"),
        (b"\x7fELF" + bytes(300_000), "ELF"),
        (b"\xe9\x06\x02\x20" + bytes(300_000), "ESP32"),
        (bytes.fromhex("00100020 c1010008") + bytes(300_000), "no K210 program"),
        (b"UF2\nWQ]\x9e" + bytes(300_000), "UF2"),
        (b":020000040800F2\n" * 9000, "Intel HEX"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (bytes(4) + b"TFL3" + bytes(300_000), "TFLite"),
        (PROGRAM.replace(b"MicroPython", b"SomethingMy"), "K210 program, but not MaixPy"),
        (PROGRAM + bytes(6 << 20), "longer than its memory"),
        (b"\x13\x05\x05\x05" * 50_000, "no K210 program"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_maixpy_is_refused_and_named(build, tmp_path, capsys, data, words):
    """Any of these files, written over MaixPy, leaves a board that does not start."""
    path = tmp_path / "firmware.bin"
    path.write_bytes(data)
    assert flash.main(["--dry-run", "--model", str(build), "--firmware", str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "maixpy-minimum" in error


def test_a_dump_of_flash_is_not_wrapped_twice(tmp_path):
    """A dump begins with the ROM's header. A second header around it would make a board that does not boot."""

    wrapped = rom_image.wrap(PROGRAM)
    for name, data in (("raw", PROGRAM), ("wrapped", wrapped), ("dump", wrapped + b"\xff" * 9_000_000)):
        (tmp_path / name).write_bytes(data)
        part = payload.firmware_part(str(tmp_path / name))
        assert part is not None and part.data == wrapped
    damaged = bytearray(wrapped)
    damaged[5000] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(UserError, match="with its flash header, but damaged"):
        payload.firmware_part(str(tmp_path / "damaged"))


def test_boards_with_their_own_maixpy_are_not_sent_to_another(tmp_path, capsys):
    """maixpy-minimum starts on an M5StickV, but its display stays dark."""

    for name, build in (
        ("m5stickv", "m5stickv-5.1.2"),
        ("amigo", "amigo-0.5.1-92"),
        ("dock", "maixpy-minimum"),
        (
            "cube",
            "maixpy-minimum",
        ),  # It needs no build of its own, only MaixPy_scripts' config_maix_cube.py.
    ):
        session = SimulatedSession(tmp_path / name, with_maixpy=False)
        board = known_boards.BOARDS[name]
        with pytest.raises(UserError, match="no MaixPy runs on it") as caught:
            Flasher(BoardTransport(session.board), board=board).run(Wanted())
        assert re.findall(r"--firmware ([\w.-]+)", str(caught.value)) == [build]
        with pytest.raises(UserError, match="no MaixPy runs on it") as caught:
            info.ask(Flasher(BoardTransport(session.board), board=board))
        assert re.findall(r"--firmware ([\w.-]+)", str(caught.value)) == [build]


def test_a_silent_board_that_nobody_has_named_is_told_every_boards_build(tmp_path):
    """With --board auto the message once named only maixpy-minimum, with which an M5StickV's display stays dark."""

    session = SimulatedSession(tmp_path, with_maixpy=False)
    with pytest.raises(UserError, match="no MaixPy runs on it") as caught:
        Flasher(BoardTransport(session.board)).run(Wanted())
    assert all(profile.maixpy in str(caught.value) for profile in PROFILES.values())


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_blank_emulated_board_is_told_its_own_build(tmp_path, profile):
    """`sim board --board emu --blank --profile m5stickv`, and flash.py after it, once named maixpy-minimum."""

    session = open_session(BoardChoice("emu", profile=profile, with_maixpy=False), tmp_path, scene_camera())
    session.close()
    line = flash.open_line(flash.arguments(["--board", "emu", "--state", str(tmp_path), "--images", "scene"]), Show())
    line.close()
    assert line.board.maixpy_remedy.endswith(f"--firmware {PROFILES[profile].maixpy}")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"version": "v0.3.2", "is_m5stickv": True}, ("too old", "m5stickv-5.1.2")),
        ({"version": "v0.3.2"}, ("too old", "maixpy-minimum")),
        ({"version": "v1.0.7", "has_kpu": False, "is_canmv": True}, ("without the KPU module", "CanMV's lite build")),
        ({"version": "v0.6.2", "has_kpu": False}, ("without the KPU module", "maixpy-minimum")),
    ],
)
def test_an_unsuitable_build_names_one_that_runs_on_that_board(tmp_path, facts, words):
    """The owner of an M5StickV must never be told to install a build with which the display stays dark."""

    usual: dict[str, Any] = {"machine": "", "has_kpu": True, "has_flash_read": True, "run_dir": "/flash", "files": ()}
    info = BoardInfo(**{**usual, "free_bytes": 0, "firmware_end_bytes": 0, **facts})
    flasher = Flasher(BoardTransport(SimulatedSession(tmp_path).board))
    with pytest.raises(UserError) as caught:
        flasher._check_build(info, Wanted())
    assert all(word in str(caught.value) for word in words)


# What each kind of board answers, and which builds of the catalogue run on it.
KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "bit": ({}, {"maixpy-minimum"}),
    "m5stickv": ({"is_m5stickv": True}, {"m5stickv-5.1.2"}),
    "unitv": ({"is_m5stickv": True}, {"m5stickv-5.1.2"}),
    "amigo_tft": ({"board_type": "amigo_tft"}, {"amigo-0.5.1-92"}),
    "amigo_ips": ({"board_type": "amigo_ips"}, {"amigo-0.5.1-92"}),
    "cube": ({"board_type": "cube"}, {"maixpy-minimum"}),
    "twatch": ({"is_twatch": True}, {"twatch-0.6.2-75", "lilygo-m1-0.6.2-35"}),  # The message names the board of each.
    "lilygo_m1": ({"is_twatch": True}, {"twatch-0.6.2-75", "lilygo-m1-0.6.2-35"}),
    "canmv": ({"is_canmv": True, "board_type": "01studio"}, {"canmv-lite-1.0.7"}),
    "canmv_dnk210": ({"is_canmv": True, "board_type": "alientek"}, {"canmv-dnk210-lite-1.0.7"}),
}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_no_message_names_a_build_that_would_not_run_there(tmp_path, profile):
    """Every refusal, for every board, says what to do, and each build that it names runs on that very board."""

    facts, runs = KINDS[profile]
    usual: dict[str, Any] = {"machine": "", "has_kpu": True, "has_flash_read": True, "run_dir": "/flash", "files": ()}
    flasher = Flasher(BoardTransport(SimulatedSession(tmp_path).board))
    part = FlashPart("posenet.kmodel", 0x300000, b"\x03\0\0\0")
    refusals = []
    for wrong in ({"version": "v0.3.2"}, {"version": "v0.6.2", "has_kpu": False}, {"version": "v0.6.2"}):
        info = BoardInfo(**{**usual, "free_bytes": 0, "firmware_end_bytes": 0x380000, **facts, **wrong})
        with pytest.raises(UserError) as caught:
            flasher._check_build(info, Wanted())
            flasher._check_overlap(info, Wanted([part]))
        refusals.append(str(caught.value))
    assert [words in text for words, text in zip(("too old", "KPU", "overwrite"), refusals, strict=True)] == [True] * 3
    for text in refusals:
        named = {
            entry.name for entry in catalog.FIRMWARE if re.search(rf"(?<![\w-]){re.escape(entry.name)}(?![\w-])", text)
        }
        assert named <= runs and "--firmware" in text, text


def test_a_new_emulated_board_starts_from_the_image_given(tmp_path, monkeypatch):
    """It once asked for maixpy-minimum, which the user had not named and might not have."""
    path = tmp_path / "my.bin"
    path.write_bytes(PROGRAM)
    monkeypatch.setattr(catalog, "obtain", lambda entry: pytest.fail("asked for another image"))
    options = flash.arguments(
        ["--board", "emu", "--firmware", str(path), "--state", str(tmp_path / "board"), "--images", "scene"]
    )
    line = flash.open_line(options, Show())
    try:
        memory = vars(line.transport)["board"].flash.memory
        assert bytes(memory[5 : 5 + len(PROGRAM)]) == PROGRAM
    finally:
        line.close()


# -- ports ---------------------------------------------------------------------------------------------------


def port(device, vendor=0x1A86, product=0x7523, serial="", location="1-1"):
    return Port(device, "", vendor, product, serial, location)


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_single_board_is_chosen_and_why_is_said():
    """With one K210 bridge among other ports nobody should have to choose, but everybody should see what was chosen."""
    other = port("/dev/ttyS0", None, None)
    chosen, why = choose_port(known_boards.ANY_BOARD, [other, port("/dev/ttyUSB0")])
    assert chosen.device == "/dev/ttyUSB0" and "1a86:7523" in why and "bit" in why


def test_no_board_and_several_boards_are_explained():
    """The message says what to do if nothing is connected, or how to choose one of several boards."""
    with pytest.raises(UserError, match="no board is connected.*cable"):
        choose_port(known_boards.ANY_BOARD, [port("/dev/ttyS0", None, None)])
    two = [port("/dev/ttyUSB0", location="1-1"), port("/dev/ttyUSB1", location="1-2")]
    with pytest.raises(UserError, match="ttyUSB0.*ttyUSB1.*--port"):
        choose_port(known_boards.ANY_BOARD, two)


def test_of_a_double_bridge_the_k210s_port_is_taken():
    """A Go's K210 is on the second port of its FT2232, a Maixduino's on the first."""
    pair = [
        port("/dev/ttyUSB0", 0x0403, 0x6010, "A", "1-1:1.0"),
        port("/dev/ttyUSB1", 0x0403, 0x6010, "A", "1-1:1.1"),
    ]
    assert choose_port(known_boards.BOARDS["go"], pair)[0].device == "/dev/ttyUSB1"
    assert choose_port(known_boards.BOARDS["maixduino"], pair)[0].device == "/dev/ttyUSB0"


def test_what_worked_is_remembered():
    """The wiring that answered is tried first next time, and tells which of two boards is meant."""
    two = [port("/dev/ttyUSB0", serial="A"), port("/dev/ttyUSB1", serial="B", location="1-2")]
    known_boards.remember(two[1], "bit", "kd233")
    assert wirings_for(known_boards.ANY_BOARD, two[1])[0] == "kd233"
    assert wirings_for(known_boards.ANY_BOARD, two[0])[0] == "dan"
    assert choose_port(known_boards.ANY_BOARD, two) == (two[1], "used last time")
    known_boards.memory_path().write_text("damaged {")
    assert wirings_for(known_boards.ANY_BOARD, two[1])[0] == "dan"
    known_boards.remember(two[1], "bit", "goD")
    assert wirings_for(known_boards.BOARDS["bit"], two[1])[0] == "goD"


def test_ports_are_sorted_boards_first():
    """The list that people choose from begins with the ports that can be boards."""
    plain = {"serial_number": None, "location": None}
    found = [
        types.SimpleNamespace(device="/dev/ttyS0", description="n/a", vid=None, pid=None, **plain),
        types.SimpleNamespace(device="/dev/ttyUSB9", description="CH340", vid=0x1A86, pid=0x7523, **plain),
    ]
    assert [entry.device for entry in serial_ports(found)] == ["/dev/ttyUSB9", "/dev/ttyS0"]


def test_ports_are_in_the_order_of_their_numbers():
    """ttyUSB9 and ttyUSB10 are the first and second port of a double bridge; sorted as text they would be swapped."""
    found = [
        types.SimpleNamespace(
            device=f"/dev/ttyUSB{number}", description="", vid=0x0403, pid=0x6010, serial_number="A", location="1-1"
        )
        for number in (10, 9)
    ]
    ports = serial_ports(found)
    assert [entry.device for entry in ports] == ["/dev/ttyUSB9", "/dev/ttyUSB10"]
    assert choose_port(known_boards.BOARDS["go"], ports)[0].device == "/dev/ttyUSB10"


@pytest.mark.parametrize(
    "pair",
    [
        [port("COM4", 0x0403, 0x6010, "DT03A"), port("COM5", 0x0403, 0x6010, "DT03B")],
        [port("COM4", 0x0403, 0x6010, "DT03A", "1-2:x.0"), port("COM5", 0x0403, 0x6010, "DT03B", "1-2:x.0")],
        [port("USB0", 0x0403, 0x6010, "FTA", "1-1:1.0"), port("USB1", 0x0403, 0x6010, "FTA", "1-1:1.1")],
        [port("USB0", 0x0403, 0x6010, "", "1-1:1.0"), port("USB1", 0x0403, 0x6010, "", "1-1:1.1")],
    ],
)
def test_a_double_bridge_is_one_adapter_with_two_channels(pair):
    """Windows shows two serial numbers that end in A and B, Linux shows two interfaces.

    The channel that worked is remembered, and not only the adapter.
    """
    assert pair[0].adapter == pair[1].adapter
    assert choose_port(known_boards.BOARDS["go"], pair)[0] is pair[1]
    assert known_boards.other_channels(pair[1], pair) == [pair[0]]
    known_boards.remember(pair[0], "go", "kd233")
    assert choose_port(known_boards.BOARDS["go"], pair) == (pair[0], "used last time")
    assert known_boards.remembered(pair[1]) == {}


def test_two_boards_are_not_two_channels():
    """Two separate boards can have serial numbers that end in A and B as well."""
    two = [port("COM4", serial="DT03A"), port("COM5", serial="DT03B")]
    assert known_boards.other_channels(two[0], two) == []
    with pytest.raises(UserError, match="several boards"):
        choose_port(known_boards.ANY_BOARD, two)


def test_a_silent_first_port_is_followed_by_the_second(build, tmp_path, monkeypatch, capsys):
    """Some Go boards answer on the other port of their bridge, and nobody should have to know which."""

    pair = [port("one", 0x0403, 0x6010, "A", "1-1:1.0"), port("two", 0x0403, 0x6010, "A", "1-1:1.1")]
    sessions = {
        "one": SimulatedSession(tmp_path / "one", faults=Faults.parse(["dead"])),
        "two": SimulatedSession(tmp_path / "two"),
    }
    monkeypatch.setattr(flash, "serial_ports", lambda: pair)
    monkeypatch.setattr(flash, "SerialTransport", lambda device: BoardTransport(sessions[device].board, device))
    try:
        assert flash.main(["--model", str(build), "--no-start"]) == 0
        out = capsys.readouterr().out
        assert "one does not answer, trying two" in out and "remembered two" in out
        pair.pop()
        assert flash.main(["--model", str(build), "--no-start"]) == 1
        assert "one: the K210 does not answer" in capsys.readouterr().err
    finally:
        for session in sessions.values():
            session.board.power_off()


def test_linux_without_a_port_names_who_took_it(tmp_path):
    """Ubuntu's brltty takes CH340 and CP210x bridges. Without it a driver is missing. With a port all is well."""
    device = tmp_path / "usb" / "1-1"
    (device / "1-1:1.0").mkdir(parents=True)
    (device / "idVendor").write_text("1a86\n")
    (device / "idProduct").write_text("7523\n")
    rule = tmp_path / "85-brltty.rules"
    assert "driver is not loaded" in known_boards.why_no_port(tmp_path / "usb", [rule])
    rule.touch()
    assert "sudo apt remove brltty" in known_boards.why_no_port(tmp_path / "usb", [rule])
    (device / "1-1:1.0" / "ttyUSB0").mkdir()
    assert known_boards.why_no_port(tmp_path / "usb", [rule]) == ""
    assert known_boards.why_no_port(tmp_path / "nothing", [rule]) == ""


WINDOWS = "could not open port 'COM3': {}({}, '{}', None, {})"


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (OSError(WINDOWS.format("PermissionError", 13, "Access is denied.", 5)), "in use", "close that program"),
        (OSError(WINDOWS.format("PermissionError", 13, "Zugriff verweigert", 5)), "in use", "close that program"),
        (OSError(WINDOWS.format("OSError", 22, "Ein Gerät funktioniert nicht", 31)), "does not work", "driver"),
        (OSError(WINDOWS.format("OSError", 22, "The semaphore timeout period", 121)), "does not work", "cable"),
        (OSError(WINDOWS.format("FileNotFoundError", 2, "Datei nicht gefunden", 2)), "no such port", "ports"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission", "dialout"),
        (OSError(errno.EBUSY, "Device or resource busy"), "in use", "close that program"),
        (OSError(errno.ENOENT, "No such file or directory"), "no such port", "ports"),
        (OSError(errno.EIO, "Input/output error"), "cannot be opened", "cable"),
    ],
)
def test_port_failures_name_cause_and_remedy(error, cause, remedy):
    """Each way in which a port cannot be opened has its own remedy."""
    text = str(open_failure("/dev/ttyUSB0", error))
    assert cause in text and remedy in text and "\n" not in text


def test_busy_port_names_the_program(tmp_path):
    """Somebody has a terminal open on the port and has forgotten it."""
    path = tmp_path / "port"
    path.touch()
    holder = subprocess.Popen(["sleep", "30"], stdin=path.open())
    try:
        assert f"sleep (pid {holder.pid})" in str(open_failure(str(path), OSError(errno.EBUSY, "busy")))
    finally:
        holder.kill()
        holder.wait()


def test_the_commands_ports_and_info_give_json(tmp_path):
    """Scripts read both; `info` reads a board over a real port."""

    listed = subprocess.run(
        [sys.executable, "-m", "host_tools", "ports", "--json"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert isinstance(json.loads(listed.stdout), list)
    session = SimulatedSession(tmp_path / "board")
    live = LiveBoard(session.board)
    line = Rfc2217Line(live)
    live.start()
    try:
        told = subprocess.run(
            [sys.executable, "-m", "host_tools", "info", "--json", "--port", line.url],
            capture_output=True, text=True, cwd=ROOT, timeout=120,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        facts = json.loads(told.stdout)
        assert facts["maixpy"].startswith("v0.6.3") and facts["network"] == "none" and facts["run_folder"] == "/flash"
    finally:
        line.close()
        live.stop()


def test_trace_shows_long_writes_shortened(tmp_path):
    """A trace of a megabyte would be unreadable."""

    with (tmp_path / "trace").open("w") as file:
        wire = QuietLine()
        TracingTransport(wire, file).write(bytes(70_000))
    assert len(wire.written) == 70_000
    assert len((tmp_path / "trace").read_text()) < 1000


@pytest.mark.slow
def test_a_board_on_its_side_finds_upright_people(tmp_path):
    """With --mount 90 the camera sees the scene turned. Every nose must lie in the upper half of 192x256."""
    done = run("--board", "sim", "--model", "demo", "--mount", 90, "--frames", 3, "--state", tmp_path / "board")
    assert done.returncode == 0, done.stderr
    noses = [tuple(map(int, place)) for place in re.findall(r"nose (\d+),(\d+)", done.stdout)]
    assert noses and all(x < 192 and y < 128 for x, y in noses)


def test_the_report_names_the_computer_and_the_board(tmp_path):
    """An issue asks for --report: versions and the board's own words. It writes nothing to an empty board."""
    done = run("--report", "--board", "sim", "--state", tmp_path / "board")
    assert done.returncode == 0 and done.stderr == ""
    assert "Python        3." in done.stdout and "maixpy" in done.stdout and "settings.json (none)" in done.stdout
    assert "network       none" in done.stdout
