"""What to put on a board: a network, built if it is missing, the scripts, a MaixPy image."""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from common import kfpkg, rom_image, spiffs
from common.cli import near, parse_size
from common.errors import FormatError, NotObtainableError, UserError
from common.firmware_modules import FIRMWARE_DIR
from common.flash_map import FILES_ADDRESS
from common.flash_parts import FlashPart
from common.pictures import CAMERA_SIZE
from common.text import ROOT
from host_tools.flashing import Ui, Wanted
from model_build import catalog
from model_build.build import build
from model_build.build_folder import BuildFolder, default_folder
from model_build.calibration import choose
from model_build.importers import check_name
from model_build.importers.tflite_file import IDENTIFIER as TFLITE
from model_build.kpu import constraints, kmodel_v3
from model_build.manifest import FILE_NAME as MANIFEST
from model_build.manifest import Manifest

BROUGHT_ALONG = ("probe.py",)
"""Files that a command copies to a board when it needs them; boards need not hold them."""
SETTINGS = "settings.json"
CAMERA_LIMIT = "{}x{}".format(*CAMERA_SIZE)
OUTPUT_STRIDE = 16
"""PoseNet's own output stride, and the smallest that the KPU can compute."""
WHAT_OURS_SEE = {
    catalog.OURS: "people-k210 is not PoseNet: it was trained by this project and finds fewer people",
    catalog.DEMO: "demo is not PoseNet: it was trained on rendered people and finds rendered people only",
}
POSENET_COMES_BY = "PoseNet's own weights: `python -m model_build fetch posenet-075`"


class NotThereError(UserError):
    """Dry run: something would have to be built or downloaded first; the text says what."""


@dataclass
class Payload:
    """The parts for the flash and the files for /flash."""

    name: str
    parts: list[FlashPart]
    files: dict[str, bytes] = field(default_factory=dict)
    firmware: FlashPart | None = None
    heap_bytes: int = 0
    """The bytes of MaixPy's system heap that the loaded network takes."""
    mount: int = 0
    """Degrees clockwise by which the camera is turned for which the network was built."""
    to_make: tuple[str, ...] = ()
    """Dry run: what does not exist yet and so is not among the parts, one line for each."""
    folder: Path | None = None
    """The build folder from which the payload was made."""

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
    dry_run: bool = False,
) -> Payload:
    """The payload that flash.py's options ask for; its network is built if it is missing.

    for_camera: the firmware's own program will run it, so a size that no camera gives is refused before a build.
    dry_run: nothing is built or downloaded; `to_make` tells what would be.
    """
    if model and model.endswith(".kfpkg"):
        return of_package(Path(model))
    of_size = parse_size(size) if size else None
    if of_size:
        check_size(*of_size, for_camera)
    to_make = []
    image = None
    try:
        image = firmware_part(firmware, dry_run)
    except NotThereError as missing:
        to_make.append(str(missing))
    try:
        folder = build_folder(model, of_size, calibration, ui, mount or 0, dry_run)
    except NotThereError as missing:
        return Payload(model or default_models()[0], [], own_scripts(), image, 0, mount or 0, (*to_make, str(missing)))
    part, files, manifest = load_build(folder)
    if mount is not None and manifest.mount != mount:
        raise UserError(
            f"{model} is built for mount {manifest.mount}, not {mount}; build it again with --mount {mount}",
            exit_code=2,
        )
    if for_camera:
        check_camera_size(manifest.width, manifest.height)
    facts = manifest.kmodel
    heap_bytes = facts.bytes + facts.main_mem_bytes
    return Payload(manifest.network, [part], files, image, heap_bytes, manifest.mount, tuple(to_make), folder)


def of_package(path: Path) -> Payload:
    """The parts of a .kfpkg. From a package with our scripts the files are taken, so that other files on the board
    stay.

    settings.json is left out: a board keeps its own.
    """
    parts = kfpkg.read(path)
    image = next((part for part in parts if part.address_bytes == 0), None)
    parts = [part for part in parts if part is not image]
    for part in parts:
        if part.address_bytes == FILES_ADDRESS:
            with contextlib.suppress(FormatError):
                files = spiffs.files(part.data)
                if MANIFEST in files:
                    files.pop(SETTINGS, None)
                    return Payload(str(path), [other for other in parts if other is not part], files, image)
    return Payload(str(path), parts, {}, image)


def check_size(width: int, height: int, for_camera: bool) -> None:
    """UserError for a size that could not be built or, for_camera, that no board's camera would give.

    The message names the nearest possible size, so that a second attempt is not refused for another reason.
    """
    if not for_camera:
        constraints.check_size(width, height, OUTPUT_STRIDE)
        return
    near_width, near_height = constraints.nearest_size(width, height, OUTPUT_STRIDE, CAMERA_SIZE)
    if (width, height) != (near_width, near_height):
        raise UserError(
            f"{width}x{height}: the camera gives up to {CAMERA_LIMIT}, and networks take multiples of {OUTPUT_STRIDE} "
            f"from 64x64 on; the nearest is {near_width}x{near_height} (or --no-start, for a program of your own "
            f"without a camera)",
            exit_code=2,
        )


def check_camera_size(width: int, height: int) -> None:
    """UserError if firmware/posenet.py's start_camera would refuse the size."""
    if width > CAMERA_SIZE[0] or height > CAMERA_SIZE[1] or width % 8 or height % 8:
        raise UserError(
            f"{width}x{height}: the camera gives up to {CAMERA_LIMIT}, multiples of 8; give such a size, or --no-start "
            f"for a program of your own without a camera",
            exit_code=2,
        )


def build_folder(
    model: str | None,
    size: tuple[int, int] | None,
    calibration: Path | None,
    ui: Ui,
    mount: int = 0,
    dry_run: bool = False,
) -> Path:
    """The build folder of `model`; under build/ it is built if it is missing or old, or if `calibration` is given.

    Without a size it has the network's usual one. Without a model, another network is used if the default's weights
    cannot be obtained. Dry run: NotThereError if something would be built.
    """
    if model and Path(model).is_dir():
        return Path(model)
    if model and model.endswith(".kmodel") and Path(model).is_file():
        if not (Path(model).parent / MANIFEST).is_file():
            check_kmodel(Path(model).read_bytes(), model)
            raise UserError(
                f"{model}: no posenet.json beside it, and without that the board cannot read the network's outputs; "
                f"give a build folder or a network's name"
            )
        return Path(model).parent
    if model:
        check_name(model)
    candidates = [model] if model else default_models()
    for name in candidates:
        of_size = size or catalog.usual_size(name)
        folder = default_folder(Path(name).stem, *of_size, root=ROOT / "build", mount=mount)
        try:
            path = _up_to_date(name, of_size, folder, calibration, ui, mount, dry_run)
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
    name: str, size: tuple[int, int], folder: BuildFolder, calibration: Path | None, ui: Ui, mount: int, dry_run: bool
) -> Path:
    """The folder, which is built unless today's sources have made it already."""
    # is_complete() finishes a replacement that was interrupted, which a dry run must not do.
    is_there = calibration is None and (folder.path.exists() or not dry_run) and folder.is_complete()
    if is_there and folder.is_current():
        return folder.path
    if dry_run:
        if calibration is not None:
            choose(calibration)  # This refuses what a build would refuse.
        raise NotThereError(to_build(name, size, folder.path, is_there, calibration))
    if is_there:
        ui.detail(f"{folder.path} is of another version: building it again (photos of your own: --calibration)")
    try:
        return _build(name, size, folder.path, calibration, ui, mount)
    except UserError as error:
        if not is_there:
            raise
        ui.detail(f"going on with the old build: {error}")
        return folder.path


def to_build(name: str, size: tuple[int, int], folder: Path, is_there: bool, calibration: Path | None) -> str:
    """What a real run would build, and what it would need for that."""
    again = (
        " again, it is of another version,"
        if is_there
        else f", with the photos of {calibration},"
        if calibration
        else ""
    )
    entry = catalog.find(name)
    weights = ""
    if entry is not None and catalog.locate(entry) is None:
        weights = f" after its weights were downloaded from {entry.url}"
        if name == default_models()[0]:
            weights += f" ({catalog.OURS} in its place where they cannot be had)"
    return f"{name} for {size[0]}x{size[1]} would be built{again} into {folder}{weights}"


def _build(name: str, size: tuple[int, int], out: Path, calibration: Path | None, ui: Ui, mount: int) -> Path:
    ui.step(f"building {name} for {size[0]}x{size[1]}")
    return build(name, *size, out_dir=out, calibration_dir=calibration, say=ui.detail, mount=mount).path


def default_models() -> list[str]:
    """Networks to try if none is named: PoseNet's own weights, then the small network that comes with this project."""
    return [catalog.DEFAULT_NETWORK, catalog.OURS]


def check_kmodel(data: bytes, name: str) -> None:
    """FormatError unless it is a kmodel V3, the one that every MaixPy loads."""
    if data[:4] == kmodel_v3.LATER_BEGINNING and len(data) >= 8:
        version = int.from_bytes(data[4:8], "little")
        why = {4: "only some MaixPy builds load it", 5: "no MaixPy loads it, some crash on it"}.get(version, "")
        raise FormatError(
            f"{name} is a kmodel V{version} ({why or 'unknown'}); build a V3 with `python -m model_build build`"
        )
    if data[:4] != kmodel_v3.BEGINNING:
        raise FormatError(f"{name} is not a kmodel V3 (it begins with {data[:4].hex()}); give a build folder")


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
    files = own_scripts()
    files[MANIFEST] = build.manifest.read_bytes()
    return FlashPart(build.kmodel.name, facts.flash_address, data), files, manifest


def own_scripts() -> dict[str, bytes]:
    """Name → contents of the scripts that every board gets."""
    sources = [path for path in sorted(FIRMWARE_DIR.glob("*.py")) if path.name not in BROUGHT_ALONG]
    return {path.name: path.read_bytes() for path in sources}


def own_files() -> list[str]:
    """Names of the files that this project puts on a board."""
    return [*(path.name for path in sorted(FIRMWARE_DIR.glob("*.py"))), MANIFEST, SETTINGS]


def firmware_part(source: str, dry_run: bool = False) -> FlashPart | None:
    """A MaixPy image in the form for the flash, from a release's name, a file or a URL; None for `none`.

    Dry run: NotThereError if it would be downloaded.
    """
    if source == "none":
        return None
    path = firmware_file(source, dry_run)
    if path.suffix == ".kfpkg":
        image = next((part for part in kfpkg.read(path) if part.address_bytes == 0), None)
        if image is None:
            raise UserError(
                f"--firmware {source}: the package has no part for address 0, so it holds no MaixPy; see --model"
            )
        return image
    return FlashPart(path.name, 0, rom_image.wrap(maixpy_program(path.read_bytes(), f"--firmware {source}")))


def firmware_file(source: str, dry_run: bool = False) -> Path:
    """The file of a release's name, a path or a URL, downloaded if need be; UserError if there is none."""
    entry = catalog.find(source, "firmware")
    is_url = "://" in source
    if dry_run and (entry is not None and catalog.locate(entry) is None or is_url and not catalog.is_cached(source)):
        raise NotThereError(f"MaixPy would be downloaded from {entry.url if entry is not None else source}")
    if entry is not None:
        path = catalog.obtain(entry)
    elif is_url:
        path = catalog.from_url(source)
    else:
        path = Path(source)
    if not path.is_file():
        names = catalog.names("firmware")
        raise UserError(
            f"--firmware {source}: no such file, and no known release{near(source, names)} ({', '.join(names)})"
        )
    return path


# The beginnings of files that are often mistaken for a firmware, and what they are.
_STRANGERS = (
    (kmodel_v3.BEGINNING, "a kmodel V3, a network; give its build folder as --model"),
    (kmodel_v3.LATER_BEGINNING, "a kmodel, a network; give its build folder as --model"),
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
        # In a dump of flash the program is wrapped already.
        try:
            data = rom_image.unwrap(data)
        except FormatError:
            if b"\xef\xbe\xad\xde" in data[:20]:
                raise FormatError(f"{name} is a MaixPy with its flash header, but damaged; get it again") from None
    is_program = b"\xef\xbe\xad\xde" in data[:12]
    if is_program and b"MicroPython" in data and len(data) <= rom_image.MAX_PAYLOAD_BYTES:
        return data
    if is_program:
        too_long = len(data) > rom_image.MAX_PAYLOAD_BYTES
        what = "a K210 program, but " + ("longer than its memory" if too_long else "not MaixPy")
    elif not data.strip(b"\0") or not data.strip(b"\xff"):
        what = "empty: only zeros or FF" if data else "empty"
    elif data[4:8] == TFLITE:
        what = "a TFLite network; give it as --model"
    elif data.lstrip()[:1] == b"<":
        what = "a web page; the link leads to the page and not to the file"
    else:
        what = next((words for begin, words in _STRANGERS if data.startswith(begin)), "no K210 program")
    names = ", ".join(known.name for known in catalog.FIRMWARE)
    raise FormatError(
        f"{name} is {what} ({len(data)} bytes, begins with {data[:8].hex()}); MaixPy releases known here: {names}"
    )
