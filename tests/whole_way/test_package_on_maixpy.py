"""A package alone makes a board show poses, with the real kflash and the real MaixPy in the K210 emulator.

The images belong to the user. They are found by SHA-256 in MAIX_POSENET_DATA or the cache, and no test downloads one.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

import flash
from common import rom_image, spiffs
from common.drawing import COLOURS
from common.flash_map import FILES_ADDRESS
from common.pose_lines import poses_in
from host_tools import m5stickv
from host_tools.bring_up import board_settings
from host_tools.payload import firmware_part, load_build, of_package
from host_tools.repl import RawRepl
from model_build import catalog
from model_build.build import build
from sim.k210.emulated_session import EmulatedSession
from sim.k210.k210_board import K210Board
from sim.k210.profiles import profile_named
from sim.live.line_server import LiveBoard, Rfc2217Line
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import open_camera
from tests.support.images import firmware_image
from tests.whole_way.test_real_tools import kflash

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image, pytest.mark.xdist_group("k210-maixpy")]


def packed(folder: Path, firmware: str) -> tuple[Path, Path]:
    """The build folder of a small network of rendered people, and its package with that MaixPy."""
    firmware_image(firmware)
    built = build("demo", 128, 96, out_dir=folder / "build").path
    package = folder / "poses.kfpkg"
    assert flash.main(["--kfpkg", str(package), "--model", str(built), "--firmware", firmware]) == 0
    return built, package


def shows_poses(board: K210Board) -> None:
    """Switch the board on. It must format nothing, send three lines with poses and draw skeletons on its LCD."""
    board.power_on()
    said = b""
    seen = 0
    while seen < 3:
        said += board.run_until_output(b"\n", 60)
        seen = sum(bool(poses_in(text)) for text in said.decode("utf-8", "replace").splitlines())
    assert b"Spiffs Format" not in said and b"Traceback" not in said
    board.run_for(0.1)
    lcd = board.lcd.image()
    limbs = [np.count_nonzero(abs(lcd.astype(int) - colour).max(axis=2) < 12) for colour in COLOURS]
    assert max(limbs) > 100, limbs


def test_kflash_and_a_package_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A blank board, kflash and the package give poses on line and LCD, and MaixPy reads every file back unchanged."""
    folder, package = packed(tmp_path, "maixpy-minimum")
    assert "REPLACES everything in the board's /flash" in capsys.readouterr().out
    session = EmulatedSession(tmp_path / "board", None, open_camera("scene:7"))
    assert set(session.flash.memory) == {0xFF}
    live = LiveBoard(session.board)
    line = Rfc2217Line(live)
    live.start()
    try:
        assert "rebooting" in kflash("-p", line.url, "-B", "dan", "-b", "1500000", str(package), timeout_s=600)
    finally:
        line.close()
        live.stop()

    shows_poses(session.board)

    files = {**load_build(folder)[1], "settings.json": board_settings("auto")}
    assert {**of_package(package).files, "settings.json": board_settings("auto")} == files
    repl = RawRepl(BoardTransport(session.board))
    assert repl.try_enter()
    wanted = {name: (len(data), zlib.crc32(data)) for name, data in files.items()}
    assert repl.file_states(list(files)) == wanted


def test_a_package_for_an_m5stickv_shows_poses(tmp_path: Path) -> None:
    """In the flash of a new M5StickV, M5Stack's build starts our boot.py and finds the model at its own place."""
    _, package = packed(tmp_path, catalog.M5STICKV_MAIXPY)
    session = EmulatedSession(tmp_path / "board", package, open_camera("scene:7"), profile="m5stickv")
    assert bytes(session.flash.memory[m5stickv.KMODEL_ADDRESS :][:4]) == b"\3\0\0\0"
    shows_poses(session.board)


def test_what_maixpy_writes_can_be_read() -> None:
    """MaixPy adds, replaces, empties and removes files in an image of ours, and our reader finds what the board has."""
    files = {f"{number}.txt": bytes([number]) * 3000 * number for number in range(6)}
    image = firmware_part(str(firmware_image("maixpy-minimum")))
    assert image is not None
    board = K210Board(rom_image.unwrap(image.data))
    board.flash.memory[FILES_ADDRESS:] = spiffs.image(files)
    board.power_on()
    board.run_until_output(b">>> ")  # Not interrupted: it writes its own main.py where there is none.
    repl = RawRepl(BoardTransport(board))
    assert repl.try_enter()
    changed = {"1.txt": b"", "2.txt": b"new" * 3000, "3.txt": files["3.txt"] + b"longer", "added.txt": b"\xff" * 5000}
    assert repl.install(changed, repl.info()) == list(changed)
    repl.remove_files(["5.txt"])
    del files["5.txt"]
    held = spiffs.files(bytes(board.flash.memory[FILES_ADDRESS:]))
    assert len(held.pop("freq.conf")) == 16 and b"Welcome to MaixPy" in held.pop("main.py")
    assert held == {**files, **changed}


BUILDS = sorted(entry.name for entry in catalog.FIRMWARE)


@pytest.mark.parametrize("name", BUILDS)
def test_every_build_accepts_the_file_system(name: str) -> None:
    """Every MaixPy and CanMV known here must find the image's files, and not format it, and run what is there."""
    part = firmware_part(str(firmware_image(name)))
    assert part is not None
    image = part.data
    program = b"print('of the image', len(open('data.bin').read()))\n"
    files = {"main.py": program, "data.bin": bytes(9000)}
    if m5stickv.is_image(image):
        files["boot.py"] = program
    kind = name.partition("-")[0]
    profiles = {"maixpy": "bit", "maixui": "bit", "amigo": "amigo_tft", "lilygo": "lilygo_m1"}
    board = K210Board(rom_image.unwrap(image), profile=profile_named(profiles.get(kind, kind)))
    board.flash.memory[FILES_ADDRESS:] = spiffs.image(files)
    board.power_on()
    said = board.run_until_output(b"of the image 9000", 60)
    assert b"Spiffs Format" not in said
    held = spiffs.files(bytes(board.flash.memory[FILES_ADDRESS:]))
    assert {name: held.get(name) for name in files} == files
