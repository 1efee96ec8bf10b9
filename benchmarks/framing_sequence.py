"""Somebody walks in, away and out while another comes: what framing does, picture by picture.

    python -m benchmarks.framing_sequence --build BUILD_FOLDER [--firmware MAIXPY.bin] [--framing auto|each|off]
        [--frames N] [--picture-ms MS …] [--film OUT.webp]

On the simulated board, or with --firmware on the emulated chip: there stock MaixPy runs the application with its own
OV2640 driver, for some seconds of this computer's time a picture. On the simulated board scene and tracking go on by
100 ms a picture (--picture-ms), however fast this computer is, so every run is the same. Other times put the changes of
view at other moments of the scene.

The scene is rendered, so that it is known where everybody is. Every picture carries its number in its first pixel, red,
which the board prints beside what it found; so each pose is compared with the truth of the very picture that it was
found in, in pixels of the field.

A jump at a change of view is how far a person's pose moves against the truth, the median of the keypoints seen, from
the last picture of the old view to the first of the new, if the new one shows the person. The peer in the same run is
the same figure between two pictures of one view: what the network trembles anyway. Of somebody outside the view the
board knows only the place where it expects them, so what they do there, a walker's step for example, is told apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.frames import Bench
from common.arrays import Floats, Picture
from common.cli import guarded
from common.drawing import COLOURS
from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR
from common.skeleton import EDGES
from model_build.build_folder import BuildFolder
from model_build.scene import Scene
from model_build.scene_figure import walk
from sim.boards.devices import Devices
from sim.boards.vm import MicroPythonVm
from sim.parts.camera_sensors import CAMERAS, Ov2640, View
from sim.parts.camera_source import FunctionCamera

FRAME_RATE = 40.0
"""Pictures a second of the emulated sensor, taken by the program or not."""
PICTURE_MS = 100
"""Scene time from picture to picture on the simulated board, which has no frame rate of its own."""
NUMBERS = 32
"""As many picture numbers as red has steps in RGB565."""
SCENE_SEED = 21
WALK_S = 14.0
FAR_PX = 60
"""A pose farther from everybody than this, median of its keypoints, is a ghost."""

# Each walker: (time s, x of the field's width, height of the field's height). Between these points it walks evenly.
WALKERS = (
    ((1.0, -0.15, 0.72), (4.0, 0.42, 0.72), (7.5, 0.62, 0.3), (11.5, 1.15, 0.3)),
    ((6.5, -0.15, 0.42), (9.5, 0.22, 0.42), (99.0, 0.22, 0.42)),
)
FAR_GROUND, NEAR_GROUND = 0.62, 0.97
"""Where the soles of somebody of height 0.3 and of 0.72 are, of the field's height."""

PROGRAM = """
import app
def _told(app, poses, img):
    net = app.net
    view = net.framing and net.framing.view
    print("shown", (img.get_pixel(0, 0)[0] >> 3, net.frames_lost, [pose.age for pose in poses], view))
_a = app.App(on_poses=_told, settings=%r)
"""
CLOCK = """
import posenet
posenet.ticks_ms = lambda: _a.frames * %d
"""
START = """
_a._start()
"""
STEPS = """
while _a.frames < %d:
    _a.step()
"""


class Walk(Scene):
    """The rendered room with walkers who come and go at known times."""

    def __init__(self) -> None:
        super().__init__(SCENE_SEED, people=2)
        self._noise = self._blur = 0
        self._occluders = []
        for number, figure in enumerate(self.figures):
            figure.walk_x = 0.0
            figure.phase_s = 0.0
            figure.motions = [walk(np.random.default_rng(number))]
        self._bodies = [figure.body for figure in self.figures]

    def at(self, time_s: float) -> None:
        """Put everybody where they are at this time."""
        for figure, body, points in zip(self.figures, self._bodies, WALKERS, strict=True):
            times, places, heights = (np.array([point[i] for point in points]) for i in range(3))
            figure.x = float(np.interp(time_s, times, places))
            height = float(np.interp(time_s, times, heights))
            figure.body = replace(body, stature=height)
            figure.ground = float(np.interp(height, (0.3, 0.72), (FAR_GROUND, NEAR_GROUND)))
            ahead = float(np.interp(time_s + 0.2, times, places)) - figure.x
            figure.yaw = 0.9 * float(np.clip(ahead / 0.02, -1, 1))

    def picture(self, time_s: float, width: int, height: int) -> Picture:
        """The camera's picture of the whole field: uint8 (height, width, 3)."""
        self.at(time_s)
        return self.frame(time_s, width, height)

    def truth(self, time_s: float, width: int, height: int) -> Floats:
        """The true keypoints in pixels of a field of that size: float (people, 17, 2)."""
        self.at(time_s)
        return np.array([person.keypoints_px for person in self.people(time_s, width, height)], np.float64)


@dataclass(frozen=True)
class Shown:
    """One picture as the board saw it. `time_s` is the scene's time; `view` is None if framing is off; `ages` are those
    of posenet.Pose."""

    time_s: float
    board_ms: int
    lost: int
    view: tuple[int, int, int] | None
    poses: tuple[dict[str, Any], ...]
    ages: tuple[int, ...]
    sensor: View
    lcd: Picture


class Listener:
    """Hears what the board prints, and joins it to the pictures that the sensor put out."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, View]] = []
        self.shown: list[Shown] = []
        self._said = b""
        self._line: dict[str, Any] = {}

    def number(self, picture: Picture | None, time_s: float, view: View) -> Picture | None:
        """The picture with its number written into the first pixel."""
        if picture is None:
            return None
        numbered = picture.copy()
        numbered[0, 0] = round(len(self.taken) % NUMBERS * 255 / (NUMBERS - 1)), 0, 0  # survives rounding and cutting
        self.taken.append((time_s, view))
        return numbered

    def hear(self, data: bytes) -> list[Shown]:
        """Read these bytes and return the pictures that they report."""
        new = []
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            if b'{"seq"' in line:  # the raw REPL's OK stands before the first one
                self._line = json.loads(line[line.index(b"{") :])
            elif line.startswith(b"shown"):
                number, lost, ages, view = literal_eval(line.decode()[5:].strip())
                # The latest picture with that number: far fewer than NUMBERS are on their way.
                index = next(i for i in range(len(self.taken) - 1, -1, -1) if i % NUMBERS == number)
                time_s, sensor = self.taken[index]
                poses = tuple(self._line["poses"])
                new.append(Shown(time_s, self._line["ms"], lost, view, poses, tuple(ages), sensor, NOTHING))
        self.shown += new
        return new


NOTHING = np.zeros((1, 1, 3), np.uint8)


def run_emulated(bench: Bench, frames: int, settings: dict[str, Any]) -> list[Shown]:
    """Run the application on the emulated chip for so many frames, from the scene's beginning."""
    board = bench.board
    bench.start(1, settings | {"framing": "off", "lcd": None})  # loads every module; its camera is started again below
    camera = board.camera
    assert camera is not None
    scene, begin, listener = Walk(), 0, Listener()
    capture = camera.capture

    def now() -> float:
        return (board.soc.dvp.frames - begin) / FRAME_RATE

    def heard(data: bytes) -> None:
        if listener.hear(data) and len(listener.shown) > 1:  # the LCD still has the picture before
            listener.shown[-2] = replace(listener.shown[-2], lcd=board.lcd.image())

    camera.source = lambda width, height: scene.picture(now(), width, height)
    camera.capture = lambda: listener.number(capture(), now(), camera.view())  # type: ignore[method-assign]
    board.on_console = heard
    try:
        bench.repl._execute(PROGRAM % (settings | {"repl": True},) + START, 60)
        begin = board.soc.dvp.frames
        bench.repl._execute(STEPS % frames, 3600)
    finally:
        board.on_console = lambda data: None
        del camera.capture
    return [*listener.shown[:-1], replace(listener.shown[-1], lcd=board.lcd.image())]


def run_simulated(
    build: BuildFolder, frames: int, settings: dict[str, Any], picture_ms: int = PICTURE_MS
) -> list[Shown]:
    """Run the application on the simulated board, whose network computes the chip's integers."""
    scene, listener, pictures = Walk(), Listener(), []

    def now() -> float:
        return len(listener.taken) * picture_ms / 1000

    class Numbered(Ov2640):
        """An OV2640 whose pictures carry their numbers."""

        def capture(self) -> Picture | None:
            return listener.number(super().capture(), now(), self.view())

    board = Devices(camera=FunctionCamera(lambda _, w, h: scene.picture(now(), w, h)))
    kmodel = build.kmodel.read_bytes()
    address = build.load_manifest().kmodel.flash_address
    board.flash[address : address + len(kmodel)] = kmodel
    board.lcd.on_frame(lambda lcd: pictures.append(lcd.image()))
    chip = CAMERAS["ov2640"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in FIRMWARE_DIR.glob("*.py"):
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "posenet.json").write_bytes(build.manifest.read_bytes())
        program = PROGRAM % (settings | {"repl": True},) + CLOCK % picture_ms + START + STEPS % frames
        (folder / "main.py").write_text(program, encoding="utf-8")
        CAMERAS["ov2640"] = Numbered
        try:
            with MicroPythonVm(folder, board) as vm:
                said = b""
                while (data := vm.read(0.1)) or vm.poll() is None:
                    listener.hear(data.replace(b"\r", b""))
                    said += data
        finally:
            CAMERAS["ov2640"] = chip
    if len(listener.shown) < frames:
        raise UserError(
            f"the board stopped after {len(listener.shown)} pictures: {said.decode(errors='replace')[-500:]}"
        )
    return [replace(one, lcd=lcd) for one, lcd in zip(listener.shown, pictures, strict=False)]


@dataclass(frozen=True)
class Report:
    """What happened, as the module's text explains it. Distances are in pixels of the field."""

    pictures: int
    lost: int
    changes: int
    jumps_px: tuple[float, ...]
    tremble_px: tuple[float, ...]
    unseen_px: tuple[float, ...]
    """At changes of view, of people who are outside the new one."""
    ids: tuple[tuple[int, ...], ...]
    """Of each walker: the ids under which it was reported, in their order."""
    ghosts: int
    frames_per_second: float
    found: float
    """Part of the pictures with a walker wholly in the field in which it was reported."""
    late_s: tuple[float, ...]
    """Of each walker: from being wholly in the field to the first report; infinite if there is none."""


def judge(shown: Sequence[Shown], width: int, height: int) -> Report:
    """Compare every pose with the truth."""
    scene = Walk()
    errors: list[dict[int, Floats]] = []
    ids: list[list[int]] = [[] for _ in WALKERS]
    came, told = [math.inf] * len(WALKERS), [math.inf] * len(WALKERS)
    ghosts = seen = present = 0
    for one in shown:
        truth = scene.truth(one.time_s, width, height)
        inside = [bool(((p >= 0) & (p < (width, height))).all()) for p in truth]
        present += sum(inside)
        came = [min(since, one.time_s) if here else since for since, here in zip(came, inside, strict=True)]
        row: dict[int, Floats] = {}
        for pose in one.poses:
            points = np.array(pose["keypoints"], np.float64)
            gaps = points[None, :, :2] - truth
            sure = points[:, 2] >= 50
            if not sure.any():
                continue
            distances = [float(np.median(np.hypot(*gap[sure].T))) for gap in gaps]
            nearest = int(np.argmin(distances))
            if distances[nearest] > FAR_PX:
                ghosts += 1
                continue
            seen += inside[nearest]
            told[nearest] = min(told[nearest], one.time_s)
            if pose["id"] not in ids[nearest][-1:]:
                ids[nearest].append(pose["id"])
            row[pose["id"]] = np.where(sure[:, None], gaps[nearest], np.nan)
        errors.append(row)
    jumps: list[float] = []
    tremble: list[float] = []
    unseen: list[float] = []
    changes = 0
    for i in range(1, len(shown)):
        changed = shown[i].view != shown[i - 1].view
        changes += changed
        found = {pose["id"] for pose, age in zip(shown[i].poses, shown[i].ages, strict=True) if not age}
        for number in errors[i].keys() & errors[i - 1].keys():
            moved = errors[i][number] - errors[i - 1][number]
            if not np.isnan(moved).all():
                step = float(np.hypot(*np.nanmedian(moved, axis=0)))
                if number in found or changed:
                    (tremble if not changed else jumps if number in found else unseen).append(step)
    passed_s = (shown[-1].board_ms - shown[0].board_ms) / 1000
    return Report(
        len(shown), shown[-1].lost, changes, tuple(jumps), tuple(tremble), tuple(unseen),
        tuple(tuple(one) for one in ids), ghosts, (len(shown) - 1) / passed_s, seen / max(present, 1),
        tuple(max(to - since, 0.0) if to < math.inf else to for since, to in zip(came, told, strict=True)),
    )  # fmt: skip


def text(report: Report) -> str:
    """The report as text for a person."""

    def px(values: tuple[float, ...]) -> str:
        return f"median {np.median(values):.2f}, most {max(values):.2f} px" if values else "none"

    return (
        f"{report.pictures} pictures, {report.frames_per_second:.2f} a second by the board's clock; "
        f"{report.changes} changes of view, {report.lost} pictures lost by them\n"
        f"jump at a change of view: {px(report.jumps_px)}; between pictures of one view: {px(report.tremble_px)}; "
        f"of people outside the new view: {px(report.unseen_px)}\n"
        f"ids of the walkers: {', '.join(map(str, report.ids))}; ghosts: {report.ghosts}; "
        f"walkers in the field that were reported: {report.found:.0%}, "
        f"the first time after {' and '.join(f'{late:.1f}' for late in report.late_s)} s"
    )


def film(shown: Sequence[Shown], path: Path, width: int, height: int) -> None:
    """An animated picture: on the left the field with the view and everybody's pose, on the right the LCD."""
    from PIL import Image

    scene, pictures, times = Walk(), [], []
    shown = shown[::2]
    for one, following in zip(shown, [*shown[1:], shown[-1]], strict=True):
        field = scene.picture(one.time_s, width, height)
        seen = one.sensor
        scale = width / seen.field[0]
        x0, y0, x1, y1 = (round(v * scale) for v in (seen.x, seen.y, seen.x + seen.width, seen.y + seen.height))
        for pose in one.poses:
            colour = COLOURS[pose["id"] % len(COLOURS)]
            points = pose["keypoints"]
            for a, b in EDGES:
                if min(points[a][2], points[b][2]) >= 25:
                    cv2.line(field, tuple(points[a][:2]), tuple(points[b][:2]), colour, 1, cv2.LINE_AA)
            place = (max(points[0][0] - 4, 2), max(points[0][1] - 12, 10))
            cv2.putText(field, str(pose["id"]), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
        cv2.rectangle(field, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 1)
        lcd = cv2.resize(one.lcd, (round(one.lcd.shape[1] * height / one.lcd.shape[0]), height))
        both = np.hstack([field, np.full((height, 4, 3), 32, np.uint8), lcd])
        pictures.append(Image.fromarray(cv2.resize(both, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)))
        times.append(round(max(0.02, following.time_s - one.time_s) * 1000))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=40, method=6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--firmware", type=Path, help="MaixPy image (.bin), for the emulated chip")
    parser.add_argument("--build", type=Path, required=True, help="build folder; one that sees rendered people")
    parser.add_argument("--framing", nargs="+", default=["auto"], choices=("off", "auto", "each"))
    parser.add_argument("--frames", type=int, default=135, help="pictures (default %(default)s)")
    parser.add_argument("--picture-ms", nargs="+", type=int, default=[PICTURE_MS], help="simulated board: see above")
    parser.add_argument("--film", type=Path, metavar="OUT.webp", help="write an animated picture of the last run")
    args = parser.parse_args()
    build = BuildFolder(args.build)
    manifest = build.load_manifest()
    bench = Bench(args.firmware.read_bytes(), build, FIRMWARE_DIR) if args.firmware else None
    for framing, picture_ms in itertools.product(args.framing, args.picture_ms):
        settings = {"framing": framing}
        if bench:
            shown = run_emulated(bench, args.frames, settings)
        else:
            # The scene takes as long, however many pictures are taken of it.
            shown = run_simulated(build, args.frames * PICTURE_MS // picture_ms, settings, picture_ms)
        report = judge(shown, manifest.width, manifest.height)
        board = "emulated chip" if bench else f"simulated board, a picture every {picture_ms} ms"
        print(f'framing "{framing}", {args.build.name}, {board}\n{text(report)}', flush=True)
    if args.film:
        with tempfile.NamedTemporaryFile(dir=args.film.parent, suffix=args.film.suffix, delete=False) as file:
            film(shown, Path(file.name), manifest.width, manifest.height)
        Path(file.name).replace(args.film)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
