"""A simulated board that lasts: its flash and files in a folder, a camera before it, its LCD on this side."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import write_atomic
from common.flash_map import FILES_ADDRESS, FILES_BYTES, FLASH_BYTES, SECTOR_BYTES, erased_flash
from sim.boards.devices import Camera, Devices
from sim.boards.faults import Faults
from sim.boards.simulated import (
    SPIFFS_MARK,
    SimulatedBoard,
    maixpy_starter,
    simulated_firmware,
)
from sim.parts.isp_endpoint import FlashTiming, NorFlash

if TYPE_CHECKING:
    from sim.boards.simulated_page import SimulatedPage

BUSY_MAIN = b"import micropython\nmicropython.kbd_intr(-1)\nwhile True:\n    pass\n"
SPIFFS_FILE_BYTES = FILES_BYTES - 2 * SECTOR_BYTES
"""What one file may take of /flash, beside the page with its name."""


class Session:
    """`folder` holds flash.bin (16 MiB) and flash/ (the files of /flash); a new folder is a new board with MaixPy.

    The board is switched on by whoever holds the line (a transport or a server).
    """

    def __init__(
        self,
        folder: Path,
        camera: Camera | None = None,
        faults: Faults | None = None,
        wiring: str = "dan",
        sd_dir: Path | None = None,
        timing: FlashTiming | None = None,
        with_maixpy: bool = True,
    ):
        self.folder = folder
        self.flash_dir = folder / "flash"
        self.flash_path = folder / "flash.bin"
        faults = faults or Faults()
        image = self._load(with_maixpy)
        self.devices = Devices(flash=image, camera=camera)
        self.flash_dir.mkdir(parents=True, exist_ok=True)
        if "busy-main" in faults:
            (self.flash_dir / "main.py").write_bytes(BUSY_MAIN)
        filler = self.flash_dir / "filler.bin"
        if "full-flash" in faults:
            taken = sum(path.stat().st_size for path in self.flash_dir.iterdir() if path != filler)
            filler.write_bytes(bytes(max(SPIFFS_FILE_BYTES - taken, 0)))
        self.nor = NorFlash(image, timing or FlashTiming())
        self.board = SimulatedBoard(
            self.nor,
            self.flash_dir,
            maixpy_starter(self.devices, self.flash_dir, sd_dir),
            wiring=wiring,
            faults=faults,
        )

    def _load(self, with_maixpy: bool) -> bytearray:
        try:
            image = bytearray(self.flash_path.read_bytes())
        except FileNotFoundError:
            image = erased_flash()
            if with_maixpy:
                firmware = simulated_firmware()
                image[: len(firmware)] = firmware
                image[FILES_ADDRESS : FILES_ADDRESS + len(SPIFFS_MARK)] = SPIFFS_MARK
        if len(image) != FLASH_BYTES:
            raise UserError(
                f"{self.flash_path} has {len(image)} bytes and not {FLASH_BYTES}; remove {self.folder} for a new board"
            )
        return image

    def page(self) -> SimulatedPage:
        """This board as the live page needs it."""
        from sim.boards.simulated_page import SimulatedPage

        return SimulatedPage(self)

    def save(self) -> None:
        """Keep the flash for the next session."""
        write_atomic(self.flash_path, bytes(self.nor.image))

    def close(self) -> None:
        """Switch off and keep the flash."""
        self.board.power_off()
        self.save()

    def forget(self) -> None:
        """Throw the board away."""
        self.board.power_off()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)


def save_frames(lcd: Any, folder: Path) -> None:
    """From now on every frame that a board's LCD shows is kept as a PNG in `folder`; those of an earlier run go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("frame-*.png"):
        old.unlink()
    numbers = itertools.count(1)
    lcd.on_frame(lambda _: lcd.save(folder / f"frame-{next(numbers):05d}.png"))
