"""Networks and firmware images known by name: where they come from, how long they are, their SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.errors import NotObtainableError, UserError
from common.files import atomic_path, sha256_of
from common.pictures import CAMERA_SIZE
from model_build.importers import tfjs_checkpoint

CORAL = (
    "https://raw.githubusercontent.com/google-coral/project-posenet/"
    "37cfb84eaff9fa7a02bbc8b60a36d6d422859c5f/models/mobilenet/"
)
TFJS = "https://storage.googleapis.com/tfjs-models/weights/posenet/"
MAIXPY = "https://dl.sipeed.com/fileList/MAIX/MaixPy/release/master/"

# Names of the MaixPy builds that are recommended for one board or another.
MINIMUM_MAIXPY = "maixpy-minimum"
M5STICKV_MAIXPY = "m5stickv-5.1.2"
AMIGO_MAIXPY = "amigo-0.5.1-92"
TWATCH_MAIXPY = "twatch-0.6.2-75"
LILYGO_M1_MAIXPY = "lilygo-m1-0.6.2-35"
CANMV = "canmv-lite-1.0.7"
DNK210_CANMV = "canmv-dnk210-lite-1.0.7"


@dataclass(frozen=True)
class Entry:
    """A file that can be obtained by name."""

    name: str
    url: str
    bytes: int | None
    sha256: str | None
    what: str
    kind: str = "network"
    also: tuple[str, ...] = ()
    """Other names of this entry; a name that several entries share means the first that is on this machine."""
    whole_sha256: str | None = None
    """The SHA-256 of a file and its parts together (a tfjs checkpoint: the manifest, then its parts by name)."""
    path: Path | None = None
    """Where the file is inside this repository, if it comes with it."""
    appear_score: float = 0.0
    """The board's tracker begins a person with poses of this score; chosen against ghosts (docs/accuracy.md)."""

    @property
    def file(self) -> str:
        """The name of the file, which its path or its URL ends with."""
        return self.path.name if self.path is not None else _last_part(self.url)


def _last_part(url: str) -> str:
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name


_OURS = Path(__file__).resolve().parent / "train"
"""The folder of the weights that come with the repository."""

NETWORKS: tuple[Entry, ...] = (
    Entry(
        "posenet-075-tfjs",
        TFJS + "mobilenet_v1_075/manifest.json",
        11_027,
        "94427981604b907732af94bb147e7af1dee1b4c5a00b1cd7ee2e72da5678bbc7",
        "PoseNet 0.75 of TensorFlow.js, float32 checkpoint",
        kind="tfjs-checkpoint",
        also=("posenet-075",),
        whole_sha256="2a2125ac6501ca86c1b666b7dff4aa5617d9ca4b41971e0aa649e3c6fb0c3d26",
        appear_score=0.8,
    ),
    Entry(
        "posenet-075-coral",
        CORAL + "components/posenet_mobilenet_v1_075_353_481_quant.tflite",
        1_298_664,
        "d589f727ee72effba3e8211b04c284fc65fc0a22907c161e2d6c080244d5c264",
        "PoseNet 0.75, Coral's training for 8 bits",
        also=("posenet-075",),
    ),
    Entry(
        "posenet-075-coral-decoder",
        CORAL + "posenet_mobilenet_v1_075_353_481_quant_decoder.tflite",
        1_299_352,
        "7519aebd2c9052089bdcfaf222b03db1212f05f5942660fc076446a13708b042",
        "the same weights with Coral's decoder behind them",
    ),
    Entry(
        "posenet-050-pb",
        "https://raw.githubusercontent.com/pranoy1234/Posture_detection/"
        "8f27585e626f5d01ccd2241be22f1e12c961ebdf/_models/model-mobilenet_v1_050.pb",
        2_339_478,
        "12bfdcaae8c750aab6c66eebf64bdbbf8af625879fa19af1d2d02b16e83bc51c",
        "PoseNet 0.50 of TensorFlow.js as posenet-python froze it",
        also=("posenet-050",),
    ),
    Entry(
        "people-k210",
        "",
        None,
        None,
        "trained by this project on photos, in a form for this chip; comes with it",
        kind="ours",
        path=_OURS / "people_k210_weights.npz",
        appear_score=0.8,
    ),
    Entry(
        "demo",
        "",
        None,
        None,
        "smaller network for rendered people only; comes with it",
        kind="ours",
        path=_OURS / "demo_weights.npz",
    ),
)


_V84 = "maixpy_v0.6.2_84_g8fcd84a58"


def _firmware(name: str, suffix: str, size: int, sha256: str, what: str) -> Entry:
    return Entry(name, f"{MAIXPY}{_V84}/{_V84}{suffix}.bin", size, sha256, what, kind="firmware")


def _github(name: str, path: str, size: int, sha256: str, what: str) -> Entry:
    return Entry(name, "https://raw.githubusercontent.com/" + path, size, sha256, what, kind="firmware")


FIRMWARE: tuple[Entry, ...] = (
    _firmware(
        MINIMUM_MAIXPY,
        "_minimum_with_ide_support",
        720_640,
        "6258b0ccb3cf439aefc876eca1d603c06aeb94da973a2a5b5a072f44f79307e6",
        "MaixPy 0.6.2-84, smallest, with IDE support; kmodel V3",
    ),
    _firmware(
        "maixpy-lvgl",
        "_with_lvgl",
        2_356_416,
        "5ab10e24c02f6b025263773d1d14ccacaafab9bfbf57de95a43a6cdf22e59828",
        "MaixPy 0.6.2-84 with LittlevGL; kmodel V3",
    ),
    _firmware(
        "maixpy",
        "",
        2_115_264,
        "edbdd364c2a2ab0fe25cc944d2dfc46fdf9ec112217450b88d34276cd3c769f7",
        "MaixPy 0.6.2-84, full; kmodel V3 and V4",
    ),
    _firmware(
        "maixpy-openmv-v4",
        "_openmv_kmodel_v4_with_ide_support",
        1_521_856,
        "6e6c778e2f50cfad4763d3708bb5b1660393852f6db2ce912bd661254ac89d6c",
        "MaixPy 0.6.2-84, OpenMV API; kmodel V3 and V4",
    ),
    _github(
        M5STICKV_MAIXPY,
        "kvant666ubl/kflash.py/6b24df0b7eb2bee57c76d25cc21caa6802c50caf/M5StickV_Firmware_v5.1.2.kfpkg",
        1_591_026,
        "a111cf581e88fd5a3ba009157c1729f456ef147689a2cce68a75e1421853b7ae",
        "M5Stack's package for M5StickV and UnitV, MaixPy 0.5.0-98; kmodel V3",
    ),
    _github(
        "m5stickv-0.5.0-9",
        "ksasao/brownie/f1dbf960e97e120a967f03745e39a73aafb12625/materials/maixpy_v0.5.0_9_g8eba07d_m5stickv.bin",
        1_680_576,
        "b63833566943605b43532406292979cffb6a9d938305cd58ba2e881de066d91c",
        "MaixPy 0.5.0-9 for M5StickV and UnitV; kmodel V3",
    ),
    _github(
        "m5stickv-0.6.3",
        "Coreymillia/StickV-CYD-Display-Snap-Camera/bed667c6360c39c8448dcf41a59a91753948b4fd/"
        "maixpy_v0.6.3_m5stickv.bin",
        2_100_672,
        "3f9554724c4397baeec2b1460aab2530ce7738c8d82970e8519181a3e05f22f2",
        "MaixPy 0.6.3-2 for M5StickV and UnitV; kmodel V3 and V4",
    ),
    _github(
        AMIGO_MAIXPY,
        "AngainorDev/Maix-Amigo-Help/d0f505f80c06a5e45fc79529ca2a742de13bbb78/Firmware/v0.5.1-92-gf9bb0bb5e-dirty.bin",
        1_505_536,
        "1309812aeb0bb8be36dbc2980a87080fcaff20a4e3f7dd42a113a06dc42765ed",
        "MaixPy 0.5.1-92 as a user built it for the Maix Amigo; kmodel V3",
    ),
    _github(
        "maixui-0.5.1-114",
        "sipeed/MaixUI/877ec76c6e570ee86ab85b9407fddb06f1afb971/firmware/maixui_0.5.1.bin",
        1_006_272,
        "496a522a8854da27048d607cab127d993eb0a76045a617daf34c995a0db10009",
        "Sipeed's MaixPy 0.5.1-114 for its program MaixUI on Cube and Amigo; kmodel V3",
    ),
    _github(
        "maixpy-0.5.1-162",
        "liyang8246/masks-detect-for-k210/379a88c26188641aca99de56151de2fb1985d83c/firmware/maixpy.bin",
        1_639_104,
        "0cfa7b29307e2ec73a86e8b54e78f20a0299bd3eff595efe040396287e1fb049",
        "MaixPy 0.5.1-162 as a user built it; kmodel V3 and V4",
    ),
    _github(
        TWATCH_MAIXPY,
        "Xinyuan-LilyGO/LilyGo-K210-Script/2a088bffa1d502093605f860cb6231c1eaa1153a/firmware/"
        "maixpy_twatch_v0.6.2-75-g973361c0d-dirty.bin",
        1_739_456,
        "44f372174b394cd1e1b4d5461d7b563352698693749f954b69d4f31ca710372a",
        "LilyGO's MaixPy 0.6.2-75 for the T-Watch K210; kmodel V3",
    ),
    _github(
        "twatch-0.5.0-44",
        "LilyGO/k210_watch_EN/34325233697edf9cb00178cf1d120757d9436789/source/download/"
        "maixpy_v0.5.0-42-g458ed4ela-twatch.bin",
        2_016_639,
        "024537158fbb201cc2f9e21f3406f420d12c8b3327db255e8f10e2c82005a022",
        "LilyGO's MaixPy 0.5.0-44 for the T-Watch K210; kmodel V3",
    ),
    _github(
        LILYGO_M1_MAIXPY,
        "Xinyuan-LilyGO/LilyGo-K210-Script/2a088bffa1d502093605f860cb6231c1eaa1153a/firmware/"
        "maixpy_m1_v0.6.2-35_g59a21b849.bin",
        1_742_784,
        "028cfa76435825c73e6893d58690bb53079c495961118f741c713a8ca460999b",
        "LilyGO's MaixPy 0.6.2-35 for its M1; kmodel V3",
    ),
    _github(
        DNK210_CANMV,
        "HodelY/DNK210-K210-/eabb4fc8967451f1fe647f82a0b5891e30cb52c7/CanMV%E5%9B%BA%E4%BB%B6/"
        "canmv_dnk210_lite_1.0.7.bin",
        1_532_032,
        "2bb91c6b128cc5ee25ff209ab811775acc798b171c1cf67335fb89b743614b49",
        "CanMV 1.0.7, lite, for ALIENTEK's DNK210; kmodel V3 and V4",
    ),
    _github(
        CANMV,
        "ICreateRobot/k210_resources/a127abc03e4d4f12d7d851d3c55aa543aa4232b7/canmv_firmware/canmv_lite_v1.0.7.bin",
        1_867_392,
        "a70dd5812e7bca9ccecbb5d44269158b3876b3d6957edb8a2acf94a90f03d09f",
        "CanMV 1.0.7, lite; kmodel V3 and V4",
    ),
)

DEFAULT_NETWORK = "posenet-075"
DEFAULT_SIZE = CAMERA_SIZE
"""The whole QVGA frame: PoseNet finds half as many again as at 256×192 (docs/accuracy.md)."""
OURS = "people-k210"
"""This network is used if PoseNet's weights cannot be obtained."""
DEMO = "demo"
DEMO_SIZE = (256, 192)
"""The networks that come with the repository were measured at this size (docs/training.md)."""


def usual_size(name: str) -> tuple[int, int]:
    """(width, height) for which a network is built by default."""
    return DEMO_SIZE if name == DEMO else DEFAULT_SIZE


def appear_score(sha256: str) -> float:
    """The Entry.appear_score of the weights with this SHA-256; 0 if they are not in the catalogue."""
    for entry in NETWORKS:
        ours = sha256_of(entry.path) if entry.path is not None and entry.path.is_file() else None
        if sha256 in (entry.sha256, entry.whole_sha256, ours):
            return entry.appear_score
    return 0.0


def names(kind: str = "network") -> list[str]:
    """All names that find() knows."""
    entries = FIRMWARE if kind == "firmware" else NETWORKS
    return sorted({name for entry in entries for name in (entry.name, *entry.also)})


def find(name: str, kind: str = "network") -> Entry | None:
    """The entry of that name, None if there is none; kind "network" or "firmware".

    A name that several sources share means the first of them that is on this machine, otherwise the first. tfjs's 0.75
    comes before Coral's because it finds more (docs/accuracy.md).
    """
    entries = FIRMWARE if kind == "firmware" else NETWORKS
    for entry in entries:
        if name == entry.name:
            return entry
    sharing = [entry for entry in entries if name in entry.also]
    return next((entry for entry in sharing if locate(entry) is not None), sharing[0] if sharing else None)


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/maix-posenet, ~/.cache/maix-posenet by default."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "maix-posenet"


def locate(entry: Entry) -> Path | None:
    """The entry's file if it is on this machine: in the repository, the cache, or the folder MAIX_POSENET_DATA.

    Damaged files are skipped, and so is a checkpoint with a missing or damaged part.
    """
    return next((path for path in _candidates(entry) if _whole(path, entry)), None)


def _candidates(entry: Entry) -> Iterator[Path]:
    """Files of the entry's size and hash, the likeliest places first."""
    if entry.path is not None:
        if entry.path.is_file():
            yield entry.path
        return
    cached = _cached_path(entry)
    if _fits(cached, entry):
        yield cached
    data = os.environ.get("MAIX_POSENET_DATA")
    folders = [Path(data)] if data else []
    for folder in folders:
        yield from (path for path in sorted(folder.rglob(entry.file)) if _fits(path, entry))
    if entry.bytes is not None and entry.sha256 is not None:
        for folder in (cache_dir(), *folders):  # The file may lie there under another name.
            yield from (path for path in sorted(folder.rglob("*" + Path(entry.file).suffix)) if _fits(path, entry))


def obtain(entry: Entry) -> Path:
    """The entry's file, downloaded into the cache if it is not on this machine.

    NotObtainableError if it cannot be downloaded, or if it has another SHA-256 (nothing is kept then).
    """
    here = locate(entry)
    if here is not None:
        return here
    if not entry.url:
        raise UserError(f"{entry.name}: {entry.path} is missing from this copy of the repository")
    target = _cached_path(entry)
    damaged = next((path for path in _candidates(entry) if not _parts_missing(path, entry)), None)
    try:
        if not _fits(target, entry):
            download(entry.url, target, entry.sha256, entry.bytes)
        if entry.kind == "tfjs-checkpoint":
            _complete(entry, target)
    except NotObtainableError as error:
        if damaged is None:
            raise
        raise NotObtainableError(f"{damaged.parent} holds {entry.name}, but a part of it is damaged; {error}") from None
    return target


def _complete(entry: Entry, manifest: Path) -> None:
    """Download the parts of a checkpoint: the missing ones, or all of them if one on disk is damaged."""
    fetched = _parts_missing(manifest, entry)
    _download_parts(entry, manifest, fetched)
    if not _whole(manifest, entry):
        # No part has a hash of its own, so any part on disk may be the damaged one: all are downloaded again.
        before, fetched = fetched, _parts(manifest)
        _download_parts(entry, manifest, sorted(set(fetched) - set(before)))
    if _whole(manifest, entry):
        return
    came = _digest(manifest)
    for part in fetched:
        (manifest.parent / part).unlink(missing_ok=True)
    raise NotObtainableError(
        f"{entry.url} and its parts have SHA-256 {came} instead of {entry.whole_sha256}: refused, nothing kept"
    )


def _download_parts(entry: Entry, manifest: Path, parts: list[str]) -> None:
    for part in parts:
        download(entry.url.rsplit("/", 1)[0] + "/" + part, manifest.parent / part, None, None)


def _cached_path(entry: Entry) -> Path:
    return cache_dir() / entry.name / entry.file if entry.kind == "tfjs-checkpoint" else cache_dir() / entry.file


def _parts(manifest: Path) -> list[str]:
    return tfjs_checkpoint.part_names(manifest)


def _digest(manifest: Path) -> str:
    return tfjs_checkpoint.digest(manifest)


def _parts_missing(path: Path, entry: Entry) -> list[str]:
    """Parts that are missing beside a checkpoint's manifest; none for entries of a single file."""
    if entry.kind != "tfjs-checkpoint":
        return []
    return [name for name in _parts(path) if not (path.parent / name).is_file()]


def _whole(path: Path, entry: Entry) -> bool:
    """Whether a file of the right hash has all its parts, undamaged as far as a hash is known."""
    if _parts_missing(path, entry):
        return False
    return entry.kind != "tfjs-checkpoint" or entry.whole_sha256 is None or _digest(path) == entry.whole_sha256


def _fits(path: Path, entry: Entry) -> bool:
    if not path.is_file() or (entry.bytes is not None and path.stat().st_size != entry.bytes):
        return False
    return entry.sha256 is None or sha256_of(path) == entry.sha256


def from_url(url: str) -> Path:
    """The file at a URL, from the cache if it was fetched before; NotObtainableError if it cannot be obtained.

    The cache keeps files of different URLs apart even if they have the same name.
    """
    target = _path_of_url(url)
    if not target.is_file():
        download(url, target, None, None)
    return target


def is_cached(url: str) -> bool:
    """Whether from_url() would download nothing."""
    return _path_of_url(url).is_file()


def _path_of_url(url: str) -> Path:
    name = _last_part(url) or "file"
    return cache_dir() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def download(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Fetch a URL into a file, with a progress bar on a terminal; the file is complete and checked, or not written.

    `size` in bytes and `sha256` are checked if they are known, and the server's Content-Length always.
    """
    with atomic_path(target) as temporary:
        try:
            announced = _receive(url, temporary, target.name, size)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise NotObtainableError(
                f"cannot get {url}: {reason}; download {target.name} by other means and put it into {target.parent}, "
                "or name a folder that holds it in MAIX_POSENET_DATA"
            ) from None
        came_bytes = temporary.stat().st_size
        for wanted in (announced, size):
            if wanted is not None and came_bytes != wanted:
                raise NotObtainableError(
                    f"{url} ended after {came_bytes:,} of {wanted:,} bytes: refused, nothing kept; try again"
                )
        came = sha256_of(temporary)
        if sha256 is not None and came != sha256:
            raise NotObtainableError(f"{url} has SHA-256 {came} instead of {sha256}: refused, nothing kept")


def _receive(url: str, path: Path, name: str, size: int | None) -> int | None:
    """Write what the server sends; the length in bytes that it announced, if it did."""
    with urllib.request.urlopen(url, timeout=30) as answer, path.open("wb") as file:
        length = answer.headers.get("Content-Length")
        announced = int(length) if length is not None and length.isdecimal() else None
        with tqdm(total=announced or size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            while block := answer.read(1 << 16):
                file.write(block)
                bar.update(len(block))
    return announced
