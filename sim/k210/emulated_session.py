"""An emulated board that lasts: its flash in a folder, a camera before it."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from sim.k210.k210_board import K210Board
from sim.k210.page import EmulatedPage
from sim.parts.board import Camera
from sim.parts.session import FlashFile, Session


class EmulatedSession(Session):
    """`folder` holds flash.bin (16 MiB); a new folder is a new board with `firmware` in its flash.

    firmware: path of a MaixPy image (.bin), or None for a blank board. Given for a board that has one already, it
    replaces it, and its files in /flash stay.
    """

    board: K210Board

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
        flash = FlashFile(folder)
        program = None
        if firmware is not None:
            try:
                program = firmware.read_bytes()
            except OSError as error:
                raise UserError(f"firmware {firmware}: {error.strerror}; give a MaixPy .bin") from None
        board = K210Board(
            program, flash.memory, sensor if camera is not None else None, wiring=wiring, sd_image=sd_image,
            fast_loader=fast_loader,
        )  # fmt: skip
        if camera is not None:
            board.set_camera(camera)
        super().__init__(folder, flash, board)

    def page(self) -> EmulatedPage:
        """This board as the live page needs it."""
        return EmulatedPage(self.board)
