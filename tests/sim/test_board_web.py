"""The live page of the simulated board, by HTTP and in a real browser."""

import contextlib
import urllib.error
import urllib.request
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from common.flash_parts import FlashPart
from host_tools.flashing import Flasher, Wanted
from host_tools.known_boards import board_named
from sim.boards.simulated_session import SimulatedSession
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import open_camera
from tests.support.board_web import get, post, serve, state, wait_for

# Draws what the camera sees and a turning line, with pauses between frames.
MAIN = b"""
import lcd, sensor, time
lcd.init()
sensor.reset()
sensor.set_pixformat(sensor.RGB565)
sensor.set_framesize(sensor.QVGA)
sensor.run(1)
n = 0
while True:
    img = sensor.snapshot()
    img.draw_line(20 + n % 200, 20, 220 - n % 200, 220, color=(255, 160, 0), thickness=6)
    lcd.display(img)
    print('{"seq":%d,"ms":%d,"poses":[{"id":1,"score":%d,"keypoints":[]}]}' % (n, time.ticks_ms(), 50 + n % 40))
    n += 7
    time.sleep_ms(60)
"""


@pytest.fixture
def view(tmp_path):
    """A board that runs MAIN, with its page."""
    session = SimulatedSession(tmp_path / "board", open_camera("scene:7"))
    (session.flash_dir / "main.py").write_bytes(MAIN)
    yield from serve(session)


def test_the_page_shows_and_controls_the_board(view):
    """The page shows what the board does, its buttons reset the board, and keys reach the prompt."""
    wait_for(lambda: state(view)["lcd"] > 3)
    first = state(view)
    assert first["mode"] == "MaixPy" and "init end" in first["console"]
    assert first["poses"][0]["id"] == 1
    assert dict(first["figures"]["rows"])["camera"].endswith(" ms")
    assert '{"seq"' not in first["console"]
    one = np.asarray(Image.open(BytesIO(get(view, "lcd.png"))))
    assert one.shape == (240, 320, 3) and one.std() > 10
    wait_for(lambda: (np.asarray(Image.open(BytesIO(get(view, "lcd.png")))) != one).any())
    post(view, "keys", text="\x03")
    wait_for(lambda: ">>> " in state(view)["prompt"])
    post(view, "keys", text="print(6 * 7)\r")
    wait_for(lambda: "\n42\n" in state(view)["console"])
    assert "42" not in state(view, state(view)["end"])["console"]
    post(view, "reset", boot=True)
    wait_for(lambda: state(view)["mode"] == "serial loader")
    post(view, "reset")
    wait_for(lambda: state(view)["mode"] == "MaixPy")


def test_camera_can_be_changed(view, tmp_path):
    """Another source must appear on the LCD, and one that does not exist is refused with a reason."""
    wait_for(lambda: state(view)["lcd"] > 0)
    Image.new("RGB", (320, 240), (0, 0, 255)).save(tmp_path / "blue.png")
    post(view, "camera", source=str(tmp_path / "blue.png"))
    assert state(view)["source"] == str(tmp_path / "blue.png")

    def is_blue():
        lcd = np.asarray(Image.open(BytesIO(get(view, "lcd.png"))))
        return np.median(lcd[..., 2]) > 240 and np.median(lcd[..., 0]) < 10

    wait_for(is_blue)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(view, "camera", source=str(tmp_path / "none.png"))
    assert b"no such file" in refused.value.read()


@pytest.mark.xdist_group("browser")
@pytest.mark.browser
def test_the_list_of_cameras_names_the_present_one(view, chromium, tmp_path):
    """A photo is none of the rendered scenes, so the list must not name one of these."""
    Image.new("RGB", (320, 240)).save(tmp_path / "photo.png")
    post(view, "camera", source=str(tmp_path / "photo.png"))
    chromium.open(view.url)
    wait_for(lambda: f"<option>{tmp_path / 'photo.png'}</option><option>scene:7</option>" in chromium.dom())


def skeleton(chromium, folder):
    """Where the pure colours of the first two people, orange and green, are on the page's LCD."""
    chromium.screenshot(folder / "page.png")
    picture = np.asarray(Image.open(folder / "page.png").convert("RGB"))
    red, green, blue = (picture[60:570, 16:680, channel].astype(int) for channel in range(3))
    return (blue < 20) & (((red > 240) & (abs(green - 160) < 12)) | ((red < 20) & (green > 240)))


@pytest.mark.xdist_group("browser")
@pytest.mark.browser
def test_the_page_runs_in_a_browser(view, chromium, tmp_path):
    """The page's script must run: text is in the DOM, and the LCD's picture moves."""
    chromium.open(view.url)
    texts = ("init end", "person 1", "camera</td>", "scene:1</option>")
    wait_for(lambda: all(text in chromium.dom() for text in texts))
    it_moves(chromium, tmp_path)


def it_moves(chromium, folder, least_px=300):
    """Wait until the page shows a skeleton, and then until it is elsewhere."""
    wait_for(lambda: skeleton(chromium, folder).sum() > least_px)
    first = skeleton(chromium, folder)
    wait_for(lambda: (first ^ skeleton(chromium, folder)).sum() > least_px)


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.browser
def test_the_real_firmwares_skeleton_moves_in_a_browser(chromium, tmp_path):
    """The demo network and firmware are flashed by the real tools, and the skeleton follows the scene."""
    from host_tools.bring_up import board_settings
    from host_tools.payload import load_build
    from model_build.build import build

    folder = build("demo", 256, 192, out_dir=tmp_path / "build").path
    part, files, _ = load_build(folder)
    session = SimulatedSession(tmp_path / "board", open_camera("scene:7"))
    files["settings.json"] = board_settings("sim")
    Flasher(BoardTransport(session.board), board_named("auto").wirings).run(
        Wanted([FlashPart(part.name, part.address_bytes, part.data)], files)
    )
    session.board.power_off()
    with contextlib.contextmanager(serve)(session) as web:
        wait_for(lambda: any(state(web)["poses"]))
        chromium.open(web.url)
        it_moves(chromium, tmp_path, 100)
