"""Each maker's build on its own board shows our program upright, not mirrored, and in its true colours and shape.

The images belong to the user. They are found by SHA-256 in MAIX_POSENET_DATA or the cache, and no test downloads one.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from common import spiffs
from common.firmware_modules import FIRMWARE_DIR
from common.flash_map import FILES_ADDRESS
from host_tools import m5stickv
from sim.k210.emulated_session import EmulatedSession
from sim.k210.profiles import PROFILES
from tests.support.images import firmware_image

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image, pytest.mark.xdist_group("k210-maixpy")]

WIDTH, HEIGHT = 120, 80
PROGRAM = f"""
import image
from boards import load_settings
from screen import Screen
screen = Screen(load_settings(), MOUNT)
screen.message("Wait", "a moment")
screen.prepare({WIDTH}, {HEIGHT})
picture = image.Image(size=({WIDTH}, {HEIGHT}))
picture.draw_rectangle(0, 0, {WIDTH}, 20, color=(255, 255, 255), fill=True)
picture.draw_rectangle(0, 20, 20, {HEIGHT} - 20, color=(255, 0, 0), fill=True)
screen.show(picture)
print("all is shown")
"""
MODULES = ("boards.py", "screen.py", "drawing.py", "maixpy_api.py", "turned_text.py")
SHAPES = {
    "m5stickv": (135, 240),
    "twatch": (240, 240),
    "cube": (240, 240),
    "amigo_tft": (320, 480),
    "amigo_ips": (320, 480),
}
BUILDS = ("m5stickv-5.1.2", "m5stickv-0.5.0-9", "twatch-0.6.2-75", "twatch-0.5.0-44", "lilygo-m1-0.6.2-35",
          "amigo-0.5.1-92", "canmv-lite-1.0.7", "canmv-dnk210-lite-1.0.7", "maixpy-minimum", "cube",
          "amigo_ips")  # fmt: skip
NAMED = {"cube": "maixpy-minimum", "amigo_ips": "amigo-0.5.1-92"}
"""Boards that nothing but "board" in settings.json tells from others with the same build."""
OTHER_BOARDS = {"maixpy": "bit", "amigo": "amigo_tft", "lilygo": "lilygo_m1", "canmv-dnk210-lite-1.0.7": "canmv_dnk210"}


@pytest.mark.parametrize(("name", "mount"), [*((name, 0) for name in BUILDS), ("amigo-0.5.1-92", 90)])
def test_a_picture_is_upright_on_every_board(tmp_path, name, mount):
    """In the middle of a black LCD there must be a white bar on top and a red one at the left.

    T-Watch and M1 once lay on their side, the Amigo showed a mirror image with red and blue exchanged, and a DNK210 was
    not known. `name` is a build, or a board in NAMED.
    """
    kind = name.partition("-")[0]
    profile = OTHER_BOARDS.get(name, OTHER_BOARDS.get(kind, kind))
    session = EmulatedSession(tmp_path, firmware_image(NAMED.get(name, name)), profile=profile)
    files = {module: (FIRMWARE_DIR / module).read_bytes() for module in MODULES}
    files["main.py"] = PROGRAM.replace("MOUNT", str(mount)).encode()
    if name in NAMED:
        files["settings.json"] = json.dumps({"board": name}).encode()
    if profile == "m5stickv":
        files["boot.py"] = m5stickv.boot_program()
    elif profile in ("twatch", "lilygo_m1"):
        # Present from the first start, because the boot.py that LilyGO's 0.6.2-75 writes would write its config.json.
        files["boot.py"] = m5stickv.boot_program("lilygo")
    session.board.flash.memory[FILES_ADDRESS:] = spiffs.image(files)
    session.board.power_on()
    session.board.run_until_output(b"all is shown", 60)
    session.board.run_for(0.1)
    seen = session.board.lcd.image()
    height, width = SHAPES.get(profile, (240, 320))
    assert seen.shape == (height, width, 3) and PROFILES[profile].panel is not None
    wanted = np.zeros_like(seen)
    # On the M5StickV, with 135 of 240 rows, MaixPy starts one row too high when it turns by 180 degrees.
    place = wanted[(height - HEIGHT) // 2 - (profile == "m5stickv") :, (width - WIDTH) // 2 :][:HEIGHT, :WIDTH]
    place[:20], place[20:, :20, 0] = 255, 255
    assert np.array_equal(seen, wanted)
