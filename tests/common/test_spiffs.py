"""MaixPy's file system as an image. tests/whole_way/test_package_on_maixpy.py shows that MaixPy reads and writes it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import spiffs
from common.errors import FormatError, UserError
from common.flash_map import FILES_BYTES

NAMES = st.text(st.characters(exclude_characters="/\\:\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
FILES = st.dictionaries(
    NAMES.filter(lambda name: name not in (".", "..") and "\ufffd" not in name), st.binary(max_size=9000), max_size=8
)
PAGE = spiffs.PAGE_BYTES
ONE = {"main.py": b"print('hello')\n" * 600}
IMAGE = spiffs.image(ONE)


@settings(max_examples=25, deadline=None)
@given(FILES)
def test_an_image_gives_back_the_files_it_was_made_of(files):
    """Files of any contents, empty ones too, must arrive on the board unchanged and in the same order."""
    area = spiffs.image(files)
    assert len(area) == FILES_BYTES
    assert list(spiffs.files(area).items()) == list(files.items())


@pytest.mark.parametrize("length", [0, 1, spiffs.DATA_BYTES, spiffs.DATA_BYTES + 1, 9000])
def test_the_predicted_size_of_a_file_is_what_it_takes(length):
    """flash.py says beforehand whether files fit, so the prediction must equal the pages that the image uses."""
    area = spiffs.image({"x": bytes(length)})
    written = sum(area[at] != 0xFF for at in range(PAGE, 10 * PAGE, PAGE))
    assert spiffs.taken_bytes(length) == written * PAGE


def test_the_image_has_the_bytes_that_maixpy_writes():
    """The expected bytes are those of an emulated board's flash after MaixPy had written freq.conf first."""
    area = spiffs.image({"freq.conf": bytes(16)})
    assert area[:6].hex() == "01800100ffff" and area[PAGE - 4 : PAGE].hex() == "31150000"
    assert area[spiffs.BLOCK_BYTES + PAGE - 4 :][:4].hex() == "3e150000"
    index = area[PAGE : 2 * PAGE]
    assert index[:5].hex() == "01800000f8" and index[8:23] == b"\x10\0\0\0\1/freq.conf"
    assert index[142:146].hex() == "0200ffff" and area[2 * PAGE :][:5].hex() == "01000000fc"


def test_two_blocks_stay_free():
    """SPIFFS needs two free blocks to work. A file that fills all other blocks fits, and one more byte is refused."""
    room = (spiffs.BLOCKS - spiffs.SPARE_BLOCKS) * (spiffs.PAGES_PER_BLOCK - 1) - 1
    full = bytes(room * spiffs.DATA_BYTES)
    assert spiffs.files(spiffs.image({"full": full})) == {"full": full}
    with pytest.raises(UserError, match="do not fit"):
        spiffs.image({"full": full + b"x"})


@pytest.mark.parametrize("name", ["", "a/b", "n" * 127, "a\0b"])
def test_names_that_spiffs_cannot_hold_are_refused(name):
    """A name that MaixPy would cut or read as a folder must be refused before anything is written."""
    with pytest.raises(UserError, match="cannot be a name on /flash"):
        spiffs.image({name: b""})


def image_with_name(name):
    """An image with one file, whose name was written by another tool."""
    area = spiffs.image({"nnnnnnnn": b"data"})
    assert area.count(b"/nnnnnnnn") == 1
    return area.replace(b"/nnnnnnnn", name.ljust(9, b"\0"))


@pytest.mark.parametrize("name", [b"/..", b"/../x", b"/", b"", b"/a\\b", b"/\xff"])
def test_names_that_would_leave_the_folder_are_refused(name):
    """An image from elsewhere is unpacked into a folder of this computer; its names must not lead out of it."""
    with pytest.raises(FormatError, match="impossible name"):
        spiffs.files(image_with_name(name))


def test_a_name_may_lack_the_slash():
    """Other tools for SPIFFS write names without it."""
    assert spiffs.files(image_with_name(b"x")) == {"x": b"data"}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5 * PAGE - 1), st.integers(1, 255), st.booleans())
def test_a_changed_byte_is_refused_or_stays_inside_one_file(at, mask, in_magic):
    """Any byte of an image may be damaged. It is refused, or it changes or hides the one file that it belongs to."""
    area = bytearray(IMAGE)
    at = PAGE - 4 + at % 2 if in_magic else at
    area[at] ^= mask
    try:
        found = spiffs.files(bytes(area))
    except FormatError:
        return
    assert not in_magic and len(found) <= 1
    assert all(len(data) <= len(ONE["main.py"]) + PAGE * spiffs.PAGES_PER_BLOCK for data in found.values())


def test_other_contents_are_no_file_system():
    """An empty flash, or one with other contents, must not be read as a file system with strange files."""
    for area in (b"", b"\xff" * FILES_BYTES, bytes(FILES_BYTES), IMAGE[:-1]):
        with pytest.raises(FormatError, match="file system of MaixPy"):
            spiffs.files(area)


def test_pages_that_were_being_written_or_removed_are_no_files():
    """A power cut leaves a page whose entry is there but whose flags say that it is incomplete or deleted."""
    for flags in (0xFF, 0xFE, 0xFA, 0xB8, 0x78):
        area = bytearray(IMAGE)
        area[PAGE + 4] = flags
        assert spiffs.files(bytes(area)) == {}
