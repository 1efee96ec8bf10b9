"""Boards that last: who may use one, and what its camera may be."""

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
