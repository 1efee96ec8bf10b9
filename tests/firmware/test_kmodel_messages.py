"""What the board says of a kmodel that is not the one of posenet.json: each message says what to do."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.firmware_modules import firmware_module

with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "micropython", SimpleNamespace(const=lambda value: value))
    patch.setitem(sys.modules, "utime", SimpleNamespace(ticks_diff=None, ticks_ms=None, ticks_us=None))
    posenet = firmware_module("posenet")
    del sys.modules["posenet"]  # with stubs in it, other tests must not find it
RIGHT = b"\x03\0\0\0" + bytes(8) + b"weights"


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (b"", "0 bytes, posenet.json says 19"),
        (b"\xff" * 19, "the file holds none"),
        (b"LDMK\x05\0\0\0" + bytes(8), "is V5, MaixPy needs V3"),
        (b"other" + bytes(8), "it begins with"),
        (RIGHT[:-1], "18 bytes, posenet.json says 19"),
        (RIGHT[:-1] + b"S", "posenet.json says"),
    ],
)
def test_of_a_kmodel_in_a_file_the_board_says_to_copy_it(tmp_path: Path, held: bytes, says: str) -> None:
    """flash.py writes the flash and not the SD card: it said to run it, and that the flash is empty."""
    path = tmp_path / "net.kmodel"
    path.write_bytes(held)
    with pytest.raises(posenet.ModelError) as caught:
        posenet.check_file(str(path), {"bytes": len(RIGHT), "crc32": zlib.crc32(RIGHT)})
    told = str(caught.value)
    assert says in told and told.endswith(". Copy the build's posenet.kmodel there.") and "flash" not in told


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"\xff" * 12, "the flash is empty there"),
        (b"LDMK\x05\0\0\0" + bytes(4), "is V5"),
        (bytes(12), "it begins with"),
    ],
)
def test_of_a_kmodel_in_flash_the_board_says_to_flash_it(head: bytes, says: str) -> None:
    """An owner cannot see the flash, so the message says what is there instead of a kmodel and what to do."""
    with pytest.raises(posenet.ModelError, match=f"kmodel at 0x300000.*{says}.* Run flash.py.$"):
        posenet._check_head(head, "0x300000")
