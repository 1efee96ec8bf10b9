"""The same firmware on stock MaixPy in the K210 emulator, with MicroPython 1.11 and the closed KPU library.

Modules go there as .mpy, which takes a third of the bytes on the emulated line and proves that MaixPy loads them.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from benchmarks.firmware_py_mpy import compiled, installed, with_imports
from benchmarks.synthetic_kmodel import write_build
from common.firmware_modules import FIRMWARE_DIR
from host_tools.repl import RawRepl
from tests.support import fat_image
from tests.support.images import firmware_image

pytestmark = pytest.mark.slow

KMODEL_ADDRESS = 0x300000
TRYING_AGAIN = "\nTrying again. Ctrl-C on the serial line gives the REPL."


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    """A booted board at its raw prompt with the firmware's files in /flash, and its snapshot."""
    from sim.k210.k210_board import K210Board

    noise = np.random.default_rng(1).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    board = K210Board(firmware_image().read_bytes(), source=lambda w, h: noise[:h, :w])
    build = write_build(tmp_path_factory.mktemp("build"))
    files = compiled(with_imports("app"))
    files["main.py"] = (FIRMWARE_DIR / "main.py").read_bytes()
    files["settings.json"] = b'{"start_delay_ms": 100, "repl": true, "boxes": true, "names": true, "threshold": 30}'
    repl = installed(board, build, files)
    return board, repl, board.save()


@pytest.fixture
def prompt(booted):
    """That board as it was, whatever the last test did to it."""
    board, repl, snapshot = booted
    board.restore(snapshot)
    return board, repl


def said_until(repl, text, seconds=30):
    """What the board says up to the end of the line with `text`; fails if that does not come."""
    said = ""
    end = repl.transport.now() + seconds
    while text not in said or not said.partition(text)[2].count("\n"):
        assert repl.transport.now() < end, f"no {text!r} in {said[-500:]!r}"
        said += repl.transport.read(0.05).decode(errors="replace")
    return said


@pytest.mark.firmware_image
def test_application_and_examples_run_on_maixpy(prompt):
    """After a soft reset main.py must send numbered lines and show frames on the LCD, and each example must run.

    Otherwise it would contain something that only a later MicroPython knows, or a function that MaixPy lacks.
    """
    board, repl = prompt
    repl.start_main()
    said = b""
    end = repl.transport.now() + 30
    while said.count(b'"seq"') < 4 and repl.transport.now() < end:
        said += repl.transport.read(0.2)
    whole = [line for line in said.decode(errors="replace").split("\r\n")[:-1] if line.startswith('{"seq"')]
    lines = [json.loads(line) for line in whole[:3]]
    assert b"Traceback" not in said and [line["seq"] for line in lines] == [1, 2, 3], said[-500:]
    assert all(len(line["poses"][0]["keypoints"]) == 17 for line in lines if line["poses"])
    picture = board.lcd.image()
    assert np.count_nonzero(picture.any(axis=2)) > 64 * 48 * 0.9

    assert repl.try_enter()
    for file in sorted((FIRMWARE_DIR / "examples").glob("*.py")):
        source = file.read_text()
        assert source.rstrip().endswith(".run()")
        source = source.rstrip().removesuffix(".run()") + ".run(frames=2)\n"
        program = f"n = {{'__name__': 'example'}}\nexec({source!r}, n)\n_r = n['App'] is not None\n"
        assert repl.ask(program, timeout_s=60) is True, file.name


@pytest.mark.firmware_image
def test_files_left_open_do_not_stop_a_second_install(prompt):
    """MaixPy's SPIFFS has two open files, and once every file looked absent and nothing was copied.

    Forgotten files are collected, and if a stopped program still holds some, the board is restarted.
    """
    board, repl = prompt
    for number, left_open in enumerate(("open('posenet.json')", "l = [open('main.py'), open('main.py')]")):
        repl.ask(left_open)
        files = {"settings.json": b'{"start_delay_ms": 10%d}' % number, "extra.txt": b"%d" % number}
        assert repl.install(files, repl.info()) == list(files)
        assert repl.install(files, repl.info()) == []


@pytest.mark.firmware_image
def test_a_wrong_kmodel_is_named_on_lcd_and_line(prompt):
    """The most common mistake is that the kmodel in flash is not the one of posenet.json.

    The application says so. If the kmodel passes its check, or without the check, MaixPy's own loader refuses, and its
    words are shown. Ctrl-C and Ctrl-D (soft reset) start main.py again each time, and with the right kmodel poses come
    again.
    """
    board, repl = prompt
    memory = board.flash.memory
    right_manifest = repl.ask("_r = open('posenet.json').read()")
    manifest = json.loads(right_manifest)
    size, right_crc = manifest["kmodel"]["bytes"], manifest["kmodel"]["crc32"]
    right = bytes(memory[KMODEL_ADDRESS : KMODEL_ADDRESS + size])
    damaged = right[:-1] + bytes([right[-1] ^ 1])
    other_chip = right[:8] + b"\1" + right[9:]  # After version and flags comes the chip; 0 is the K210.
    v5 = b"LDMK\5\0\0\0" + right[8:]
    refused = "kmodel not loaded: load error:2002, ERR_KMODEL_VERSION: only support kmodel V3"
    crcs = f"CRC {zlib.crc32(damaged):08x}, posenet.json says {right_crc:08x}"
    cases = [
        (damaged, True, right_crc, f"Wrong kmodel at 0x300000: {crcs}. Run flash.py."),
        (v5, True, right_crc, "kmodel at 0x300000 is V5, MaixPy needs V3. Run flash.py."),
        (other_chip, True, zlib.crc32(other_chip), refused),
        (v5, False, right_crc, refused),
    ]
    shown = []
    for kmodel, check, crc32, text in cases:
        memory[KMODEL_ADDRESS : KMODEL_ADDRESS + size] = kmodel
        manifest["kmodel"]["crc32"] = crc32
        settings = {"start_delay_ms": 100, "repl": True, "check": check}
        files = {"posenet.json": json.dumps(manifest).encode(), "settings.json": json.dumps(settings).encode()}
        repl.install(files, repl.info())
        repl.start_main()
        assert f"posenet: Network: {text}\r\n" in said_until(repl, "posenet: Network"), text
        repl.transport.sleep(0.3)
        picture = board.lcd.image()
        assert repl.try_enter()
        # The same message, shown from the prompt, must give the same picture.
        repl.ask(
            "import lcd\nfrom boards import load_settings\nfrom screen import Screen\nlcd.clear()\n"
            f"Screen(load_settings()).message('Network', {text + TRYING_AGAIN!r})"
        )
        assert np.array_equal(board.lcd.image(), picture), text
        shown.append(picture)
    assert all(np.count_nonzero(picture.any(axis=2)) > 1000 for picture in shown)
    assert not np.array_equal(shown[0], shown[1])

    memory[KMODEL_ADDRESS : KMODEL_ADDRESS + size] = right
    repl.install({"posenet.json": right_manifest.encode()}, repl.info())
    repl.start_main()
    assert "posenet: starts in" in said_until(repl, '{"seq":1,')


@pytest.mark.firmware_image
def test_recording_is_on_the_card(booted, tmp_path):
    """examples/record_csv.py writes to a card on stock MaixPy, and a PC must be able to read the rows there."""
    from sim.k210.k210_board import K210Board
    from sim.parts.board_transport import BoardTransport

    off, _, snapshot = booted
    card = tmp_path / "card.img"
    fat_image.create(card, {"NOTE.TXT": b"put in before"})
    board = K210Board(source=off.camera.source, sd_image=card)
    board.restore(snapshot)
    board.press_reset()
    repl = RawRepl(BoardTransport(board))
    assert repl.enter_after_reset()
    source = (FIRMWARE_DIR / "examples" / "record_csv.py").read_text().rstrip()
    assert source.endswith(".run()")
    source = source.removesuffix(".run()") + ".run(frames=25)\n"
    program = f"import uos\nuos.chdir('/flash')\nn = {{'__name__': 'example'}}\nexec({source!r}, n)\n"
    assert repl.ask(program + "n['file'].close()\n_r = True\n", timeout_s=60)
    files = fat_image.read(card)
    assert files["NOTE.TXT"] == b"put in before"
    name = next(name for name in files if name.lower() == "poses000.csv")
    header, *rows = files[name].decode().splitlines()
    assert header.startswith("seq,ms,person,score,nose_x,nose_y,nose_score")
    assert len(rows) > 10 and all(len(row.split(",")) == 4 + 3 * 17 for row in rows)
    frames = [int(row.split(",")[0]) for row in rows]
    assert frames == sorted(frames) and len(set(frames)) > 5
