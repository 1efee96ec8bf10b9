"""Makes one .kfpkg that holds everything, for people who have kflash_gui, or another such tool, and no Python.

Such a tool writes flash and knows no files, so the scripts are stored as an image of MaixPy's file system, which
replaces everything in the board's /flash. `flash.py --model FILE.kfpkg` takes the files out of it again and copies them
one by one.
"""

from __future__ import annotations

from pathlib import Path

from common import kfpkg, rom_image, spiffs
from common.errors import UserError
from common.flash_map import FILES_ADDRESS
from common.flash_parts import FlashPart
from host_tools import m5stickv
from host_tools.bring_up import board_settings
from host_tools.payload import SETTINGS, Payload
from host_tools.repl_programs import BOOT

FILES_NAME = "maixpy-files.bin"


def write(path: Path, payload: Payload, board: str, with_scripts: bool = True) -> list[str]:
    """Write the package; returns lines that tell what it holds, for which MaixPy it is, and what is lost on the board.

    board: its name in host_tools/known_boards.py, or `auto`. Without scripts /flash does not change. UserError if the
    package could not make this board show poses.
    """
    files = dict(payload.files) if with_scripts else {}
    parts = list(payload.parts)
    is_m5stack = m5stickv.is_image(payload.firmware.data) if payload.firmware is not None else board == "m5stickv"
    if files:
        if board == "amigo":
            raise UserError(
                "--board amigo: the package would replace config.json, which tells this board's kind of display; "
                "flash it with `flash.py --board amigo`",
                exit_code=2,
            )
        if is_m5stack:
            parts, files = m5stickv.relocated(parts, files)
        elif payload.firmware is not None and m5stickv.is_lilygo_image(payload.firmware.data):
            files[BOOT] = m5stickv.boot_program("lilygo")
        image = spiffs.image({SETTINGS: board_settings(board), **files})
        parts.append(FlashPart(FILES_NAME, FILES_ADDRESS, image))
    kfpkg.write(path, parts, rom_image.unwrap(payload.firmware.data) if payload.firmware is not None else None)

    lines = [f"{path}: {path.stat().st_size} bytes"]
    for part in ([payload.firmware] if payload.firmware is not None else []) + parts:
        lines.append(f"  0x{part.address_bytes:06X} {len(part.data):8d} bytes  {part.name}")
    if not files:
        return [*lines, "Scripts are not in it, and the board's /flash stays as it is."]
    builds = "M5Stack's builds of MaixPy (M5StickV, UnitV)" if is_m5stack else "MaixPy and CanMV, not M5Stack's builds"
    whose = "MaixPy is in it." if payload.firmware is not None else "The board must have MaixPy already."
    return [
        *lines,
        f"For {builds}. {whose}",
        "Flash it with kflash_gui, kflash or another tool for the K210; then the board shows poses.",
        f"It REPLACES everything in the board's /flash by our {len(files) + 1} files: your programs, settings and "
        "config.json go.",
        "With an SD card in the slot MaixPy starts what is on the card: take it out.",
    ]
