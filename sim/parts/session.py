"""A session: a board whose flash is kept in a folder from one run to the next."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from common.errors import UserError
from common.files import write_atomic
from common.flash_map import FLASH_BYTES, erased_flash
from common.live_view import PageBoard
from common.pictures import png
from sim.parts.board import Board, Camera, Display

LOCK_NAME = ".lock"


class BoardInUseError(UserError):
    """Another run is using the board."""


class ControlledBoard(PageBoard, Protocol):
    """A board on the live page whose camera and keys are ours; its picture is its LCD's."""

    lcd: Display

    @property
    def lcd_frames(self) -> int:
        """The number of frames displayed so far."""
        return self.lcd.frames

    def lcd_png(self) -> bytes:
        """The display as a PNG."""
        return png(self.lcd.image())

    @property
    def console_baud(self) -> int:
        """The baud rate of the console."""

    def set_camera(self, camera: Camera) -> None:
        """Connect another camera to the board."""


class FlashFile:
    """flash.bin in a board's folder; `is_new` if there was none and the flash is erased."""

    def __init__(self, folder: Path):
        self.path = folder / "flash.bin"
        try:
            self.memory = bytearray(self.path.read_bytes())
            self.is_new = False
        except FileNotFoundError:
            self.memory = erased_flash()
            self.is_new = True
        if len(self.memory) != FLASH_BYTES:
            raise UserError(
                f"{self.path} has {len(self.memory)} bytes instead of {FLASH_BYTES}; remove {folder} to make a "
                f"new board"
            )


def lock_folder(folder: Path) -> FileLock:
    """Hold a board's folder for this process until release() or its end; BoardInUseError if another process holds
    it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BoardInUseError(
            f"the board in {folder} is in use by another run; wait until that run ends, or give this "
            f"one a board of its own: --state DIR"
        ) from None
    return lock


class Session(ABC):
    """A board and its folder. The owner of the line (a transport or a server) switches the board on."""

    note = ""
    """A line that the user should read about this board; empty if there is none."""
    lock: FileLock | None = None
    """The lock on the folder is held until this session ends."""

    def __init__(self, folder: Path, flash: FlashFile, board: Board):
        self.folder = folder
        self.flash = flash
        self.board = board

    @abstractmethod
    def page(self) -> ControlledBoard:
        """The board in the form that the live page needs."""

    def save(self) -> None:
        """Write the flash to the folder for the next session."""
        write_atomic(self.flash.path, bytes(self.flash.memory))

    def close(self) -> None:
        """Switch the board off and keep its flash."""
        self.board.power_off()
        self.save()
        self._unlock()

    def forget(self) -> None:
        """Switch the board off and delete its folder."""
        self.board.power_off()
        self._unlock()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)

    def _unlock(self) -> None:
        if self.lock is not None:
            self.lock.release()


def save_frames(display: Display, folder: Path) -> None:
    """From now on save every frame that a board's LCD shows as a PNG in `folder`; those of an earlier run are
    deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("frame-*.png"):
        old.unlink()
    numbers = itertools.count(1)
    display.on_frame(lambda shown: shown.save(folder / f"frame-{next(numbers):05d}.png"))
