"""Networks and firmware images known by name: where they come from, how long they are, their SHA-256."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from common.errors import NotObtainable, UserError
from common.files import atomic_path, sha256_of

CORAL = (
    "https://raw.githubusercontent.com/google-coral/project-posenet/"
    "37cfb84eaff9fa7a02bbc8b60a36d6d422859c5f/models/mobilenet/"
)
TFJS = "https://storage.googleapis.com/tfjs-models/weights/posenet/"
TFJS_GRAPH = "https://storage.googleapis.com/tfjs-models/savedmodel/posenet/mobilenet/"
MAIXPY = "https://dl.sipeed.com/fileList/MAIX/MaixPy/release/master/"


@dataclass(frozen=True)
class Entry:
    """One file that can be had by name."""

    name: str
    file: str
    url: str
    bytes: int | None
    sha256: str | None
    what: str
    kind: str = "network"
    also: tuple[str, ...] = ()
    """Other names; where several entries share one, the first that is on this machine has it."""
    whole_sha256: str | None = None
    """Of a file and its parts together (a tfjs checkpoint: manifest, then parts by name)."""
    path: Path | None = None
    """Where it lies inside this repository, for what comes with it."""


DEMO_WEIGHTS = Path(__file__).resolve().parent / "train" / "demo_weights.npz"

NETWORKS: tuple[Entry, ...] = (
    Entry(
        "posenet-075-tfjs",
        "manifest.json",
        TFJS + "mobilenet_v1_075/manifest.json",
        11_027,
        "94427981604b907732af94bb147e7af1dee1b4c5a00b1cd7ee2e72da5678bbc7",
        "PoseNet 0.75 of TensorFlow.js, float32 checkpoint",
        kind="tfjs-checkpoint",
        also=("posenet-075",),
        whole_sha256="2a2125ac6501ca86c1b666b7dff4aa5617d9ca4b41971e0aa649e3c6fb0c3d26",
    ),
    Entry(
        "posenet-075-coral",
        "posenet_mobilenet_v1_075_353_481_quant.tflite",
        CORAL + "components/posenet_mobilenet_v1_075_353_481_quant.tflite",
        1_298_664,
        "d589f727ee72effba3e8211b04c284fc65fc0a22907c161e2d6c080244d5c264",
        "PoseNet 0.75, Coral's training for 8 bits",
        also=("posenet-075",),
    ),
    Entry(
        "posenet-075-coral-decoder",
        "posenet_mobilenet_v1_075_353_481_quant_decoder.tflite",
        CORAL + "posenet_mobilenet_v1_075_353_481_quant_decoder.tflite",
        1_299_352,
        "7519aebd2c9052089bdcfaf222b03db1212f05f5942660fc076446a13708b042",
        "the same weights with Coral's decoder behind them",
    ),
    Entry(
        "posenet-050-pb",
        "model-mobilenet_v1_050.pb",
        "https://raw.githubusercontent.com/pranoy1234/Posture_detection/"
        "8f27585e626f5d01ccd2241be22f1e12c961ebdf/_models/model-mobilenet_v1_050.pb",
        2_339_478,
        "12bfdcaae8c750aab6c66eebf64bdbbf8af625879fa19af1d2d02b16e83bc51c",
        "PoseNet 0.50 of TensorFlow.js as posenet-python froze it",
        also=("posenet-050",),
    ),
    Entry(
        "demo",
        "demo_weights.npz",
        "",
        None,
        None,
        "small network trained by this project; comes with it",
        kind="demo",
        path=DEMO_WEIGHTS,
    ),
)


_V84 = "maixpy_v0.6.2_84_g8fcd84a58"


def _firmware(name: str, suffix: str, size: int, sha256: str, what: str) -> Entry:
    file = f"{_V84}{suffix}.bin"
    return Entry(name, file, f"{MAIXPY}{_V84}/{file}", size, sha256, what, kind="firmware")


FIRMWARE: tuple[Entry, ...] = (
    _firmware(
        "maixpy-minimum",
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
)

DEFAULT_NETWORK = "posenet-075"
DEFAULT_SIZE = (320, 240)
"""The whole QVGA frame: PoseNet finds half as many again as at 256×192 (docs/accuracy.md)."""
DEMO = "demo"
DEMO_SIZE = (256, 192)
"""What it was measured at (docs/training.md)."""


def usual_size(name: str) -> tuple[int, int]:
    """(width, height) that a network is built for unless another is asked for."""
    return DEMO_SIZE if name == DEMO else DEFAULT_SIZE


def find(name: str, kind: str = "network") -> Entry | None:
    """The entry of that name, None if there is none; kind "network" or "firmware".

    A name that several sources share means the first of them that is on this machine, or the first; tfjs's 0.75
    stands before Coral's because it finds more (docs/accuracy.md).
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
    """The entry's file if it is on this machine: in the repository, the cache, or the folder MAIX_POSENET_DATA."""
    if entry.path is not None:
        return entry.path if entry.path.is_file() else None
    cached = _cached_path(entry)
    if _fits(cached, entry):
        return cached
    data = os.environ.get("MAIX_POSENET_DATA")
    folders = [Path(data)] if data else []
    for folder in folders:
        for path in sorted(folder.rglob(entry.file)):
            if _fits(path, entry):
                return path
    if entry.bytes is not None and entry.sha256 is not None:
        for folder in (cache_dir(), *folders):  # under another name
            for path in sorted(folder.rglob("*" + Path(entry.file).suffix)):
                if _fits(path, entry):
                    return path
    return None


def obtain(entry: Entry) -> Path:
    """The entry's file, downloaded into the cache if it is not on this machine.

    UserError if it cannot be had, or if what came has another SHA-256 (nothing is kept then).
    """
    here = locate(entry)
    if here is not None and (entry.kind != "tfjs-checkpoint" or _parts_missing(here) == []):
        return here
    if not entry.url:
        raise UserError(f"{entry.name}: {entry.path} is missing from this copy of the repository")
    target = here or _cached_path(entry)
    if here is None:
        download(entry.url, target, entry.sha256, entry.bytes)
    if entry.kind == "tfjs-checkpoint":
        fetched = _parts_missing(target)
        for part in fetched:
            download(entry.url.rsplit("/", 1)[0] + "/" + part, target.parent / part, None, None)
        _check_whole(entry, target, fetched)
    return target


def _check_whole(entry: Entry, manifest: Path, fetched: list[str]) -> None:
    """UserError, and what was fetched is gone, unless the parts are the known ones."""
    from model_build.importers import tfjs_checkpoint

    came = tfjs_checkpoint.digest(manifest)
    if entry.whole_sha256 is not None and came != entry.whole_sha256:
        for part in fetched:
            (manifest.parent / part).unlink(missing_ok=True)
        raise NotObtainable(
            f"{entry.url} and its parts have SHA-256 {came}, wanted is {entry.whole_sha256}: refused, nothing kept"
        )


def _cached_path(entry: Entry) -> Path:
    return cache_dir() / entry.name / entry.file if entry.kind == "tfjs-checkpoint" else cache_dir() / entry.file


def _parts_missing(manifest: Path) -> list[str]:
    from model_build.importers import tfjs_checkpoint

    return [name for name in tfjs_checkpoint.part_names(manifest) if not (manifest.parent / name).is_file()]


def _fits(path: Path, entry: Entry) -> bool:
    if not path.is_file() or (entry.bytes is not None and path.stat().st_size != entry.bytes):
        return False
    return entry.sha256 is None or sha256_of(path) == entry.sha256


def download(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Fetch a URL into a file, with a progress bar on a terminal; whole, checked, or not at all."""
    from tqdm import tqdm

    with atomic_path(target) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer, temporary.open("wb") as file:
                total = int(answer.headers.get("Content-Length") or 0) or size
                with tqdm(total=total, unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
                    while block := answer.read(1 << 16):
                        file.write(block)
                        bar.update(len(block))
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise NotObtainable(
                f"cannot get {url}: {reason}; download {target.name} by other means and put it into {target.parent}, "
                "or name a folder that holds it in MAIX_POSENET_DATA"
            ) from None
        came = sha256_of(temporary)
        if sha256 is not None and came != sha256:
            raise NotObtainable(f"{url} has SHA-256 {came}, wanted is {sha256}: refused, nothing kept")
