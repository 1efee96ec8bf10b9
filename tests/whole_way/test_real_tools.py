"""The real kflash and the real mpremote, unmodified, judge the simulated and the emulated board.

Both run in processes of their own and reach the board by RFC 2217, which carries DTR, RTS and the baud rate. kflash
opens its port with `serial.Serial`, which takes no URLs, so its process puts pyserial's own `serial_for_url` there
before it imports kflash.
"""

import json
import random
import signal
import subprocess
import sys
import zipfile

import pytest

from common import kfpkg, rom_image
from common.flash_parts import FlashPart
from sim.boards.devices import Devices
from sim.boards.simulated import SimulatedBoard, maixpy_starter, read_firmware, simulated_firmware
from sim.live.line_server import LiveBoard, PtyLine, Rfc2217Line
from sim.parts.isp_endpoint import FlashTiming, NorFlash
from tests.support.board_web import wait_for
from tests.support.refusals import unless_refused

KFLASH = (
    "import sys, serial; serial.Serial = lambda port, **settings: serial.serial_for_url(port, **settings); "
    "import kflash; sys.exit(kflash.main())"
)


@pytest.fixture
def live(tmp_path):
    """A board with MaixPy whose flash chip takes no time, on a line at full speed."""
    devices = Devices()
    image = simulated_firmware()
    devices.flash[: len(image)] = image
    (tmp_path / "flash").mkdir()
    board = SimulatedBoard(
        NorFlash(devices.flash, FlashTiming.instant()),
        tmp_path / "flash",
        maixpy_starter(devices, tmp_path / "flash"),
    )
    board._format_if_erased()
    result = LiveBoard(board)
    yield result
    result.stop()


@pytest.fixture
def port(live):
    """The address of the board's port, once MaixPy has started."""
    line = Rfc2217Line(live)
    said = bytearray()
    live.add_sink(said.extend)
    live.start()
    wait_for(lambda: b">>> " in said, 120)  # A starting MaixPy does not hear what a tool sends.
    yield line.url
    line.close()


def kflash(*args, timeout_s=300):
    """Run kflash and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", KFLASH, "-n", *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def mpremote(url, *args):
    """Run mpremote and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "mpremote", "connect", url, *args],
        capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("wiring", ["dan", "kd233", "goD"])
def test_kflash_writes_a_firmware_image(live, port, tmp_path, wiring):
    """kflash resets by the modem lines of its board, uploads its stub, changes the rate, writes and reboots."""
    live.board.pins.wiring = wiring
    payload = random.Random(2).randbytes(150_000) + b"v0.5.0-1-gabc "
    path = tmp_path / "firmware.bin"
    path.write_bytes(payload)
    said = kflash("-p", port, "-B", wiring, "-b", "1500000", str(path))
    assert "rebooting" in said
    image = live.board.flash.image
    assert bytes(image[: 37 + len(payload)]) == rom_image.wrap(payload)
    firmware = read_firmware(image)
    assert firmware is not None and firmware.version == "0.5.0"


@pytest.mark.slow
def test_kflash_programs_the_emulated_chip_by_its_own_stub(tmp_path):
    """The board is served by `python -m sim board --board emu --real-stub`.

    kflash's stub runs on the emulated core and erases and programs the flash chip through its SPI block.
    """
    link = tmp_path / "tty"
    board = subprocess.Popen(
        [sys.executable, "-m", "sim", "board", "--board", "emu", "--real-stub", "--blank", "--port", "0", "--quiet",
         "--state", str(tmp_path / "board"), "--link", str(link)],
        stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A shell's background ignores it.
    )  # fmt: skip
    try:
        assert board.stdout is not None
        url = next(line.split()[1] for line in board.stdout if line.startswith("port:"))
        payload = random.Random(5).randbytes(40_000)
        path = tmp_path / "firmware.bin"
        path.write_bytes(payload)
        assert "rebooting" in kflash("-p", url, "-B", "dan", "-b", "1500000", str(path))
    finally:
        board.send_signal(signal.SIGINT)
        assert board.wait(30) == 0
    image = (tmp_path / "board" / "flash.bin").read_bytes()
    wanted = rom_image.wrap(payload)
    assert image[: len(wanted)] == wanted and set(image[-(-len(wanted) // 4096) * 4096 :]) == {0xFF}


@pytest.mark.slow
def test_kflash_writes_our_package(live, port, tmp_path):
    """kflash's JSON reader is peculiar, and it must understand a package of ours."""
    kmodel = random.Random(3).randbytes(100_001)
    package = tmp_path / "model.kfpkg"
    kfpkg.write(package, [FlashPart("posenet.kmodel", 0x300000, kmodel), FlashPart("b.bin", 0x400000, b"b" * 10)])
    kflash("-p", port, "-B", "dan", "-b", "750000", str(package))
    image = live.board.flash.image
    assert bytes(image[0x300000 : 0x300000 + len(kmodel)]) == kmodel
    assert bytes(image[0x400000:0x40000B]) == b"b" * 10 + b"\xff"


def test_a_written_package_is_read_back(tmp_path):
    """The firmware in it is wrapped as the flash needs it."""
    package = tmp_path / "a.kfpkg"
    part = FlashPart("posenet.kmodel", 0x300000, b"\x03\x00\x00\x00model")
    kfpkg.write(package, [part], firmware=b"f" * 100)
    firmware, back = kfpkg.read(package)
    assert back == part
    assert firmware.address_bytes == 0 and firmware.data == rom_image.wrap(b"f" * 100)


@pytest.mark.parametrize(
    "listing",
    ["", "[]", '{"files": []}', '{"files": [{}]}', '{"files": [{"address": -1, "bin": "a"}]}',
     '{"files": [{"address": "x", "bin": "a"}]}', '{"files": [{"address": 99999999999, "bin": "a"}]}',
     '{"files": [{"address": 0, "bin": "../x"}]}', '{"files": 3}',
     '{"files": [{"address": 0, "bin": "a", "reverse4Bytes": true}]}'],
)  # fmt: skip
def test_damaged_packages_are_refused(tmp_path, listing):
    """A package from elsewhere may contain anything, and only a FormatError may come of it."""
    from common.errors import FormatError

    package = tmp_path / "bad.kfpkg"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("flash-list.json", listing)
        archive.writestr("a", b"data")
    with pytest.raises(FormatError, match="kfpkg"):
        kfpkg.read(package)


def test_every_damaged_byte_of_a_package_is_refused_or_harmless(tmp_path):
    """A damaged kmodel would otherwise reach the board."""
    package = tmp_path / "a.kfpkg"
    part = FlashPart("posenet.kmodel", 0x300000, bytes(range(256)) * 4)
    kfpkg.write(package, [part])
    whole = package.read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        package.write_bytes(whole[:at] + bytes((whole[at] ^ 0x41,)) + whole[at + 1 :])
        read = unless_refused(kfpkg.read, package)
        assert read is None or [p.data for p in read] == [part.data]
        refused += read is None
    assert refused > len(whole) // 7 // 2


@pytest.mark.slow
def test_mpremote_runs_code_and_copies_files(live, port, tmp_path):
    """mpremote enters the raw REPL, soft-resets, runs code, and lists, copies and reads files."""
    assert mpremote(port, "exec", "print(6 * 7)").strip() == "42"
    assert "MaixPy" in mpremote(port, "exec", "import uos; print(uos.uname())")
    source = tmp_path / "hello.py"
    source.write_text("print('hello from flash')\n" * 30)
    mpremote(port, "cp", "-f", str(source), ":hello.py")
    assert (live.board.flash_dir / "hello.py").read_text() == source.read_text()
    assert "hello.py" in mpremote(port, "resume", "ls")
    assert mpremote(port, "resume", "cat", ":hello.py") == source.read_text()
    mpremote(port, "resume", "rm", ":hello.py")
    assert not (live.board.flash_dir / "hello.py").exists()


def test_mpremote_soft_reset_skips_main(live, port):
    """In raw mode a soft reset runs boot.py but not main.py, as in MaixPy."""
    (live.board.flash_dir / "boot.py").write_text("booted = 1\n")
    (live.board.flash_dir / "main.py").write_text("ran_main = 1\n")
    said = mpremote(port, "exec", "print('booted' in globals(), 'ran_main' in globals())")
    assert said.strip() == "True False"


def test_pseudo_terminal_carries_the_console(live):
    """A terminal program on the pty sees the prompt, and its baud rate reaches the board."""
    import serial

    line = PtyLine(live)
    live.start()
    try:
        with serial.Serial(line.path, 115200, timeout=120) as terminal:
            assert b">>> " in terminal.read_until(b">>> ")
            terminal.write(b"6*7\r")
            assert b"42\r\n>>> " in terminal.read_until(b"42\r\n>>> ")
            terminal.baudrate = 9600
            terminal.write(b"1+1\r")
            terminal.timeout = 0.3
            assert b"2\r\n>>> " not in terminal.read(100)
    finally:
        line.close()


def test_flash_list_reads_back_as_json(tmp_path):
    """Other tools read the list as JSON."""
    package = tmp_path / "a.kfpkg"
    kfpkg.write(package, [FlashPart("a", 0x300000, b"x")])
    with zipfile.ZipFile(package) as archive:
        listing = json.loads(archive.read("flash-list.json"))
    assert listing["files"] == [{"address": 0x300000, "bin": "a", "sha256Prefix": False}]
