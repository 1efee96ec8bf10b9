"""Boards that last: who may use one, and what its camera may be."""

import json
import zipfile

import pytest

from common.errors import UserError
from sim.open_board import BoardChoice, open_session
from sim.parts.camera_source import open_camera, scene_camera


def test_a_session_that_ended_leaves_the_folder_free(tmp_path):
    """A board that could not be opened must not lock its folder either."""
    (tmp_path / "flash.bin").write_bytes(b"short")
    for _ in range(2):
        with pytest.raises(UserError, match="has 5 bytes"):
            open_session(BoardChoice("sim"), tmp_path, scene_camera())
    (tmp_path / "flash.bin").unlink()
    session = open_session(BoardChoice("sim"), tmp_path, scene_camera())
    with pytest.raises(UserError, match="in use by another run"):
        open_session(BoardChoice("sim"), tmp_path, scene_camera())
    session.forget()
    open_session(BoardChoice("sim"), tmp_path, scene_camera()).close()


def test_a_webcam_that_is_not_there_is_one_line(capfd):
    """OpenCV writes lines of its own, past Python, which must not reach the terminal."""
    with pytest.raises(UserError, match="webcam:73: no camera answers"):
        open_camera("webcam:73")
    assert capfd.readouterr() == ("", "")


def test_a_package_that_goes_beyond_the_flash_is_one_line(tmp_path):
    """Once such a package made the emulated flash longer, and the chip then ended in a traceback."""
    package = tmp_path / "long.kfpkg"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("a.bin", bytes(9000))
        listed = {"address": 0xFFF000, "bin": "a.bin", "sha256Prefix": False}
        archive.writestr("flash-list.json", json.dumps({"version": "0.1.0", "files": [listed]}))
    with pytest.raises(UserError, match="0xFFF000…0x1001328 goes beyond the flash"):
        open_session(BoardChoice("emu", firmware=package), tmp_path / "board", scene_camera())


@pytest.mark.parametrize("text", ["", "[]", '{"profile": 5}', '{"profile": ["m5stickv"]}'])
def test_a_damaged_board_file_is_one_line(tmp_path, text):
    """Once a board whose file did not name its kind became a Maix Bit, or the emulator ended in a traceback."""
    open_session(BoardChoice("emu", profile="m5stickv"), tmp_path, scene_camera()).close()
    (tmp_path / "board.json").write_text(text)
    with pytest.raises(UserError, match="board.json is damaged; remove it, and tell which board it was: --profile"):
        open_session(BoardChoice("emu"), tmp_path, scene_camera())


@pytest.mark.parametrize(("name", "says"), [("", "is not a file"), ("missing.img", "does not exist")])
def test_a_card_that_cannot_be_one_is_named_as_what_it_is(tmp_path, name, says):
    """Once the message called a file that does not exist a folder."""
    with pytest.raises(UserError, match=f"{says}; give the emulated board the image file of a card"):
        open_session(BoardChoice("emu", sd=tmp_path / name), tmp_path / "board", scene_camera())
