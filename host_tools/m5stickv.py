"""M5Stack's MaixPy builds for the M5StickV and the UnitV; LilyGO's for T-Watch and M1.

M5Stack's builds start only boot.py, and write the factory's boot.py again if there is none. The factory's program loads
a face detector from flash address 0x300000. So we install a boot.py that starts main.py, keep the factory's under
another name, and write our kmodel after the factory's. `restore` brings the old program back.

LilyGO's older builds write a boot.py at their first start and from then on start only that, so they get a boot.py of
ours as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from common.firmware_modules import FIRMWARE_DIR
from common.flash_parts import FlashPart
from host_tools.repl import RawRepl
from host_tools.repl_programs import BOOT
from model_build.catalog import M5STICKV_MAIXPY
from model_build.manifest import FILE_NAME as MANIFEST

FACTORY_BOOT = "boot_factory.py"
KMODEL_ADDRESS = 0x400000
MARK = "# maix-posenet:"
REMEDY = f"put another build for the M5StickV on it: --firmware {M5STICKV_MAIXPY}"


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
    """The parts with the kmodel after the factory's, and the files with that address in posenet.json and our
    boot.py."""
    manifest = json.loads(files[MANIFEST])
    usual_bytes = manifest["kmodel"]["flash_address"]
    manifest["kmodel"]["flash_address"] = KMODEL_ADDRESS
    moved = [
        dataclasses.replace(part, address_bytes=KMODEL_ADDRESS) if part.address_bytes == usual_bytes else part
        for part in parts
    ]
    return moved, {**files, MANIFEST: json.dumps(manifest).encode(), BOOT: boot_program()}


def set_aside(repl: RawRepl) -> bool:
    """Give a boot.py that is not ours another name, unless one is kept already; returns whether that was done.

    This can be repeated, because each step checks whether it has been done.
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
    """Remove our files and give the kept boot.py its name back; returns whether there was one.

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
