"""Every board profile at work, and every failure that the firmware knows, on simulated boards with their LCD pictures.

`python -m benchmarks.firmware_sheet` makes docs/pictures from it; tests/firmware/test_firmware.py holds the
board to it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scripted_network import ScriptedNetwork, flash_dir, kmodel
from common.arrays import Bytes, Floats
from common.files import write_atomic
from common.firmware_modules import firmware_module
from common.flash_map import KMODEL_ADDRESS
from model_build.scene import Scene
from sim.boards.devices import Devices, Lcd
from sim.boards.vm import MicroPythonVm

LCDS: dict[str, Callable[[], Lcd]] = {
    "bit": Lcd,
    "dock": Lcd,
    "go": Lcd,
    "maixduino": Lcd,
    "canmv": Lcd,
    "dnk210": partial(Lcd, mounting=2),
    "m5stickv": partial(Lcd, 240, 135, mounting=2),
    "cube": partial(Lcd, 240, 240, mounting=2, inverted=True),
    "twatch": partial(Lcd, 240, 240, mounting=2, inverted=True),
    "amigo_ips": partial(Lcd, 480, 320, inverted=True, upright=0x28),
    "amigo_tft": partial(Lcd, 480, 320, upright=0x28),
}
"""For each board this makes the LCD that is soldered on it, new and dark."""

SCENE_SEED = 0
FRAME_S = 0.05


def scene_board(width: int, height: int, lcd: Lcd, seed: int = SCENE_SEED) -> Devices:
    """A board that films a rendered scene; its network answers with the scene's true keypoints.

    The network's answer is scripted so that what is looked at here is the firmware: no weights are needed.
    """
    scene = Scene(seed, people=2)

    class SceneCamera:
        """A camera that remembers the time of its last frame, for the network."""

        count = 0

        def frame(self, width: int, height: int) -> Bytes:
            self.count += 1
            return scene.frame(self.count % 200 * FRAME_S, width, height)

    camera = SceneCamera()

    def script(_: int) -> list[Floats]:
        return [person.keypoints_px for person in scene.people(camera.count % 200 * FRAME_S, width, height)]

    board = Devices(camera=camera, lcd=lcd, cache_kpu=False)
    board.load_model = lambda data: ScriptedNetwork(script, width, height)
    data = kmodel(width, height)
    board.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + len(data)] = data
    return board


def run_until(vm: MicroPythonVm, done: Callable[[str], bool], timeout_s: float = 120) -> str:
    """Return all that the board said until `done` accepts it, the time is over, or the program ends."""
    said = ""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended = vm.poll() is not None
        data = vm.read(0.0 if ended else 0.05)
        said += data.decode(errors="replace").replace("\r\n", "\n")
        if done(said) or (ended and not data):
            break
    return said


def profile_names() -> list[str]:
    """The boards with an LCD that the firmware has profiles for."""
    boards = firmware_module("boards").BOARDS
    return [name for name in boards if boards[name].get("lcd", {}) is not None]


def show_profile(name: str, folder: Path, frames: int = 30, **settings: Any) -> tuple[Devices, str]:
    """Start the firmware with a profile and let it draw; returns the board and what it said."""
    board = scene_board(320, 240, LCDS[name]())
    with MicroPythonVm(flash_dir(folder, board=name, **settings), board) as vm:
        said = run_until(vm, lambda _: board.lcd.frames >= frames)
    return board, said


@dataclass
class Failure:
    """One thing that goes wrong. `says` appears on the serial line and, if there is an LCD, on the LCD.

    prepare(board, flash folder) breaks something. mend(board) repairs it while the firmware waits, and then frames must
    come; without mend the message must stay.
    """

    name: str
    says: str
    prepare: Callable[[Devices, Path], object] = lambda board, folder: None
    mend: Callable[[Devices, Path], None] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    main: str | None = None
    gc_heap_bytes: int = 512 << 10


def _kmodel_at(board: Devices, data: bytes) -> None:
    board.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + len(data)] = data


def _unplug(board: Devices, folder: Path) -> None:
    board.spare = board.camera  # type: ignore[attr-defined]
    board.camera = None


def _plug(board: Devices, folder: Path) -> None:
    board.camera = board.spare  # type: ignore[attr-defined]


def _stop_frames(board: Devices, folder: Path) -> None:
    assert board.camera is not None
    film = board.camera.frame

    class Interrupted:
        """A camera that gives ten frames, and then none until it is mended."""

        count = 0
        broken = True

        def frame(self, width: int, height: int) -> Bytes | None:
            self.count += 1
            return None if self.broken and self.count > 10 else film(width, height)

    board.camera = Interrupted()


def _resume_frames(board: Devices, folder: Path) -> None:
    board.camera.broken = False  # type: ignore[union-attr]


def _edit_manifest(**changes: object) -> Callable[[Devices, Path], None]:
    def edit(board: Devices, folder: Path) -> None:
        path = folder / "posenet.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["kmodel"].update(changes.pop("kmodel", {}))
        manifest.update(changes)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return edit


_USER_ERROR = """
from app import App

def on_poses(app, poses, img):
    if app.frames == 5:
        print(poses[99].nose)

App(on_poses).run()
"""

FAILURES = [
    Failure("no-camera", "No sensor answers", _unplug, _plug),
    Failure("camera-stops", "No frame came in 300 ms", _stop_frames, _resume_frames),
    Failure(
        "no-kmodel",
        "the flash is empty there",
        lambda board, folder: _kmodel_at(board, b"\xff" * 4096),
        lambda board, folder: _kmodel_at(board, kmodel(320, 240)),
    ),
    Failure("wrong-kmodel", "CRC", lambda board, folder: _kmodel_at(board, kmodel(256, 192))),
    Failure("short-kmodel", "CRC", _edit_manifest(kmodel={"bytes": 150})),
    Failure("kmodel-v5", "V5, MaixPy needs V3", lambda board, folder: _kmodel_at(board, b"LDMK\x05\0\0\0" + bytes(24))),
    Failure("no-manifest", "No posenet.json", lambda board, folder: (folder / "posenet.json").unlink()),
    Failure(
        "damaged-manifest",
        "damaged",
        lambda board, folder: write_atomic(folder / "posenet.json", "{"),
    ),
    Failure("newer-manifest", "format 99", _edit_manifest(format=99)),
    Failure("damaged-settings", "unknown key colour", settings={"colour": "red"}),
    Failure("no-sd", "No kmodel file /sd/posenet.kmodel", settings={"model": "/sd/posenet.kmodel"}),
    Failure(
        "no-system-memory",
        "system heap has no room",
        lambda board, folder: setattr(board, "system_heap_bytes", 200_000),
    ),
    Failure("no-gc-memory", "heap", gc_heap_bytes=104 << 10),
    Failure("user-error", "IndexError", main=_USER_ERROR),
    Failure("no-lcd", "no LCD", settings={"lcd": {"type": 9}}),
]


def provoke(failure: Failure, folder: Path) -> tuple[Devices, str, Bytes]:
    """Run the firmware into a failure; returns the board, what it said, and its LCD when the message stood there.

    If the failure can be mended it is, and the firmware runs on until ten more frames are shown.
    """
    board = scene_board(320, 240, Lcd())
    flash_dir(folder, main=failure.main, retry_ms=500, **failure.settings)
    failure.prepare(board, folder)
    with MicroPythonVm(folder, board, gc_heap_bytes=failure.gc_heap_bytes) as vm:
        said = run_until(vm, lambda said: failure.says in said)
        if failure.name == "no-lcd":
            said += run_until(vm, lambda _: board.kpu_runs > 0)  # Everything else goes on.
        else:
            said += run_until(vm, lambda _: np.count_nonzero(board.lcd.image().any(axis=2)) > 300)
        time.sleep(0.15)  # Read the rest of the text.
        said += run_until(vm, lambda _: True, 0.1)
        picture = board.lcd.image()
        if failure.mend:
            failure.mend(board, folder)
            shown = board.lcd.frames
            said += run_until(vm, lambda _: board.lcd.frames >= shown + 10)
    return board, said, picture
