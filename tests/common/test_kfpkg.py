"""Packages and pictures from elsewhere: as other tools write them, damaged, or made to fill the memory."""

import zipfile

import pytest

import flash
from common import kfpkg
from common.errors import FormatError, UserError
from common.pictures import load_picture
from model_build.inspect.read_file import describe

DATA = b"data" * 300
OTHERS = """{
  "version": "0.1.0",
  "files": [
    { "address": 0x00300000, "bin": "m.kmodel", "sha256Prefix": false, },
  ],
}"""


def package(path, listing, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flash-list.json", listing)
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_hexadecimal_addresses_and_trailing_commas_are_read(tmp_path):
    """Most packages of M5Stack and others contain both, though neither is JSON. flash.py and inspect read them."""
    path = package(tmp_path / "x.kfpkg", OTHERS, {"m.kmodel": DATA})
    assert [(part.name, part.address_bytes, part.data) for part in kfpkg.read(path)] == [("m.kmodel", 0x300000, DATA)]
    assert describe(path).tables[0].rows == [("m.kmodel", "0x300000", len(DATA))]


@pytest.mark.parametrize(
    ("listing", "files"),
    [
        (OTHERS, {"m.kmodel": bytes(200 << 20)}),
        (OTHERS + " " * (2 << 20), {"m.kmodel": DATA}),
        ('{"files": [{"bin": "no", "address": 0}]}', {}),
        ('{"files": [' * 3000, {}),
        ('{"files": 3}', {}),
        ("[]", {}),
        ('{"files": [{"bin": "m.kmodel", "address": "south"}]}', {"m.kmodel": DATA}),
        ('{"files": [{"bin": "m.kmodel", "address": -5}]}', {"m.kmodel": DATA}),
        ('{"files": [{"bin": "m.kmodel", "address": 0x1000000}]}', {"m.kmodel": DATA}),
    ],
    ids=["200 MiB", "long list", "absent", "deep", "number", "array", "address", "negative", "beyond the flash"],
)
def test_traps_and_damaged_packages_are_refused(tmp_path, listing, files):
    """A small file that unpacks to hundreds of megabytes is refused before it is unpacked, and damage is one error."""
    path = package(tmp_path / "x.kfpkg", listing, files)
    for reader in (kfpkg.read, describe):
        with pytest.raises(FormatError):
            reader(path)
    assert flash.main(["--dry-run", "--model", str(path)]) == 1


def test_a_picture_of_400_megapixels_is_refused(tmp_path):
    """Twenty kilobytes of PNG can hold 400 megapixels, which would fill the computer's memory."""
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 200_000
    with pytest.raises(UserError, match=r"20000x20000 pixels|damaged or unreadable"):
        load_picture(tmp_path / "x.png")
    Image.new("1", (11_000, 11_000)).save(tmp_path / "y.png")
    with pytest.raises(UserError, match="11000x11000 pixels; give one of at most 100 megapixels"):
        load_picture(tmp_path / "y.png")
