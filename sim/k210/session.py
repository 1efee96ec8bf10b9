"""An emulated board that lasts: its flash in a folder, a camera before it, its display on this side.

The same surface as `sim.boards.session.Session`, so that what drives a simulated board drives this one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from common.files import atomic_path, write_atomic
from common.flash_map import FLASH_BYTES, erased_flash
from sim.boards.devices import Camera
from sim.k210.board import K210Board
from sim.k210.chips.st7789 import St7789

if TYPE_CHECKING:
    from sim.k210.page import EmulatedPage


class LcdView:
    """The display for host programs: picture, frame count, listeners, PNG."""

    def __init__(self, chip: St7789):
        self._chip = chip
        self._listeners: list[Callable[[LcdView], None]] = []
        chip.on_frame = self._shown

    @property
    def frames(self) -> int:
        """Whole frames displayed so far."""
        return self._chip.frames

    def image(self) -> np.ndarray:
        """Uint8 (240, 320, 3) RGB as a person in front of the board sees it."""
        return self._chip.image()

    def save(self, path: Path) -> None:
        """Write image() as a PNG."""
        from PIL import Image

        with atomic_path(path) as temporary:
            Image.fromarray(self.image()).save(temporary, format="PNG")

    def on_frame(self, listener: Callable[[LcdView], None]) -> None:
        """Call `listener(lcd)` after each whole frame."""
        self._listeners.append(listener)

    def _shown(self) -> None:
        for listener in self._listeners:
            listener(self)


@dataclass
class Parts:
    """What a host program may look at."""

    lcd: LcdView
    camera: Camera | None


class EmulatedSession:
    """`folder` holds flash.bin (16 MiB); a new folder is a new board with `firmware` in its flash.

    firmware: path of a MaixPy image (.bin), or None for a blank board. Given for a board that has one already, it
    replaces it, and its files in /flash stay.
    """

    def __init__(
        self,
        folder: Path,
        firmware: Path | None = None,
        camera: Camera | None = None,
        sensor: str = "ov2640",
        wiring: str = "dan",
        sd_image: Path | None = None,
        fast_loader: bool = True,
    ):
        self.folder = folder
        self.flash_path = folder / "flash.bin"
        try:
            image = bytearray(self.flash_path.read_bytes())
        except FileNotFoundError:
            image = erased_flash()
        if len(image) != FLASH_BYTES:
            raise UserError(
                f"{self.flash_path} has {len(image)} bytes and not {FLASH_BYTES}; remove {folder} for a new board"
            )
        program = None
        if firmware is not None:
            try:
                program = firmware.read_bytes()
            except OSError as error:
                raise UserError(f"firmware {firmware}: {error.strerror}; give a MaixPy .bin") from None
        self.board = K210Board(
            program, image, sensor if camera is not None else None, wiring=wiring, sd_image=sd_image,
            fast_loader=fast_loader,
        )  # fmt: skip
        if camera is not None and self.board.camera is not None:
            self.board.camera.source = camera.frame
        self.devices = Parts(LcdView(self.board.lcd), camera)

    def page(self) -> EmulatedPage:
        """This board as the live page needs it."""
        from sim.k210.page import EmulatedPage

        return EmulatedPage(self)

    def save(self) -> None:
        """Keep the flash for the next session."""
        write_atomic(self.flash_path, bytes(self.board.flash.memory))

    def close(self) -> None:
        """Switch off and keep the flash."""
        self.board.power_off()
        self.save()

    def forget(self) -> None:
        """Throw the board away."""
        self.board.power_off()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)
