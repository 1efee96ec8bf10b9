"""`flash.py --kfpkg` makes one file for people who have a flasher and no Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flash
from benchmarks.synthetic_kmodel import write_build
from common import kfpkg, spiffs
from common.flash_map import FILES_ADDRESS, FILES_BYTES, KMODEL_ADDRESS
from common.flash_parts import FlashPart
from common.pose_lines import poses_in
from host_tools import m5stickv
from host_tools.payload import of_package, own_scripts
from host_tools.repl_programs import BOOT
from model_build.inspect.read_file import describe
from sim.boards.simulated_session import SimulatedSession
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import open_camera


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return write_build(tmp_path / "small")


def packed(build: Path, *options: str) -> tuple[Path, dict[int, bytes], dict[str, bytes]]:
    """The package of a build: its path, its bytes by address, and the files of the file system inside."""
    package = build.parent / "poses.kfpkg"
    assert flash.main(["--kfpkg", str(package), "--model", str(build), *options]) == 0
    parts = {part.address_bytes: part.data for part in kfpkg.read(package)}
    return package, parts, spiffs.files(parts[FILES_ADDRESS]) if FILES_ADDRESS in parts else {}


def test_a_package_contains_all_that_a_board_needs(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kmodel, scripts, posenet.json and settings are inside, and inspect lists them.

    The command says what will be lost on the board, and that the package contains no MaixPy.
    """
    package, parts, files = packed(build, "--board", "dock")
    said = capsys.readouterr().out
    assert "REPLACES everything in the board's /flash" in said and "must have MaixPy already" in said
    assert parts.keys() == {KMODEL_ADDRESS, FILES_ADDRESS} and len(parts[FILES_ADDRESS]) == FILES_BYTES
    assert parts[KMODEL_ADDRESS] == (build / "posenet.kmodel").read_bytes()
    assert json.loads(files.pop("settings.json")) == {"repl": True, "board": "dock"}
    assert files == {**own_scripts(), "posenet.json": (build / "posenet.json").read_bytes()}
    tables = {table.title: table.rows for table in describe(package).tables}
    assert ("main.py", len(files["main.py"])) in tables["files on /flash"]


def test_flash_py_copies_the_files_of_a_package_one_by_one(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --model PACKAGE the board keeps its other files and its settings."""
    package, _, files = packed(build)
    capsys.readouterr()
    assert flash.main(["--dry-run", "--model", str(package)]) == 0
    said = capsys.readouterr().out
    assert "files on /flash" in said and "maixpy-files.bin" not in said and "settings.json" not in said
    assert all(name in said for name in files if name != "settings.json")


def test_packages_of_others_can_be_read(tmp_path: Path) -> None:
    """A file system without our posenet.json is a part like any other, and damage in one part hides no other part."""
    package = tmp_path / "x.kfpkg"
    for image in (spiffs.image({"ding.wav": b"RIFF"}), b"other"):
        kfpkg.write(package, [FlashPart("files.img", FILES_ADDRESS, image)])
        payload = of_package(package)
        assert payload.files == {} and [part.data for part in payload.parts] == [image]
        found = describe(package)
        assert ("files on /flash" in [table.title for table in found.tables]) == (image != b"other")
        assert len(found.notes) == 1


def test_without_scripts_nothing_of_flash_is_touched(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --no-start there are no scripts, so the package must not replace /flash."""
    _, parts, _ = packed(build, "--no-start")
    assert parts.keys() == {KMODEL_ADDRESS} and "/flash stays as it is" in capsys.readouterr().out


def test_an_m5stickvs_package_has_a_boot_py_and_another_address(build: Path) -> None:
    """M5Stack's builds start only boot.py, and their face detector lies where other boards have our kmodel."""
    _, parts, files = packed(build, "--board", "m5stickv")
    assert parts.keys() == {m5stickv.KMODEL_ADDRESS, FILES_ADDRESS}
    assert files[BOOT] == m5stickv.boot_program()
    assert json.loads(files["posenet.json"])["kmodel"]["flash_address"] == m5stickv.KMODEL_ADDRESS


def test_packages_that_could_not_work_are_refused(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An Amigo's display needs a file that would be lost, and a size that no camera gives would show nothing."""
    package = build.parent / "x.kfpkg"
    assert flash.main(["--kfpkg", str(package), "--model", str(build), "--board", "amigo"]) == 2
    large = write_build(build.parent / "large", 512, 256)
    assert flash.main(["--kfpkg", str(package), "--model", str(large)]) == 2
    errors = capsys.readouterr().err
    assert "config.json" in errors and "512x256: the camera gives" in errors and not package.exists()


def test_parts_in_flash_and_a_start_are_enough(build: Path, tmp_path: Path) -> None:
    """The simulated board takes over the file system as MaixPy does: old files are gone, and pose lines come by
    themselves.

    tests/whole_way/test_package_on_maixpy.py does the same with the real kflash and MaixPy.
    """
    _, parts, files = packed(build)
    session = SimulatedSession(tmp_path / "board", open_camera("scene:1"))
    (session.flash_dir / "mine.py").write_text("print('mine')")
    for address, data in parts.items():
        session.flash.memory[address : address + len(data)] = data
    transport = BoardTransport(session.board)
    session.board.power_on()
    said = ""
    end = transport.now() + 20
    while not any(poses_in(line) is not None for line in said.split("\r\n")[:-1]):
        assert transport.now() < end, said[-500:]
        said += transport.read(0.1).decode("utf-8", "replace")
    session.board.power_off()
    assert "Spiffs Format" not in said
    assert {path.name: path.read_bytes() for path in session.flash_dir.iterdir()} == files
