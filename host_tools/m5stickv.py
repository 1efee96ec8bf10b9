"""M5Stack's MaixPy builds for the M5StickV and the UnitV; LilyGO's for T-Watch and M1.

They start boot.py and nothing else, and write the factory's boot.py again where there is none. The factory's program
loads a face detector from flash address 0x300000. So ours gets a boot.py that starts main.py, the factory's one waits
under another name, our kmodel goes behind the factory's, and `restore` gives back the program that was there.

LilyGO's older builds write a boot.py at their first start and from then on start nothing else, so they get one of ours
too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from common.firmware_modules import FIRMWARE_DIR
from common.flash_parts import FlashPart
from host_tools.repl import BOOT, RawRepl

FACTORY_BOOT = "boot_factory.py"
KMODEL_ADDRESS = 0x400000
MARK = "# maix-posenet:"
MANIFEST = "posenet.json"
PACKAGE = "m5stickv-5.1.2"
REMEDY = f"put another build for the M5StickV on it: --firmware {PACKAGE}"


def is_image(data: bytes) -> bool:
    """Whether a MaixPy image is such a build: its start-up banner names the board."""
    return b"M5StickV by M5Stack" in data


def is_lilygo_image(data: bytes) -> bool:
    """Whether a MaixPy image is LilyGO's, with the module axp202."""
    return b"axp202" in data


def boot_program(maker: str = "m5stickv") -> bytes:
    """The contents of our boot.py for builds of `maker`, m5stickv or lilygo."""
    return (FIRMWARE_DIR / maker / BOOT).read_bytes()


def relocated(parts: Sequence[FlashPart], files: dict[str, bytes]) -> tuple[list[FlashPart], dict[str, bytes]]:
    """The kmodel behind the factory's, posenet.json saying so, and our boot.py with the files."""
    manifest = json.loads(files[MANIFEST])
    usual_bytes = manifest["kmodel"]["flash_address"]
    manifest["kmodel"]["flash_address"] = KMODEL_ADDRESS
    moved = [
        dataclasses.replace(part, address_bytes=KMODEL_ADDRESS) if part.address_bytes == usual_bytes else part
        for part in parts
    ]
    return moved, {**files, MANIFEST: json.dumps(manifest).encode(), BOOT: boot_program()}


def set_aside(repl: RawRepl) -> bool:
    """Give a boot.py that is not ours its waiting name, unless one waits already; whether that was done.

    Repeatable: each step looks whether it is done.
    """
    return bool(
        repl.ask(
            f"import uos\n_r = 0\nd = uos.listdir()\n"
            f"if {BOOT!r} in d and {FACTORY_BOOT!r} not in d:\n"
            f" f = open({BOOT!r})\n m = f.read({len(MARK)})\n f.close()\n"
            f" if m != {MARK!r}:\n  uos.rename({BOOT!r}, {FACTORY_BOOT!r})\n  _r = 1"
        )
    )


def restore(repl: RawRepl, ours: Sequence[str]) -> bool:
    """Remove our files and give the waiting boot.py its name back; whether one was waiting.

    boot.py comes first, so that a board that loses power in between starts the factory's program.
    """
    waiting = bool(
        repl.ask(
            f"import uos\nd = uos.listdir()\n_r = {FACTORY_BOOT!r} in d\nm = ''\n"
            f"if {BOOT!r} in d:\n f = open({BOOT!r})\n m = f.read({len(MARK)})\n f.close()\n"
            f"if m == {MARK!r}: uos.remove({BOOT!r})\n"
            f"if _r and {BOOT!r} not in uos.listdir(): uos.rename({FACTORY_BOOT!r}, {BOOT!r})",
            timeout_s=20,
        )
    )
    repl.remove_files([name for name in ours if name != BOOT])
    return waiting
