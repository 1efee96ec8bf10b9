"""The live page over the emulated board: figures in the chip's time, console, camera and buttons.

A small program of our own plays the firmware, so that the page is tested without a MaixPy image. With the image, the
real prompt, camera driver and display driver are behind the page.
"""

from __future__ import annotations

import argparse
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.arrays import Numbers
from common.errors import UserError
from sim.commands import board as board_command
from sim.k210.emulated_session import EmulatedSession
from sim.k210.k210_board import K210Board
from sim.k210.stages import CAMERA, INTERPRETER, KPU, LCD, ROWS, WAITING, WHOLE, StageCosts
from sim.parts.camera_source import open_camera
from tests.support.board_web import get, post, serve, state, wait_for
from tests.support.images import firmware_image
from tests.support.riscv_programs import assemble

# Echoes what is typed, and shows the camera's first two pixels of every frame in a window of two pixels.
FIRMWARE = """
    csrr a0, mhartid
    bnez a0, park
    li t0, 0x502B0000          # pads 4 and 5 to UARTHS
    li t1, 18
    sw t1, 16(t0)
    li t1, 19
    sw t1, 20(t0)
    li t1, 24 + 31             # pad 38, the display's D/C, to GPIOHS31
    sw t1, 38 * 4(t0)
    li s1, 0x38000000          # UARTHS
    li s2, 0x50430000          # DVP
    li s3, 0x52000000          # SPI0
    li s4, 0x38001000          # GPIOHS
    li s5, 0x80200000          # RGB565 plane
    sw s5, 0x28(s2)
    li t0, 0x01004008          # 32 x 16, display plane
    sw t0, 0(s2)
    li t0, 0x107               # clock on
    sw t0, 0x10(s2)
    li t0, '>'
    sw t0, 0(s1)
    li a0, 0x29                # display on
    jal command
    li a0, 0x2A                # columns 0 and 1
    jal command
    li a0, 1
    jal data
    li a0, 0x2B                # row 0
    jal command
    li a0, 0
    jal data
frame:
    lw t0, 4(s1)
    bltz t0, 1f
    sw t0, 0(s1)
    j frame
1:  li t0, 0x30000             # the next picture is wanted
    sw t0, 0x20(s2)
2:  lw t0, 0x20(s2)
    andi t0, t0, 0x100
    beqz t0, 2b
    li t0, 0x300
    sw t0, 0x20(s2)
    li a0, 0x2C
    jal command
    lwu a0, 0(s5)
    jal data
    j frame
command:
    li a1, 0
    li a2, 0x00070100          # 8 bits
    j send
data:
    li a1, 1 << 31
    li a2, 0x001F0100          # 32 bits
send:
    sw a1, 0xC(s4)
    sw zero, 8(s3)
    sw a2, 0(s3)
    li t0, 1
    sw t0, 8(s3)
    li t0, 8
    sw t0, 0x10(s3)
    sw a0, 0x60(s3)
    li t1, 4
3:  lw t0, 0x28(s3)
    andi t0, t0, 5
    bne t0, t1, 3b
    sw zero, 0x10(s3)
    ret
park:
    wfi
    j park
    .fill 64, 4, 0
"""

MAIN = b"""
import lcd, sensor
lcd.init()
sensor.reset()
sensor.set_pixformat(sensor.RGB565)
sensor.set_framesize(sensor.QVGA)
sensor.run(1)
n = 0
while True:
    img = sensor.snapshot()
    img.draw_rectangle(n % 300, 100, 20, 20, color=(255, 160, 0), fill=True)
    lcd.display(img)
    n += 7
"""


@pytest.fixture
def view(tmp_path: Path):
    """Our program on the emulated board, with its page."""
    firmware = tmp_path / "firmware.bin"
    firmware.write_bytes(assemble(FIRMWARE))
    yield from serve(EmulatedSession(tmp_path / "board", firmware, open_camera("scene:7")))


@pytest.fixture
def maixpy(tmp_path: Path):
    """MaixPy (minimum) on the emulated board, with its page."""
    yield from serve(EmulatedSession(tmp_path / "board", firmware_image(), open_camera("scene:7")))


def lcd_has_two(view, rgb: tuple[int, int, int]) -> bool:
    """Whether exactly two pixels of the LCD have that colour."""
    return int((lcd_picture(view) == rgb).all(axis=2).sum()) == 2


def colour(folder: Path, name: str) -> str:
    """The path of a picture that has this colour everywhere."""
    path = folder / f"{name}.png"
    Image.new("RGB", (320, 240), name).save(path)
    return str(path)


def lcd_picture(view) -> Numbers:
    """The LCD's picture as the page gets it."""
    return np.asarray(Image.open(BytesIO(get(view, "lcd.png")))).astype(int)


def rows(view) -> dict[str, list[str]]:
    """The page's table of figures by the name of the row."""
    return {name: values for name, *values in state(view)["figures"]["rows"]}


def test_watching_changes_nothing_and_adds_up() -> None:
    """A run with listeners must equal one without, to the bit.

    A frame is the camera's period, and its stages add up.
    """
    boards = [K210Board(assemble(FIRMWARE)) for _ in range(2)]
    costs = StageCosts(boards[1])
    for board in boards:
        board.power_on()
        board.run_for(1)
    assert boards[0].soc.instructions == boards[1].soc.instructions
    assert boards[0].soc.hart_cycles == boards[1].soc.hart_cycles
    assert bytes(boards[0].soc.ram) == bytes(boards[1].soc.ram) and boards[0].seconds == boards[1].seconds
    mean = costs.mean()
    assert mean[WHOLE].seconds == pytest.approx(boards[1].soc.dvp._period_seconds(), rel=0.01)
    parts = [mean[name] for name in (CAMERA, LCD, INTERPRETER, WAITING)]
    assert sum(part.seconds for part in parts) == pytest.approx(mean[WHOLE].seconds, rel=1e-6)
    assert sum(part.instructions for part in parts) == pytest.approx(mean[WHOLE].instructions, abs=4)
    assert mean[CAMERA].seconds > 100 * mean[LCD].seconds > 0 and mean[KPU].seconds == 0
    costs.detach()
    assert boards[1].soc.dvp.on_busy is None


def test_the_page_shows_and_controls_the_emulated_board(view, tmp_path: Path) -> None:
    """Figures are in the chip's time, the console echoes, another camera appears, and reset works in both ways."""
    wait_for(lambda: set(rows(view)) == set(ROWS))
    first = state(view)
    assert first["mode"] == "running" and first["prompt"] == ">" and first["title"] == "Emulated K210"
    assert first["figures"]["columns"] == ["", "ms", "million instructions"] and first["figures"]["fps"] > 0
    assert any("This computer" in note for note in state(view)["figures"]["notes"])
    assert any("model" in note for note in first["figures"]["notes"])
    post(view, "keys", text="hello\n")
    wait_for(lambda: ">hello\n" in state(view)["console"])
    for name, rgb in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        post(view, "camera", source=colour(tmp_path, name))
        wait_for(partial(lcd_has_two, view, rgb))
    post(view, "reset", boot=True)
    wait_for(lambda: state(view)["mode"] == "serial loader")
    post(view, "reset")
    wait_for(lambda: state(view)["mode"] == "running" and state(view)["resets"] == 3)


def test_a_program_that_runs_into_nothing_ends_the_command(tmp_path: Path) -> None:
    """`sim board` must not continue to serve a board whose thread has ended. It says where the program was."""
    (tmp_path / "no.bin").write_bytes(b"# not a program\n" * 100)
    parser = argparse.ArgumentParser()
    board_command.add_arguments(parser)
    options = ["--board", "emu", "--firmware", str(tmp_path / "no.bin"), "--state", str(tmp_path / "board")]
    with pytest.raises(UserError, match=r"program cannot go on: .*hart 0 pc 0x.*--firmware"):
        board_command.run(parser.parse_args([*options, "--port", "0", "--seconds", "30"]))


@pytest.mark.slow
@pytest.mark.firmware_image
@pytest.mark.xdist_group("k210-maixpy")
def test_stock_maixpy_behind_the_page(maixpy, tmp_path: Path) -> None:
    """The prompt evaluates what is typed, the LCD shows the chosen camera, and reset boots again."""
    wait_for(lambda: ">>> " in state(maixpy)["prompt"])
    post(maixpy, "keys", text="print(6*7)\r")
    wait_for(lambda: "\n42\n" in state(maixpy)["console"])
    post(maixpy, "camera", source=colour(tmp_path, "blue"))
    paste(maixpy, MAIN)
    wait_for(lambda: np.median(lcd_picture(maixpy)[..., 2]) > 240 and np.median(lcd_picture(maixpy)[..., 0]) < 10)
    post(maixpy, "camera", source=colour(tmp_path, "red"))
    wait_for(lambda: np.median(lcd_picture(maixpy)[..., 0]) > 240 and np.median(lcd_picture(maixpy)[..., 2]) < 10)
    wait_for(lambda: float(rows(maixpy)[INTERPRETER][1]) > 0)
    assert 5 < float(rows(maixpy)[LCD][0]) < 20 and state(maixpy)["figures"]["fps"] > 5
    resets = state(maixpy)["resets"]
    post(maixpy, "reset")
    wait_for(lambda: state(maixpy)["resets"] == resets + 1 and ">>> " in state(maixpy)["prompt"])


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.firmware_image
@pytest.mark.xdist_group("k210-maixpy")
def test_the_emulated_boards_page_runs_in_a_browser(maixpy, chromium, tmp_path: Path) -> None:
    """The page's own script shows the rows of stages, says that times are a model, and the LCD's picture moves."""
    wait_for(lambda: ">>> " in state(maixpy)["prompt"])
    paste(maixpy, MAIN)
    wait_for(lambda: rows(maixpy))
    chromium.open(maixpy.url)
    texts = [*(f"<td>{name}</td>" for name in ROWS), "million instructions</th>", "is a model", "Emulated K210"]
    wait_for(lambda: all(text in chromium.dom() for text in texts))

    def square():
        chromium.screenshot(tmp_path / "page.png")
        page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
        return (abs(page - (255, 160, 0)) < 12).all(axis=2)

    wait_for(lambda: square().sum() > 300)
    first = square()
    wait_for(lambda: (first ^ square()).sum() > 300)


def paste(view, program: bytes) -> None:
    """Run a program through MaixPy's paste mode."""
    post(view, "keys", text="\x05")
    wait_for(lambda: "=== " in state(view)["prompt"])
    post(view, "keys", text=program.decode().replace("\n", "\r") + "\x04")
