"""CanMV's own image on the emulated chip. Its KPU class gives one output of four, and ours finds them all.

The image belongs to the user. It is found by SHA-256 in MAIX_POSENET_DATA or the cache, and no test downloads it.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from benchmarks.firmware_py_mpy import compiled, with_imports
from benchmarks.synthetic_kmodel import make_model, write_build
from host_tools.board_link import PROBE, start_target
from host_tools.board_session import emulated_board
from host_tools.repl import STARTS, BoardRaisedError, RawRepl
from model_build.engines.kpu import KpuEngine
from sim.k210.emulated_session import EmulatedSession
from sim.k210.k210_board import K210Board
from sim.k210.profiles import PROFILES
from sim.parts.board_transport import BoardTransport
from tests.support.images import firmware_image

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image, pytest.mark.xdist_group("k210-maixpy")]

ADDRESS = 0x300000


def test_all_heads_of_live_frames_are_the_engines(tmp_path):
    """The kmodel is checked in flash and found in memory, and every head of two live frames is what the engine
    computes.

    A KPU object that differs from the known one is refused and not followed.
    """
    image = firmware_image(PROFILES["canmv"].maixpy)
    noise = np.random.default_rng(3).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    board = K210Board(image.read_bytes(), source=lambda w, h: noise[:h, :w], profile=PROFILES["canmv"])
    build = write_build(tmp_path)
    kmodel = (build / "posenet.kmodel").read_bytes()
    board.flash.memory[ADDRESS : ADDRESS + len(kmodel)] = kmodel
    repl = RawRepl(BoardTransport(board))
    assert repl.enter_after_reset()
    info = repl.info()
    assert info.is_canmv and info.has_kpu and info.has_flash_read and info.version_numbers >= (1, 0, 5)
    assert repl.flash_crc32(ADDRESS, len(kmodel)) == zlib.crc32(kmodel)

    repl.install({**compiled(with_imports("posenet")), "posenet.json": (build / "posenet.json").read_bytes()}, info)
    repl.ask("from posenet import PoseNet\nn = PoseNet()\nn.setup_camera()", timeout_s=60)
    assert repl.ask("import maixpy_api\n_r = (n.checked, maixpy_api.board_of_build())") == ("in flash", "canmv")
    assert repl.ask("_r = _u.crc32(n._model.loaded()) & 0xffffffff") == zlib.crc32(kmodel)
    manifest = json.loads((build / "posenet.json").read_text())
    width, height = manifest["input"]["width"], manifest["input"]["height"]
    engine = KpuEngine(make_model(width, height))
    wanted = engine.run(np.ascontiguousarray(noise[:height, :width].transpose(2, 0, 1)))
    for _ in range(2):
        heads = repl.ask("img = n.snapshot()\nn.poses(img)\n_r = [bytes(h) for h in n._heads]", timeout_s=60)
        assert heads == [head.tobytes() for head in wanted]

    with pytest.raises(BoardRaisedError, match="ValueError: CanMV v1.0.* is not known"):
        repl.ask("n._model._size += 1\nn._model.heads((0,), img)")
    repl.ask("n._model._size -= 1\nn.deinit()")


def test_a_new_board_is_let_start_before_it_is_interrupted(tmp_path):
    """A new board writes its config.json and restarts. Interrupted in that, CanMV hung, and diff found no prompt."""
    EmulatedSession(tmp_path, firmware_image(PROFILES["canmv"].maixpy), profile="canmv").close()
    repl = RawRepl(emulated_board(tmp_path))
    assert repl.try_enter()
    assert repl.info().board_type == "01studio"
    repl.install({"main.py": b"import utime\nprint('posenet: starts in 500 ms')\nutime.sleep_ms(5000)\n"}, repl.info())
    repl.start_main()
    assert repl.read_until(STARTS, 10) is not None
    link = start_target(repl.transport, program=PROBE)  # diff does this and once found no prompt either.
    assert link.board["system"].startswith("v1.0")
