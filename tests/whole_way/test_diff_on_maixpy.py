"""diff on stock MaixPy in the K210 emulator, with MaixPy's own image library, UART, heap and MicroPython."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.firmware_py_mpy import compiled, installed, with_imports
from benchmarks.synthetic_kmodel import write_build
from host_tools.board_frames import measure
from host_tools.board_link import protocol, start_target
from host_tools.diff import compare
from host_tools.expected_stages import StageSimulator
from host_tools.repl import RawRepl
from model_build.engines.kpu import KpuEngine
from model_build.network import HEADS
from tests.support.images import firmware_image

pytestmark = pytest.mark.slow


@pytest.mark.firmware_image
def test_every_stage_is_equal_on_stock_maixpy(tmp_path):
    """MaixPy's own pix_to_ai, closed KPU library and drawing must equal ours, and pix_ai is found in its real images.

    Its UART also agrees to 1.5 Mbaud, its ring buffer does not overflow, and at least 80 % of the line is used at one
    cycle per instruction.
    """
    from sim.k210.k210_board import K210Board

    build = write_build(tmp_path / "small")
    manifest = json.loads((build / "posenet.json").read_text())
    kmodel = (build / "posenet.kmodel").read_bytes()
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (600, 800, 3)).astype(np.uint8)
    board = K210Board(firmware_image().read_bytes(), source=lambda w, h: noise[:h, :w])
    transport = installed(board, build, compiled(with_imports("posenet", "boards", "drawing"))).transport

    link = start_target(transport)
    assert link.speed_up() == 1_500_000
    engine = KpuEngine(kmodel)
    right = StageSimulator(manifest, lambda planes: dict(zip(HEADS, engine.run(planes), strict=True)))
    for name, picture in (("sent", rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)), ("camera", None)):
        frame = measure(link, name, picture, manifest)
        result = compare(frame, right.simulate(frame), manifest)
        assert {stage.stage: stage.equal for stage in result.stages} == dict.fromkeys(
            ("input", *HEADS, "decoder", "drawing"), True
        )
    assert link.info()["double_buffer"] is True
    begin = transport.now()
    link.get(protocol.PLANES, 3 * 64 * 48)
    assert 3 * 64 * 48 * 10 / 1_500_000 / (transport.now() - begin) > 0.8
    assert link.line_figures()["errors"] == 0 and link.info()["line"]["errors"] == 0
    link.close()
    assert RawRepl(transport).try_enter()
