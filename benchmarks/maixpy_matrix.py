"""Every MaixPy image in a folder through the whole way on the K210 emulator: flash, boot, live poses, diff.

    python -m benchmarks.maixpy_matrix --images DIR --build BUILD_FOLDER --photo PERSON.jpg --out DIR [--write]

Each image (.bin, .kfpkg) gets a new emulated board of the kind that it was built for. What was seen is kept in OUT as
one JSON file an image, named by its SHA-256, and a picture of the LCD beside it; an image that has one is not run
again, so the run may be stopped and goes on; --one runs one image and ends. --write puts the rows into docs/boards.md.
The images are the user's.

Copying our files over the serial line costs more than all the rest. So a board begins with them in its file system, and
flash.py lets the build read them and compares. A build that cannot mount it formats it, and gets them over the line. A
small network keeps diff short:

    python -m model_build build demo --size 128x96

Frames a second are the emulated chip's, a model (docs/emulator.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.marked import put
from common import kfpkg, spiffs
from common.arrays import Picture
from common.cli import guarded
from common.errors import UserError
from common.files import write_atomic
from common.flash_map import FILES_ADDRESS
from common.pictures import letterbox, load_picture
from common.pose_lines import poses_in
from host_tools import m5stickv
from host_tools.bring_up import board_settings
from host_tools.payload import SETTINGS, load_build
from host_tools.repl import RawRepl
from host_tools.repl_programs import BOOT
from model_build.build_folder import BuildFolder
from sim.k210.emulated_session import EmulatedSession
from sim.parts.board_transport import BoardTransport
from sim.parts.camera_source import open_camera

FRAMES = 12
WARM_UP_FRAMES = 3
LIVE_S = 60.0  # of the chip's time, for the first frames to come
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "boards.md"


@dataclass
class Row:
    """What one image did. An empty field means that it did not come so far."""

    file: str
    sha256: str
    board: str = ""
    version: str = ""
    flashed: str = ""
    files: str = ""
    verified: str = ""
    camera: str = ""
    lcd: str = ""
    poses: str = ""
    fps: str = ""
    diff: str = ""


def program_of(path: Path) -> bytes:
    """The MaixPy program in an image or a package."""
    if path.suffix == ".kfpkg":
        part = next((part for part in kfpkg.read(path) if part.address_bytes == 0), None)
        if part is None:
            raise UserError(f"{path}: no part of the package is for address 0, so no MaixPy in it")
        return part.data
    return path.read_bytes()


def board_for(program: bytes, image: Path) -> str:
    """The emulated board that a build names in its own words, or else one with the LCD that it assumes."""
    if m5stickv.is_image(program):
        return "m5stickv"
    if b"CanMV" in program:
        return "canmv_dnk210" if b"DNK210" in program else "canmv"
    with tempfile.TemporaryDirectory() as folder:
        session = EmulatedSession(Path(folder), image, profile="bit")
        repl = RawRepl(BoardTransport(session.board))
        width = repl.enter_after_reset() and repl.ask("import lcd\nlcd.init()\n_r = lcd.width()")
    if b"axp202" in program:
        return "twatch" if width == 240 else "lilygo_m1"
    return "amigo_tft" if width == 480 else "bit"


def run_tool(*words: str) -> tuple[int, str]:
    """Run one of the project's commands; returns its exit code and all that it said."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout + done.stderr


def last_line(text: str) -> str:
    """The last line that a command said, for the table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing said"


def try_image(path: Path, build: Path, photo: Path, out: Path) -> Row:
    """Take one image through the whole way."""
    program = program_of(path)
    row = Row(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), board_for(program, path))
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "board"
        begin_with_files(state, path, row.board, build)
        board = ("--board", "emu", "--state", str(state))
        code, said = run_tool(
            "flash.py", *board, "--profile", row.board, "--model", str(build), "--no-start"
        )  # fmt: skip
        (out / f"{row.sha256[:16]}.log").write_text(said, encoding="utf-8")
        found = re.search(r"MaixPy (v\S+)", said)
        row.version = found.group(1) if found else ""
        row.flashed = "yes" if code == 0 else last_line(said)
        if code == 0:
            row.files = told_of_files(said)
            watch_live(state, build, photo, row, out)
            code, said = run_tool(
                "-m", "host_tools", "diff", *board, "--build", str(build), "--no-float", str(photo)
            )  # fmt: skip
            row.diff = "equal" if code == 0 else f"exit {code}: {last_line(said)}"
            with (out / f"{row.sha256[:16]}.log").open("a", encoding="utf-8") as log:
                log.write(said)
    return row


def begin_with_files(state: Path, image: Path, profile: str, build: Path) -> None:
    """A new board with MaixPy, our files and a settings.json that lets them send pose lines."""
    kmodel, files, _ = load_build(build)
    if profile == "m5stickv":
        files = m5stickv.relocated([kmodel], files)[1]
    elif profile in ("twatch", "lilygo_m1"):
        files[BOOT] = m5stickv.boot_program("lilygo")
    session = EmulatedSession(state, image, profile=profile)
    session.board.flash.memory[FILES_ADDRESS:] = spiffs.image({**files, SETTINGS: board_settings("auto")})
    session.close()


def told_of_files(said: str) -> str:
    """How many files flash.py copied, and how many the build read and found equal."""
    copied, equal = (
        re.search(rf"^ +(\S.*): {what}", said, re.MULTILINE)
        for what in ("copied, read back right", "unchanged, skipped$")
    )
    counted = re.search(r"(\d+) files: unchanged", said)
    count = int(counted.group(1)) if counted else len(equal.group(1).split(", ")) if equal and not copied else 0
    parts = [f"{len(copied.group(1).split(', '))} copied"] if copied else []
    return ", ".join(parts + ([f"{count} read"] if count else []))


def watch_live(state: Path, build: Path, photo: Path, row: Row, out: Path) -> None:
    """Switch the board on and let its main.py run."""
    (state / "lcd.png").unlink(missing_ok=True)
    session = EmulatedSession(state, camera=open_camera(str(photo)))
    line = BoardTransport(session.board)
    said, best = "", ""
    times_ms: list[int] = []
    end_s = line.now() + LIVE_S
    while len(times_ms) < FRAMES and line.now() < end_s:
        said += line.read(0.1).decode("utf-8", "replace")
        *whole, said = said.split("\n")
        for text in (part.strip() for part in whole):
            poses = poses_in(text)
            if poses is not None:
                times_ms.append(json.loads(text)["ms"])
                best = f"{len(poses)}: " + ", ".join(f"{pose['score']} %" for pose in poses)
            elif "kmodel checked" in text or "kmodel not checked" in text:
                row.verified = re.sub(r"^.*?(kmodel )", r"\1", text)
            elif "]: find " in text and not (row.camera and text.endswith(" sensor")):  # CanMV tells only the maker
                row.camera = text.rpartition("find ")[2]
    row.poses = best
    if len(times_ms) > WARM_UP_FRAMES + 1:
        passed_ms = times_ms[-1] - times_ms[WARM_UP_FRAMES]
        row.fps = f"{1000 * (len(times_ms) - 1 - WARM_UP_FRAMES) / max(passed_ms, 1):.1f}"
    line.sleep(0.1)
    picture = session.board.lcd.image()
    row.lcd = f"{picture.shape[1]}×{picture.shape[0]}, {how_it_lies(picture, photo, build)}"
    session.board.lcd.save(out / f"{row.sha256[:16]}.png")
    session.board.power_off()


def how_it_lies(picture: Picture, photo: Path, build: Path) -> str:
    """How the photo lies in the middle of the LCD: of all ways to turn, mirror and colour it, the closest one."""
    size = BuildFolder(build).load_manifest()
    width, height = size.width, size.height
    wanted = letterbox(load_picture(photo), width, height)[0].astype(int)
    found = {}
    for turns, mirrored, swapped, negative in product(range(4), (False, True), (False, True), (False, True)):
        seen = np.rot90(picture, turns)
        top, left = (seen.shape[0] - height) // 2, (seen.shape[1] - width) // 2
        seen = seen[max(top, 0) :, max(left, 0) :][:height, :width]
        if seen.shape != wanted.shape:
            continue
        seen = seen[:, :: -1 if mirrored else 1, :: -1 if swapped else 1]
        words = [f"turned by {90 * turns}°"] * bool(turns) + ["mirrored"] * mirrored
        words += ["red and blue exchanged"] * swapped + ["negative"] * negative
        found[", ".join(words) or "upright"] = np.abs((255 - seen if negative else seen) - wanted).mean()
    return min(found, key=lambda way: found[way]) if picture.any() else "dark"


def table(rows: list[Row]) -> str:
    """The table as Markdown, one line an image."""
    titles = [field.name for field in fields(Row)]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in sorted(rows, key=lambda row: (row.version, row.file)):
        values = {**asdict(row), "sha256": row.sha256[:12]}
        lines.append("| " + " | ".join(str(values[title]).replace("|", "/") for title in titles) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder with MaixPy images")
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="network to put on the boards")
    parser.add_argument("--photo", type=Path, required=True, help="what the camera sees, and what diff sends")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results are kept")
    parser.add_argument("--one", action="store_true", help="run one image that was not run yet, and end")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, ran = [], False
    paths = sorted(path for path in options.images.iterdir() if path.suffix in (".bin", ".kfpkg"))
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest()[:16]: path for path in reversed(paths)}  # each image once
    for name, path in reversed(hashes.items()):
        kept = options.out / f"{name}.json"
        if not kept.is_file():
            if options.one and ran:
                continue
            ran = True
            row = try_image(path.resolve(), options.build.resolve(), options.photo.resolve(), options.out)
            write_atomic(kept, json.dumps(asdict(row), indent=1) + "\n")
        rows.append(Row(**json.loads(kept.read_text(encoding="utf-8"))))
        print(json.dumps(asdict(rows[-1])), flush=True)
    if options.write:
        write_atomic(PAGE, put(PAGE.read_text(encoding="utf-8"), "matrix", table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
