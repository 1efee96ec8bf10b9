"""A session with an emulated board: its flash is in a folder, and a camera is connected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from common import kfpkg, rom_image
from common.errors import UserError
from common.files import write_atomic
from common.flash_parts import FlashPart, check_parts
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.k210 import firmware_image
from sim.k210.k210_board import K210Board
from sim.k210.page import EmulatedPage
from sim.k210.profiles import Profile, profile_named
from sim.parts.board import Camera
from sim.parts.session import FlashFile, Session


class EmulatedSession(Session):
    """`folder` holds flash.bin (16 MiB); a new folder is a new board with `firmware` in its flash.

    firmware: path of a MaixPy image (.bin) or of a package (.kfpkg) with more parts, or None for a blank board. For
    an existing board it replaces the old firmware; flash that it does not cover (usually the files in /flash) is kept.
    profile: which board it is, see sim/k210/profiles.py. sensor: a camera in place of that board's. None: as in the
    previous session.
    """

    board: K210Board

    def __init__(
        self,
        folder: Path,
        firmware: Path | None = None,
        camera: Camera | None = None,
        sensor: str | None = None,
        wiring: str = "dan",
        sd_image: Path | None = None,
        fast_loader: bool = True,
        profile: str | None = None,
        silicon: SiliconProfile = ASSUMED,
    ):
        flash = FlashFile(folder)
        for part in firmware_parts(firmware) if firmware is not None else ():
            flash.memory[part.address_bytes : part.end_bytes] = part.data
        soldered = soldered_board(folder, profile, sensor)
        board = K210Board(
            None, flash.memory, soldered.camera if camera is not None else None, wiring=wiring, sd_image=sd_image,
            fast_loader=fast_loader, profile=soldered, silicon=silicon,
        )  # fmt: skip
        if camera is not None:
            board.set_camera(camera)
        super().__init__(folder, flash, board)

    def page(self) -> EmulatedPage:
        """The board in the form that the live page needs."""
        return EmulatedPage(self.board)


def firmware_parts(path: Path) -> list[FlashPart]:
    """The parts that a MaixPy image or a package puts into the flash; UserError if it is neither, or does not fit."""
    if path.suffix == ".kfpkg":
        parts = kfpkg.read(path)
        check_parts(parts)
        return parts
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"firmware {path}: {error.strerror}; give a MaixPy .bin or a .kfpkg") from None
    return [FlashPart(path.name, 0, rom_image.wrap(firmware_image.check_raw(data, path.name)))]


def soldered_board(folder: Path, profile: str | None, sensor: str | None) -> Profile:
    """The board with its camera, kept in its folder for later sessions."""
    path = folder / "board.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        before = None
    if not isinstance(before, dict) or not all(isinstance(value, str) for value in before.values()):
        raise UserError(f"{path} is damaged; remove it, and tell which board it was: --profile NAME")
    if profile is None and sensor is None:
        sensor = before.get("camera")
    found = profile_named(profile or before.get("profile", "bit"))
    found = dataclasses.replace(found, camera=sensor or found.camera)
    write_atomic(path, json.dumps({"profile": found.name, "camera": found.camera}) + "\n")
    return found
