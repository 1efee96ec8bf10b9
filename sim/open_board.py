"""Opens either board: the simulated one (`sim`) or the emulated chip (`emu`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.boards.faults import Faults
from sim.boards.simulated_session import SimulatedSession
from sim.k210.profiles import profile_named
from sim.parts.board import Camera
from sim.parts.camera_sensors import check_camera
from sim.parts.session import Session, lock_folder

KINDS = ("sim", "emu")
FOLDERS = {"sim": Path("build/sim-board"), "emu": Path("build/emu-board")}
"""A board's memory lies here unless told otherwise, below the checkout or the working folder."""


@dataclass(frozen=True)
class BoardChoice:
    """Which board. firmware: MaixPy's image, for `emu`; sd: a folder for `sim`, a card's image file for `emu`.

    silicon: the answers of its chip where only a chip can tell.
    profile, camera: which kind of board `emu` is, and a camera in place of that board's; None: as in the run before.
    with_maixpy: whether a new `sim` board comes with MaixPy. fast_loader: `emu` answers in place of the flash program
    that a host uploads, instead of running it.
    """

    kind: str = "sim"
    wiring: str = "dan"
    faults: Sequence[str] = field(default_factory=tuple)
    firmware: Path | None = None
    sd: Path | None = None
    with_maixpy: bool = True
    fast_loader: bool = True
    profile: str | None = None
    camera: str | None = None
    silicon: SiliconProfile = ASSUMED


def check_choice(choice: BoardChoice) -> None:
    """UserError if the choice asks for something that its kind of board does not have."""
    if choice.kind == "sim":
        if choice.profile is not None or choice.camera is not None:
            raise UserError("--profile and --camera are for --board emu", exit_code=2)
        Faults.parse(choice.faults)
    elif os.name == "nt":
        # sim/k210/hart.py finds Unicorn's registers by POSIX's write().
        raise UserError("the emulated board does not run on Windows; use --board sim", exit_code=2)
    elif choice.faults:
        raise UserError("--fault is for --board sim", exit_code=2)
    else:
        if choice.profile is not None:
            profile_named(choice.profile)
        if choice.camera is not None:
            check_camera(choice.camera)


def open_session(choice: BoardChoice, folder: Path, camera: Camera) -> Session:
    """The board whose memory `folder` keeps; UserError as in check_choice(), or if another process uses that board."""
    check_choice(choice)
    lock = lock_folder(folder)
    try:
        session = _open(choice, folder, camera)
    except BaseException:
        lock.release()
        raise
    session.lock = lock
    return session


def _open(choice: BoardChoice, folder: Path, camera: Camera) -> Session:
    if choice.kind == "sim":
        return SimulatedSession(
            folder,
            camera,
            Faults.parse(choice.faults),
            choice.wiring,
            choice.sd,
            with_maixpy=choice.with_maixpy,
            silicon=choice.silicon,
        )
    from sim.k210.emulated_session import EmulatedSession  # loads Unicorn

    if choice.sd is not None and not choice.sd.is_file():
        there = "is not a file" if choice.sd.exists() else "does not exist"
        raise UserError(f"--sd {choice.sd} {there}; give the emulated board the image file of a card", exit_code=2)
    return EmulatedSession(
        folder, choice.firmware, camera, choice.camera, wiring=choice.wiring, sd_image=choice.sd,
        fast_loader=choice.fast_loader, profile=choice.profile, silicon=choice.silicon,
    )  # fmt: skip
