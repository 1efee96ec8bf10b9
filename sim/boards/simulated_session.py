"""A session with a simulated board: its flash and files are in a folder, and a camera is connected."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common.flash_map import FILES_ADDRESS, FILES_BYTES
from common.spiffs import DATA_BYTES, PAGE_BYTES
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.boards.devices import Devices, kpu_engine
from sim.boards.faults import Faults
from sim.boards.simulated import SPIFFS_MARK, SimulatedBoard, maixpy_starter, simulated_firmware
from sim.boards.simulated_page import SimulatedPage
from sim.boards.vm import CPYTHON_NOTE, micropython_folder
from sim.parts.board import Camera
from sim.parts.isp_endpoint import FlashTiming, NorFlash
from sim.parts.session import FlashFile, Session

BUSY_MAIN = b"import micropython\nmicropython.kbd_intr(-1)\nwhile True:\n    pass\n"
SPIFFS_FILE_BYTES = (FILES_BYTES // PAGE_BYTES - 2) * DATA_BYTES
"""The largest file on /flash, apart from the page with its name."""


class SimulatedSession(Session):
    """`folder` holds flash.bin (16 MiB) and flash/ (the files of /flash); a new folder is a new board with MaixPy."""

    board: SimulatedBoard

    def __init__(
        self,
        folder: Path,
        camera: Camera | None = None,
        faults: Faults | None = None,
        wiring: str = "dan",
        sd_dir: Path | None = None,
        timing: FlashTiming | None = None,
        with_maixpy: bool = True,
        silicon: SiliconProfile = ASSUMED,
    ):
        faults = faults or Faults()
        flash = FlashFile(folder)
        if flash.is_new and with_maixpy:
            firmware = simulated_firmware()
            flash.memory[: len(firmware)] = firmware
            flash.memory[FILES_ADDRESS : FILES_ADDRESS + len(SPIFFS_MARK)] = SPIFFS_MARK
        engine = partial(kpu_engine, silicon=silicon)
        self.devices = Devices(flash=flash.memory, camera=camera, silicon=silicon, load_model=engine)
        self.flash_dir = folder / "flash"
        self.flash_dir.mkdir(parents=True, exist_ok=True)
        self._apply_file_faults(faults)
        self.nor = NorFlash(flash.memory, timing or FlashTiming())
        starter = maixpy_starter(self.devices, self.flash_dir, sd_dir)
        board = SimulatedBoard(self.nor, self.flash_dir, starter, wiring, faults, devices=self.devices)
        super().__init__(folder, flash, board)
        self.note = "" if micropython_folder() else CPYTHON_NOTE

    def _apply_file_faults(self, faults: Faults) -> None:
        """Prepare /flash for a fault: a main.py that never ends, or no free space."""
        if "busy-main" in faults:
            (self.flash_dir / "main.py").write_bytes(BUSY_MAIN)
        if "full-flash" in faults:
            filler = self.flash_dir / "filler.bin"
            taken = sum(path.stat().st_size for path in self.flash_dir.iterdir() if path != filler)
            filler.write_bytes(bytes(max(SPIFFS_FILE_BYTES - taken, 0)))

    def page(self) -> SimulatedPage:
        """This board in the form that the live page needs."""
        return SimulatedPage(self.board)
