"""What is to be put on a board: a network, built if it is missing, the scripts, a MaixPy image."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common import flash_package, rom_image
from common.cli import parse_size
from common.errors import FormatError, NotObtainableError, UserError
from common.flash_parts import FlashPart
from host_tools import m5stickv
from host_tools.flashing import Ui, Wanted
from model_build import catalog
from model_build.build import build
from model_build.build_folder import BuildFolder, default_folder

if TYPE_CHECKING:
    from model_build.build_folder import BuildFolder
    from model_build.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent
FIRMWARE_DIR = ROOT / "firmware"
BROUGHT_ALONG = ("probe.py",)
"""What a command puts on a board when it needs it: no board has to hold it."""
WHAT_OURS_SEE = {
    catalog.OURS: "people-k210 is not PoseNet: it was trained by this project and finds fewer people",
    catalog.DEMO: "demo is not PoseNet: it was trained on rendered people and finds rendered people only",
}
POSENET_COMES_BY = "PoseNet's own weights: python -m model_build fetch posenet-075"


@dataclass
class Payload:
    """Parts for the flash and files for /flash."""

    name: str
    parts: list[FlashPart]
    files: dict[str, bytes] = field(default_factory=dict)
    firmware: FlashPart | None = None
    heap_bytes: int = 0
    """Of MaixPy's system heap, that the network takes when it is loaded."""
    mount: int = 0
    """Degrees clockwise by which the camera is turned that the network was built for."""

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.parts, self.files, self.firmware)


def payload_of(
    model: str | None,
    size: str | None,
    firmware: str,
    calibration: Path | None,
    ui: Ui,
    for_camera: bool = True,
    mount: int | None = None,
) -> Payload:
    """What is asked for, built if it is missing; the arguments are those of flash.py's options.

    for_camera: the firmware's own program will run it, so a size that no camera gives is refused, before a build.
    """
    if model and model.endswith(".kfpkg"):
        parts = flash_package.read(Path(model))
        image = next((part for part in parts if part.address_bytes == 0), None)
        return Payload(model, [part for part in parts if part is not image], {}, image)
    of_size = parse_size(size) if size else None
    if of_size and for_camera:
        check_camera_size(*of_size)
    image = firmware_part(firmware)
    part, files, manifest = load_build(build_folder(model, of_size, calibration, ui, mount or 0))
    if mount is not None and manifest.mount != mount:
        raise UserError(
            f"{model} is built for mount {manifest.mount}, not {mount}; build it again with --mount {mount}",
            exit_code=2,
        )
    if for_camera:
        check_camera_size(manifest.width, manifest.height)
    facts = manifest.kmodel
    return Payload(manifest.network, [part], files, image, facts.bytes + facts.main_mem_bytes, manifest.mount)


def check_camera_size(width: int, height: int) -> None:
    """UserError where firmware/posenet.py's start_camera would refuse."""
    if width > 320 or height > 240 or width % 8 or height % 8:
        raise UserError(
            f"{width}x{height}: the camera gives up to 320x240, multiples of 8; give such a size, or --no-start for a "
            f"program of your own without a camera",
            exit_code=2,
        )


def build_folder(
    model: str | None, size: tuple[int, int] | None, calibration: Path | None, ui: Ui, mount: int = 0
) -> Path:
    """The build folder of `model`; under build/ it is built when it is missing or old, or `calibration` is given.

    Without a size it is for the network's usual one; without a model `demo` stands in for weights that cannot be had.
    """
    if model and Path(model).is_dir():
        return Path(model)
    if model and model.endswith(".kmodel") and Path(model).is_file():
        if not (Path(model).parent / "posenet.json").is_file():
            check_kmodel(Path(model).read_bytes(), model)
            raise UserError(
                f"{model}: no posenet.json beside it, and without that the board cannot read the network's outputs; "
                f"give a build folder or a network's name"
            )
        return Path(model).parent
    candidates = [model] if model else default_models()
    for name in candidates:
        of_size = size or catalog.usual_size(name)
        folder = default_folder(Path(name).stem, *of_size, root=ROOT / "build", mount=mount)
        try:
            path = _up_to_date(name, of_size, folder, calibration, ui, mount)
        except NotObtainableError as error:
            if name == candidates[-1]:
                raise
            ui.detail(f"{error}")
            continue
        if name in WHAT_OURS_SEE:
            ui.detail(f"{WHAT_OURS_SEE[name]}; {POSENET_COMES_BY}")
        return path
    raise AssertionError("no network to try")


def _up_to_date(
    name: str, size: tuple[int, int], folder: BuildFolder, calibration: Path | None, ui: Ui, mount: int
) -> Path:
    """The folder, built unless it is there already and made by the sources as they are now."""
    is_there = folder.is_complete() and calibration is None
    if is_there and folder.is_current():
        return folder.path
    if is_there:
        ui.detail(f"{folder.path} is of another version: building it again (photos of your own: --calibration)")
    try:
        return _build(name, size, folder.path, calibration, ui, mount)
    except UserError as error:
        if not is_there:
            raise
        ui.detail(f"going on with the old build: {error}")
        return folder.path


def _build(name: str, size: tuple[int, int], out: Path, calibration: Path | None, ui: Ui, mount: int) -> Path:
    ui.step(f"building {name} for {size[0]}x{size[1]}")
    return build(name, *size, out_dir=out, calibration_dir=calibration, say=ui.detail, mount=mount).path


def default_models() -> list[str]:
    """Networks to try when none is named: PoseNet's own weights, then the small network that comes with this."""
    return [catalog.DEFAULT_NETWORK, catalog.OURS]


def check_kmodel(data: bytes, name: str) -> None:
    """FormatError unless it is a kmodel V3, the one that every MaixPy loads."""
    if data[:4] == b"LDMK" and len(data) >= 8:
        version = int.from_bytes(data[4:8], "little")
        why = {4: "only some MaixPy builds load it", 5: "no MaixPy loads it, some crash on it"}.get(version, "")
        raise FormatError(
            f"{name} is a kmodel V{version} ({why or 'unknown'}); build a V3 with `python -m model_build build`"
        )
    if data[:4] != b"\x03\x00\x00\x00":
        raise FormatError(f"{name} is no kmodel V3 (it begins with {data[:4].hex()}); give a build folder")


def load_build(folder: Path) -> tuple[FlashPart, dict[str, bytes], Manifest]:
    """(kmodel for the flash, files for the board, manifest) of a build folder, checked against each other."""
    build = BuildFolder(folder)
    manifest = build.load_manifest()
    if not build.kmodel.is_file():
        raise UserError(f"{folder} has no {build.kmodel.name}; build it again with `python -m model_build build`")
    data = build.kmodel.read_bytes()
    check_kmodel(data, str(build.kmodel))
    facts = manifest.kmodel
    if (len(data), zlib.crc32(data)) != (facts.bytes, facts.crc32):
        raise UserError(
            f"{build.kmodel} ({len(data)} bytes, crc32 {zlib.crc32(data):08x}) is not the one that posenet.json names "
            f"({facts.bytes} bytes, crc32 {facts.crc32:08x}); build it again"
        )
    sources = [path for path in sorted(FIRMWARE_DIR.glob("*.py")) if path.name not in BROUGHT_ALONG]
    files = {path.name: path.read_bytes() for path in sources}
    files["posenet.json"] = build.manifest.read_bytes()
    return FlashPart("posenet.kmodel", facts.flash_address, data), files, manifest


def own_files() -> list[str]:
    """Names of the files that this project puts on a board."""
    return [*(path.name for path in sorted(FIRMWARE_DIR.glob("*.py"))), m5stickv.MANIFEST, "settings.json"]


def firmware_part(source: str) -> FlashPart | None:
    """A MaixPy image as it must stand in flash, from a release's name, a file or a URL; None for `none`."""
    if source == "none":
        return None
    path = firmware_file(source)
    if path.suffix == ".kfpkg":
        image = next((part for part in flash_package.read(path) if part.address_bytes == 0), None)
        if image is None:
            raise UserError(f"--firmware {source}: no part of the package is for address 0, so no MaixPy; see --model")
        return image
    return FlashPart(path.name, 0, rom_image.wrap(maixpy_program(path.read_bytes(), f"--firmware {source}")))


def firmware_file(source: str) -> Path:
    """The file of a release's name, a path or a URL, downloaded if need be; UserError where there is none."""
    entry = catalog.find(source, "firmware")
    if entry is not None:
        path = catalog.obtain(entry)
    elif "://" in source:
        path = catalog.from_url(source)
    else:
        path = Path(source)
    if not path.is_file():
        names = ", ".join(known.name for known in catalog.FIRMWARE)
        raise UserError(f"--firmware {source}: no such file, and no known release ({names})")
    return path


# Beginnings of files that people take for a firmware, and what they are.
_STRANGERS = (
    (b"\x03\0\0\0", "a kmodel V3, a network; give its build folder as --model"),
    (b"LDMK", "a kmodel, a network; give its build folder as --model"),
    (b"KMDL", "a kmodel, a network; give its build folder as --model"),
    (b"PK\x03\x04", "a zip archive; a .kfpkg is given as --model, of another one unpack the .bin"),
    (b"\x1f\x8b", "a gzip archive; unpack the .bin from it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack the .bin from it"),
    (b"Rar!", "a rar archive; unpack the .bin from it"),
    (b"\xfd7zXZ", "an xz archive; unpack the .bin from it"),
    (b"\x7fELF", "an ELF file; take the .bin that is made from it"),
    (b"UF2\n", "a UF2 file, for another chip"),
    (b"\xe9", "an image for an ESP32 or ESP8266"),
    (b":", "an Intel HEX file; convert it to a .bin"),
    (b"version https://git-lfs", "a pointer of Git LFS; get the file itself (git lfs pull)"),
)


def maixpy_program(data: bytes, name: str) -> bytes:
    """The program of a MaixPy .bin, or of a dump of flash that begins with one; FormatError says what it is instead.

    Programs of the Kendryte SDK begin with a jump over 0xDEADBEEF (lib/bsp/crt.S).
    """
    if rom_image.stored_bytes(data[:5].ljust(5, b"\xff")) and data[3:5] != b"\0\0":
        # A dump of flash: the program is wrapped already.
        try:
            data = rom_image.unwrap(data)
        except FormatError:
            if b"\xef\xbe\xad\xde" in data[:20]:
                raise FormatError(f"{name} is a MaixPy for the flash, wrapped, and damaged; get it again") from None
    is_program = b"\xef\xbe\xad\xde" in data[:12]
    if is_program and b"MicroPython" in data and len(data) <= rom_image.MAX_PAYLOAD_BYTES:
        return data
    if is_program:
        too_long = len(data) > rom_image.MAX_PAYLOAD_BYTES
        what = "a K210 program, but " + ("longer than its memory" if too_long else "not MaixPy")
    elif not data.strip(b"\0") or not data.strip(b"\xff"):
        what = "empty: only zeros or FF" if data else "empty"
    elif data[4:8] == b"TFL3":
        what = "a TFLite network; give it as --model"
    elif data.lstrip()[:1] == b"<":
        what = "a web page; the link leads to the page and not to the file"
    else:
        what = next((words for begin, words in _STRANGERS if data.startswith(begin)), "no K210 program")
    names = ", ".join(known.name for known in catalog.FIRMWARE)
    raise FormatError(
        f"{name} is {what} ({len(data)} bytes, begins with {data[:8].hex()}); MaixPy releases known here: {names}"
    )
