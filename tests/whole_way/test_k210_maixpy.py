"""Stock MaixPy on the K210 emulator: prompt, scripts, camera, display, KPU and serial loader.

The images belong to the user. They are found by SHA-256 in MAIX_POSENET_DATA or the cache, and no test downloads one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoder_on_k210 import with_corner
from benchmarks.firmware_py_mpy import compiled, with_imports
from benchmarks.synthetic_kmodel import make_model
from common import rgb565, rom_image
from common.arrays import Picture
from common.flash_map import KMODEL_ADDRESS
from common.flash_parts import FlashPart
from host_tools.isp_client import IspClient
from host_tools.repl import RawRepl
from model_build.engines.kpu import KpuEngine
from model_build.kpu import kmodel_v3
from sim.k210.chips.sd_card import SdCard
from sim.k210.emulated_session import EmulatedSession
from sim.k210.k210_board import K210Board
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_sensors import CAMERAS
from tests.firmware.test_decoder_interpreters import TRACKER_WALK
from tests.support import fat_image
from tests.support.images import firmware_image

pytestmark = [pytest.mark.firmware_image, pytest.mark.xdist_group("k210-maixpy"), pytest.mark.slow]

WIDTH, HEIGHT = 64, 48
BUILDS = ("maixpy-minimum", "maixpy", "maixpy-openmv-v4", "maixpy-lvgl")


@functools.cache
def booted(name: str) -> tuple[bytes, str]:
    """A snapshot at the prompt with a small kmodel in flash, and what was printed until then. It is made once."""
    board = K210Board(firmware_image(name).read_bytes())
    kmodel = kmodel_v3.write(make_model(WIDTH, HEIGHT))
    board.flash.memory[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)] = kmodel
    board.power_on()
    text = board.run_until_output(b">>> ")
    return board.save(), text.decode()


def board_at_prompt(name: str = "maixpy-minimum") -> K210Board:
    snapshot, _ = booted(name)
    board = K210Board()
    board.restore(snapshot)
    return board


@pytest.fixture
def board() -> K210Board:
    return board_at_prompt()


@pytest.fixture
def execute(board: K210Board) -> Callable[[str], str]:
    """Runs a script in the raw REPL, returns what it printed."""
    repl = RawRepl(BoardTransport(board))
    assert repl.try_enter()
    return lambda source: repl._execute(source, 60).replace("\r\n", "\n")


CAMERA = f"""
import sensor
sensor.reset()
sensor.set_pixformat(sensor.RGB565)
sensor.set_framesize(sensor.QVGA)
sensor.set_windowing(({WIDTH}, {HEIGHT}))
sensor.run(1)
"""


@pytest.mark.parametrize("name", BUILDS[:2])
def test_maixpy_boots_to_the_prompt(name: str) -> None:
    """The banner is the real one, clocks are as the firmware reads them, and it takes about a virtual second."""
    snapshot, text = booted(name)
    assert "[MAIXPY] cpu:freq:403000000" in text
    assert "[MAIXPY] Flash:0xef:0x17" in text
    assert "[MAIXPY]:Spiffs Format successful" in text
    assert re.search(r"MicroPython v0\.6\.2-84\S* on 2022-08-26; Sipeed_M1 with kendryte-k210", text)
    board = K210Board()
    board.restore(snapshot)
    assert 0.5 < board.seconds < 3


@pytest.mark.parametrize("name", BUILDS[2:])
def test_other_builds_boot_as_well(name: str) -> None:
    """One build supports kmodel V4, and one has LittlevGL on FreeRTOS."""
    assert "Sipeed_M1 with kendryte-k210" in booted(name)[1]


def test_the_same_run_twice_is_the_same(board: K210Board) -> None:
    """Only virtual time counts: after the same input, registers, memory and time must agree to the bit."""
    ends = []
    for machine in (board, board_at_prompt()):
        machine.receive(b"sum(i * i for i in range(1000))\r")
        text = machine.run_until_output(b"332833500\r\n>>> ")
        ends.append((text, machine.soc.hart_cycles, machine.soc.instructions, bytes(machine.soc.ram)))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("name", "most"), [("maixpy-minimum", 10_000_000), ("maixpy", 150_000_000)])
def test_idle_prompt_costs_next_to_nothing(name: str, most: int) -> None:
    """Ten virtual seconds of waiting, four thousand million cycles, must take few instructions.

    This holds even if FreeRTOS goes through its tasks in the meantime.
    """
    board = board_at_prompt(name)
    before = sum(board.soc.instructions)
    board.run_for(10)
    assert sum(board.soc.instructions) - before < most
    board.receive(b"6*7\r")
    board.run_until_output(b"42\r\n>>> ", 2)


def test_files_written_over_the_repl_are_in_spiffs(execute: Callable[[str], str], board: K210Board) -> None:
    """Scripts that the host tools copy live in the flash chip and can be imported at once and after a hard reset."""
    repl = RawRepl(BoardTransport(board))
    assert repl.try_enter()
    repl.write_file("greet.py", b"def hello(name):\n    return 'hello ' + name\n" * 40)
    assert execute("import greet\nprint(greet.hello('flash'))") == "hello flash\n"
    board.press_reset()
    board.run_until_output(b">>> ")
    repl = RawRepl(BoardTransport(board))
    assert repl.try_enter()
    assert "hello again" in repl._execute("import greet\nprint(greet.hello('again'))", 20)


def test_soft_and_hard_reset_from_python(board: K210Board) -> None:
    """Ctrl-D restarts the interpreter, and machine.reset() goes through the system controller."""
    board.receive(b"x = 5\r\x04")
    assert b"[MaixPy]: soft reboot" in board.run_until_output(b'help()" for more information.\r\n>>> ')
    board.receive(b"x\r")
    board.run_until_output(b"NameError")
    boots = board.boots
    board.receive(b"import machine\rmachine.reset()\r")
    board.run_until_output(b"[MAIXPY] Pll0")
    assert board.boots == boots + 1


def test_hardware_hash_and_unique_id(execute: Callable[[str], str]) -> None:
    """uhashlib uses the SHA block, and unique_id() must not wait for ever for the OTP's status."""
    import hashlib

    answer = execute("import uhashlib, ubinascii\nprint(ubinascii.hexlify(uhashlib.sha256(b'abc').digest()))")
    assert hashlib.sha256(b"abc").hexdigest() in answer
    assert execute("import machine\nprint(len(machine.unique_id()))") == "32\n"


def test_sleep_takes_its_time_within_four_percent(execute: Callable[[str], str]) -> None:
    """Delays are skipped on the host but not in virtual time."""
    answer = execute("import time\nt = time.ticks_us()\ntime.sleep_ms(200)\nprint(time.ticks_us() - t)")
    assert 199_000 <= int(answer) < 208_000


def test_camera_frames_arrive_exactly_and_reach_the_display(execute: Callable[[str], str], board: K210Board) -> None:
    """The way is picture → sensor → DVP → byte swap by hart 1 → Image pixels → SPI → LCD, without any error."""
    picture = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    assert board.camera is not None
    board.camera.source = with_corner(picture)
    assert "find ov2640" in execute(CAMERA + "import lcd, ubinascii\nlcd.init()\n")
    execute("img = sensor.snapshot()\nimg = sensor.snapshot()")
    pixels = execute("print(ubinascii.hexlify(img.to_bytes()).decode())")
    assert bytes.fromhex(pixels.strip()) == rgb565.truncate(picture).astype(">u2").tobytes()
    execute("lcd.display(img)")
    shown = board.lcd.image()
    top, left = (240 - HEIGHT) // 2, (320 - WIDTH) // 2
    part = shown[top : top + HEIGHT, left : left + WIDTH].astype(int)
    assert np.array_equal(part[..., 0] >> 3, picture[..., 0] >> 3)
    assert np.array_equal(part[..., 1] >> 2, picture[..., 1] >> 2)
    assert np.array_equal(part[..., 2] >> 3, picture[..., 2] >> 3)
    assert not shown[:top].any()


@pytest.mark.parametrize("name", BUILDS[:2])
def test_heads_through_maixpys_kpu_library_equal_the_engine(name: str) -> None:
    """20 frames go through camera, pix_ai, closed KPU library, emulated KPU and get_output and equal the engine's."""
    machine = board_at_prompt(name)
    rng = np.random.default_rng(11)
    pictures = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(20)]
    shown: list[int] = []

    def source(width: int, height: int) -> Picture:
        shown.append(len(shown) % len(pictures))
        seen = with_corner(pictures[shown[-1]])(width, height)
        assert seen is not None
        return seen

    assert machine.camera is not None
    machine.camera.source = source
    repl = RawRepl(BoardTransport(machine))
    assert repl.try_enter()
    repl._execute(CAMERA + f"import KPU as kpu, ubinascii\ntask = kpu.load({KMODEL_ADDRESS})", 60)
    engine = KpuEngine(make_model(WIDTH, HEIGHT))
    done = set()
    for _ in range(20):
        answer = repl._execute(
            "img = sensor.snapshot()\nf = kpu.forward(task, img)\n"
            "print([ubinascii.hexlify(bytes(kpu.get_output(task, i))).decode() for i in range(4)])",
            60,
        )
        got = [bytes.fromhex(text) for text in json.loads(answer.replace("'", '"'))]
        wanted = engine.run(np.ascontiguousarray(pictures[shown[-1]].transpose(2, 0, 1)))
        assert got == [head.tobytes() for head in wanted]
        done.add(shown[-1])
    assert len(done) >= 10


def test_the_tracker_computes_the_same_integers(
    execute: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Walking, coming, going and leaving the view must give the same in MaixPy's own interpreter as in CPython."""
    exec(TRACKER_WALK, {})
    assert execute(TRACKER_WALK) == capsys.readouterr().out


def test_a_wrong_kmodel_gives_the_firmwares_own_error(execute: Callable[[str], str], board: K210Board) -> None:
    """Erased flash is error 2002 of the closed library."""
    answer = execute("import KPU as kpu\ntry:\n    kpu.load(0x900000)\nexcept ValueError as e:\n    print('said', e)")
    assert "said [MAIXPY]kpu: load error:2002" in answer


def test_jpeg_compression_gives_a_whole_picture(execute: Callable[[str], str], board: K210Board) -> None:
    """The firmware compresses with both harts, so the lower half of the picture must be there too."""
    import io

    from PIL import Image

    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    picture = np.stack([x * 4, y * 5, 255 - x * 2], -1).astype(np.uint8)
    assert board.camera is not None
    board.camera.source = with_corner(picture)
    execute(CAMERA + "import ubinascii")
    for quality in (30, 80, 95):
        text = execute(
            f"j = sensor.snapshot().compressed(quality={quality})\nprint(ubinascii.hexlify(j.to_bytes()).decode())"
        )
        decoded = np.asarray(Image.open(io.BytesIO(bytes.fromhex(text.strip()))).convert("RGB")).astype(int)
        assert np.abs(decoded - picture).mean() < 12, quality


@pytest.mark.parametrize("sensor", ["gc0328", "ov7740"])
def test_other_cameras_are_found(sensor: str) -> None:
    """MaixPy tries addresses and reads ids to identify them."""
    machine = K210Board(camera=sensor)
    machine.restore(booted("maixpy-minimum")[0])  # The snapshot is older than any access to a camera.
    repl = RawRepl(BoardTransport(machine))
    assert repl.try_enter()
    assert f"find {sensor}" in repl._execute("import sensor\nsensor.reset()", 120)


MAIN_ON_CARD = b"import uos\nprint('started from', uos.getcwd())\n"


def test_a_card_in_the_slot_is_read_and_written(tmp_path: Path) -> None:
    """Hart 1 finds it while MaixPy boots, which takes no longer, and its main.py is started.

    Files go both ways, in single and multiple blocks, and another reader finds what MaixPy wrote.
    """
    card = tmp_path / "card.img"
    content = np.random.default_rng(2).integers(0, 256, 30_000, np.uint8).tobytes()
    files = {"NOTES.TXT": b"from the host\n", "BIG.BIN": content, "old.txt": b"goes away", "main.py": MAIN_ON_CARD}
    fat_image.create(card, files)
    board = K210Board(sd_image=card)
    assert isinstance(board.slot, SdCard)
    board.restore(booted("maixpy-minimum")[0])
    start, commands, execute_command = board.seconds, [], board.slot._execute

    def note(command: int, argument: int) -> None:
        assert board.soc.current is not None
        commands.append((command, board.soc.current.id))
        execute_command(command, argument)

    board.slot._execute = note  # type: ignore[method-assign]
    board.press_reset()
    assert b"started from /sd" in board.run_until_output(b">>> ")
    assert commands[0] == (0, 1) and (58, 1) in commands and board.seconds - start < 1.5
    repl = RawRepl(BoardTransport(board))
    assert repl.try_enter()

    def execute(source: str) -> str:
        return repl._execute(source, 60).strip()

    listed = execute("import uos\nprint(uos.listdir('/'), uos.listdir('/sd'))")
    assert "'sd'" in listed and "'NOTES.TXT', 'BIG.BIN', 'old.txt', 'main.py'" in listed
    assert execute("print(open('/sd/notes.txt').read())") == "from the host"
    assert execute("with open('/sd/big.bin', 'rb') as f:\n    print(sum(f.read(30000)))") == str(sum(content))
    assert 18 in [command for command, _ in commands]
    execute(
        "uos.remove('/sd/old.txt')\nuos.mkdir('/sd/day')\n"
        "with open('/sd/day/a long name.csv', 'w') as f:\n    for i in range(2000): f.write('%d,%d\\n' % (i, i * i))\n"
    )
    files = fat_image.read(card)
    assert files["NOTES.TXT"] == b"from the host\n" and files["BIG.BIN"] == content and len(files) == 4
    wanted = "".join(f"{i},{i * i}\n" for i in range(2000)).encode()
    assert {name.lower(): data for name, data in files.items()}["day/a long name.csv"] == wanted


def test_kflash_stub_runs_and_programs_the_flash_chip(board: K210Board) -> None:
    """Loader ROM, upload, the stub on the emulated core at 1.5 Mbaud, and then the chip boots what was written."""
    payload = rom_image.wrap(firmware_image().read_bytes())[:3000]
    client = IspClient(BoardTransport(board))
    client.connect(1_500_000)
    client.write([FlashPart("a part", 0x600000, payload)])
    assert bytes(board.flash.memory[0x600000 : 0x600000 + len(payload)]) == payload
    assert board.flash.erases >= 1 and board.flash.programs >= len(payload) // 256
    client.reboot()
    board.run_until_output(b">>> ")


def test_fast_loader_speaks_the_same_protocol(tmp_path: Path) -> None:
    """A blank board gets its firmware through the line, and the next session finds it in the folder."""
    firmware = rom_image.wrap(firmware_image().read_bytes())
    session = EmulatedSession(tmp_path)
    client = IspClient(BoardTransport(session.board))
    client.connect(1_500_000)
    client.write([FlashPart("firmware", 0, firmware)])
    client.reboot()
    session.board.run_until_output(b">>> ")
    session.close()
    assert (tmp_path / "flash.bin").read_bytes()[: len(firmware)] == firmware


def test_a_blank_board_says_that_it_is() -> None:
    """Without an image at address 0 the ROM starts nothing, and somebody must learn why."""
    board = K210Board()
    board.power_on()
    board.run_for(0.1)
    assert board.boot_failure is not None and "no firmware at flash address 0" in board.boot_failure
    assert board.soc.instructions == [0, 0]


@functools.cache
def board_with_firmware() -> bytes:
    """A snapshot of a board at its prompt with the library's modules in /flash, as .mpy for a third of the bytes."""
    machine = board_at_prompt()
    repl = RawRepl(BoardTransport(machine))
    assert repl.try_enter()
    repl.install(compiled(with_imports("posenet")), repl.info())
    return machine.save()


def ramps(width: int, height: int) -> Picture:
    """Red grows to the right and green downwards over everything that the camera sees."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    planes = np.broadcast_arrays(x[None], y[:, None], np.float64(0))
    return np.asarray(np.stack(planes, -1), np.uint8)


@pytest.mark.parametrize("camera", sorted(CAMERAS))
def test_every_camera_shows_the_scene_upright(camera: str) -> None:
    """MaixPy's own driver finds the camera, and frames show the scene neither mirrored nor upside down nor its corner.

    The frames have 320 x 240 and 256 x 192 pixels, as our programs take them. GC0328 and GC2145 cannot scale and show
    the middle.
    """
    machine = K210Board(camera=camera)
    # The snapshot is older than any access to a camera.
    machine.restore(board_with_firmware())
    assert machine.camera is not None
    machine.camera.source = ramps
    repl = RawRepl(BoardTransport(machine))
    assert repl.try_enter()
    for width, height in ((320, 240), (256, 192)):
        said = repl._execute(
            f"import sensor, lcd, gc\nfrom posenet import start_camera\nlcd.init()\nstart_camera({width}, {height})\n"
            "sensor.snapshot()\nlcd.display(sensor.snapshot())\nsensor.run(0)\ngc.collect()",
            60,
        )
        assert f"find {camera}" in said
        shown = machine.lcd.image().astype(int)
        top, left = (240 - height) // 2, (320 - width) // 2
        frame = shown[top : top + height, left : left + width]
        assert not shown[:top].any() and not shown[:, :left].any()
        across, down = frame[height // 2, ::16, 0], frame[::16, width // 2, 1]
        assert (np.diff(across) > 0).all() and (np.diff(down) > 0).all(), (camera, width)
        # RGB565 loses up to 7. The margins at left and right, and above and below, are the same.
        edges = [frame[height // 2, 0, 0], 255 - frame[height // 2, -1, 0], frame[0, 9, 1], 255 - frame[-1, 9, 1]]
        assert max(edges) - min(edges) <= 12, (camera, width, edges)
        whole = (width == 320 and camera != "gc2145") or camera in ("ov2640", "ov7740", "ov5640", "ov3660")
        assert max(edges) < 12 or not whole, (camera, width, edges)
