"""The same firmware on stock MaixPy itself, in the K210 emulator: MicroPython 1.11, the closed KPU library.

Modules go there as .mpy: a third of the bytes over the emulated serial line, and the proof that MaixPy loads them.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.firmware_py_mpy import compiled
from host_tools.firmware_modules import FIRMWARE_DIR
from host_tools.repl import RawRepl
from model_build import catalog
from tests.conftest import absent
from tests.small_kmodel import write_build

MODULES = ("app", "boards", "decoder", "lines", "posenet", "screen", "tracker")


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    """A booted board at its raw prompt with the firmware's files in /flash, and the build it has."""
    from sim.k210.board import EmulatorTransport, K210Board

    entry = catalog.find("maixpy-minimum", "firmware")
    image = catalog.locate(entry) if entry else None
    if image is None:
        absent("firmware_image", "the MaixPy image maixpy-minimum")
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    board = K210Board(image.read_bytes(), source=lambda w, h: noise[:h, :w])
    build = write_build(tmp_path_factory.mktemp("build"))
    kmodel = (build / "posenet.kmodel").read_bytes()
    board.flash.memory[0x300000 : 0x300000 + len(kmodel)] = kmodel
    repl = RawRepl(EmulatorTransport(board))
    assert repl.enter_after_reset()
    files = {f"{name}.mpy": compiled(name, build) for name in MODULES}
    files["main.py"] = (FIRMWARE_DIR / "main.py").read_bytes()
    files["posenet.json"] = (build / "posenet.json").read_bytes()
    files["settings.json"] = b'{"start_delay_ms": 100, "repl": true, "boxes": true, "names": true, "threshold": 30}'
    repl.install(files, repl.info())
    return board, repl


@pytest.mark.slow
@pytest.mark.firmware_image
def test_application_and_examples_run_on_maixpy(prompt):
    """main.py after a soft reset: numbered lines come and the LCD shows the frame. Then each example for two frames: no
    construct that only a later MicroPython knows, no function that MaixPy has not."""
    board, repl = prompt
    repl.start_main()
    said = b""
    end = repl.transport.now() + 30
    while said.count(b'"seq"') < 4 and repl.transport.now() < end:
        said += repl.transport.read(0.2)
    whole = [line for line in said.decode(errors="replace").split("\r\n")[:-1] if line.startswith('{"seq"')]
    lines = [json.loads(line) for line in whole[:3]]
    assert [line["seq"] for line in lines] == [1, 2, 3], said[-500:]
    assert all(len(line["poses"][0]["keypoints"]) == 17 for line in lines if line["poses"])
    picture = board.lcd_image()
    assert np.count_nonzero(picture.any(axis=2)) > 64 * 48 * 0.9

    assert repl.try_enter()
    for file in sorted((FIRMWARE_DIR / "examples").glob("*.py")):
        source = file.read_text()
        assert source.rstrip().endswith(".run()")
        source = source.rstrip().removesuffix(".run()") + ".run(frames=2)\n"
        program = f"n = {{'__name__': 'example'}}\nexec({source!r}, n)\n_r = n['App'] is not None\n"
        assert repl.ask(program, timeout_s=60) is True, file.name
