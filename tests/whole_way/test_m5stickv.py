"""M5Stack's own MaixPy on an emulated M5StickV, which starts only boot.py and cannot read its flash.

The package belongs to the user. It is found by SHA-256 in MAIX_POSENET_DATA or the cache, and no test downloads it.
"""

from __future__ import annotations

import json
import zlib

import pytest

from benchmarks.synthetic_kmodel import write_build
from common.flash_parts import FlashPart
from host_tools import m5stickv
from host_tools.flashing import Flasher, Ui, Wanted
from model_build import catalog
from sim.k210.emulated_session import EmulatedSession
from sim.parts.board_transport import BoardTransport
from tests.support.images import firmware_image

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image, pytest.mark.xdist_group("k210-maixpy")]

OURS = b"print('ours', open('posenet.json').read()[:1])\n"


@pytest.mark.parametrize("name", ["lilygo-m1-0.6.2-35", "twatch-0.5.0-44"])
def test_ours_starts_on_lilygos_builds(tmp_path, name):
    """From their second start on, these builds ran only their own boot.py. --restore gives that one back."""
    profile = "lilygo_m1" if "m1" in name else "twatch"
    session = EmulatedSession(tmp_path / "board", firmware_image(name), profile=profile)
    session.board.power_on()
    session.board.run_for(3)  # The build needs this time to write its boot.py.
    flasher = Flasher(BoardTransport(session.board))
    assert flasher.reach_repl()
    own = flasher.repl.ask("_r = open('boot.py').read()")
    assert isinstance(own, str) and "Welcome to MaixPy" in own
    manifest = (write_build(tmp_path / "build") / "posenet.json").read_bytes()
    flasher.run(Wanted([], {"main.py": OURS, "posenet.json": manifest}))
    session.board.power_on()
    session.board.run_until_output(b"ours {", 10)
    assert flasher.reach_repl()
    flasher.restore(["main.py", "posenet.json"])
    assert flasher.repl.ask("_r = open('boot.py').read()") == own


def test_ours_starts_and_the_factory_program_comes_back(tmp_path):
    """Ours starts by boot.py, the factory's kmodel stays, and --restore gives its boot.py back byte for byte.

    The factory's program is the one that M5Stack's build itself writes at its first start.
    """
    package = firmware_image(catalog.M5STICKV_MAIXPY)
    session = EmulatedSession(tmp_path / "board", package, profile="m5stickv")
    memory = session.board.flash.memory
    factory_model = bytes(memory[0x300000:0x400000])
    assert factory_model[:4] == b"\x03\0\0\0"
    said: list[str] = []
    flasher = Flasher(BoardTransport(session.board), ui=Ui(said.append, said.append))
    session.board.power_on()
    session.board.run_for(3)  # The build needs this time to write and start its boot.py.
    assert flasher.reach_repl()
    factory = flasher.repl.ask("_r = open('boot.py').read()")
    assert isinstance(factory, str) and "KPU" in factory and not factory.startswith(m5stickv.MARK)

    build = write_build(tmp_path / "build")
    kmodel = (build / "posenet.kmodel").read_bytes()
    files = {"main.py": OURS, "posenet.json": (build / "posenet.json").read_bytes()}
    wanted = Wanted([FlashPart("posenet.kmodel", 0x300000, kmodel)], files)
    result = flasher.run(wanted)
    assert result.info is not None and result.info.is_m5stickv and not result.info.has_flash_read
    assert bytes(memory[0x300000:0x400000]) == factory_model
    assert bytes(memory[m5stickv.KMODEL_ADDRESS :][: len(kmodel)]) == kmodel
    assert any("1 part(s) read back right" in line for line in said)
    manifest = flasher.repl.ask("_r = open('posenet.json').read()")
    assert json.loads(str(manifest))["kmodel"]["flash_address"] == m5stickv.KMODEL_ADDRESS
    assert flasher.repl.loaded_crc32(m5stickv.KMODEL_ADDRESS) == (len(kmodel), zlib.crc32(kmodel))
    assert flasher.repl.loaded_crc32(0x900000) is None
    lines: list[str] = []

    def is_ours(line: str) -> bool:
        lines.append(line)
        return "ours {" in line

    flasher.start(is_ours)

    # A second run writes nothing and does not mistake our boot.py for the factory's.
    assert flasher.reach_repl()
    again = Flasher(flasher.transport).run(wanted)
    assert not again.written_parts and not again.written_files
    flasher.restore(["main.py", "posenet.json"])
    assert flasher.repl.ask("_r = open('boot.py').read()") == factory
    names = flasher.repl.ask("import uos\n_r = uos.listdir()")
    assert isinstance(names, list) and not {"main.py", "posenet.json", m5stickv.FACTORY_BOOT} & set(names)
    assert bytes(memory[0x300000:0x400000]) == factory_model
