"""Makes training crops: pictures with the answers of a teacher network, and the known keypoints.

The teacher's pass over a crop takes ten times as long as the student's, so crops are made once and kept as
memory-mapped arrays. A crop is 224×224 with targets every 8 px: a student of stride 16 trains on any part of it whose
corner is a multiple of 8, mirrored or not, so that one crop gives hundreds of different samples.

The teacher looks at the crop enlarged twice: its stride of 16 px is 8 px of the crop, so nothing is
resampled, and it sees small people better than the student could. Known keypoints override its answers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from common import rgb565
from common.arrays import Flags, Floats, Numbers, Picture
from common.errors import FormatError, UserError
from common.files import write_atomic
from common.pictures import PICTURE_SUFFIXES, to_planes
from common.skeleton import EDGES, KEYPOINTS, MIRRORED
from model_build import tflite_writer
from model_build.accuracy import load_truth
from model_build.engines.tflite import TfliteEngine
from model_build.network import Network, head_channels
from model_build.train.samples import Batch, RenderedScenes
from model_build.train.targets import OUTPUT_STRIDE

CROP_PX = 224
GRID_PX = 8
CELLS = CROP_PX // GRID_PX
ENLARGED = 2
"""The teacher sees a crop this many times as large as the student does."""
RADIUS_PX = 16.0
"""A cell belongs to a known keypoint within this distance, which is the teacher's 32 px in the enlarged crop."""
DOUBTFUL = 64
"""If the teacher contradicts a known person, its heatmap values from this one on (of 255) are ignored."""
RENDERED_EVERY = 5
"""One crop in this many holds a rendered scene."""

FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "pictures": ("uint8", (CROP_PX, CROP_PX, 3)),
    "heatmap": ("uint8", (CELLS, CELLS, len(KEYPOINTS))),
    "heatmap_weight": ("uint8", (CELLS, CELLS, len(KEYPOINTS))),
    "vectors": ("float16", (CELLS, CELLS, 2 * len(KEYPOINTS) + 4 * len(EDGES))),
    "vector_weight": ("uint8", (CELLS, CELLS, len(KEYPOINTS) + 2 * len(EDGES))),
}
"""The arrays of each crop. heatmap: probability · 255; heatmap_weight: 1 where it counts. vectors: short offsets,
forward and backward displacements in the heads' order (for each, all y and then all x), in cells of 16 px;
vector_weight · 255: one weight per vector."""

Teacher = Callable[[Picture], dict[str, Floats]]
"""RGB uint8 (448, 448, 3) → heads float32 (28, 28, channels), offsets in pixels of that picture."""


@dataclass(frozen=True)
class Photo:
    """A training photo: people with known keypoints (P, K, 2) and labels (P, K), and where other people may be.

    places_px: float32 (Q, 4), boxes x0 y0 x1 y1 in which somebody probably is, for choosing crops.
    empty: the photo certainly shows nobody.
    """

    path: Path
    keypoints_px: Floats
    labelled: Flags
    places_px: Floats
    empty: bool = False


@dataclass(frozen=True)
class Tile:
    """Part of a crop: its known people in pixels of the crop. exact: nobody else is there."""

    left: int
    top: int
    right: int
    bottom: int
    keypoints_px: Floats
    labelled: Flags
    exact: bool


def read_photos(
    images: Path,
    data: Sequence[Path],
    aim: Sequence[Path] = (),
    empty: str = "",
    twice: Sequence[str] = (),
    left_out: Collection[str] = (),
) -> list[Photo]:
    """The pictures of a folder, with their known people from COCO keypoint files (people with fewer than three
    keypoints are left out). Photos whose names match `empty` show nobody; those that match `twice` are listed twice.

    UserError if the folder or a file cannot be read or has no pictures, FormatError if a file is not COCO JSON.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; --images takes a folder of pictures", exit_code=2)
    known, likely = [_by_name(path) for path in data], [_by_name(path) for path in aim]
    photos = []
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in PICTURE_SUFFIXES or path.name in left_out:
            continue
        people = next((named[path.name] for named in known if named.get(path.name)), [])
        everybody = people + [one for named in likely for one in named.get(path.name, [])]
        stacked = np.stack(people) if people else np.zeros((0, len(KEYPOINTS), 3), np.float32)
        boxes = [[*one[one[:, 2] > 0, :2].min(axis=0), *one[one[:, 2] > 0, :2].max(axis=0)] for one in everybody]
        places = np.array(boxes, np.float32).reshape(-1, 4)
        nobody = bool(empty) and fnmatch(path.name, empty)
        photos.append(Photo(path, stacked[:, :, :2], stacked[:, :, 2] > 0, places, nobody))
    if not photos:
        raise UserError(f"{images} holds no pictures to train on ({', '.join(PICTURE_SUFFIXES)})")
    return photos + [photo for photo in photos if any(fnmatch(photo.path.name, pattern) for pattern in twice)]


def _by_name(path: Path) -> dict[str, list[Floats]]:
    """People with three keypoints or more by file name, float32 (17, 3) each."""
    truth = load_truth(path)
    return {
        name: [one.keypoints.astype(np.float32) for one in truth.people[identity] if one.labelled.sum() >= 3]
        for identity, name in truth.file_names.items()
    }


def open_teacher(network: Network) -> Teacher:
    """A float network as a teacher, run by TFLite at the enlarged crop's size."""
    side = CROP_PX * ENLARGED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.tflite"
        path.write_bytes(tflite_writer.write(network, side, side))
        engine = TfliteEngine(path)

    def look(picture: Picture) -> dict[str, Floats]:
        return {name: head.transpose(1, 2, 0) for name, head in engine.run(to_planes(picture)).items()}

    return look


_NOBODY = {
    name: np.full((CELLS, CELLS, channels), -30 if name == "heatmap" else 0, np.float32)
    for name, channels in head_channels(len(KEYPOINTS), len(EDGES)).items()
}
"""The heads of a teacher that sees nobody."""


def compose(
    photos: Sequence[Photo], scenes: RenderedScenes, index: int, large: bool = False
) -> tuple[Picture, list[Tile]]:
    """Crop number `index` (which depends only on the seed of `scenes` and the number) and its tiles, in drawing order.

    Most crops show one photo at the scale of somebody in it; some are made of four photos, so that people are small;
    one in RENDERED_EVERY has a rendered scene over a photo. large: people are larger, fewer crops are of four photos.
    """
    four_photos, person_shares = (0.15, (0.4, 1.2)) if large else (0.35, (0.2, 1.3))
    rng = np.random.default_rng([scenes.seed, index, 3])
    canvas = np.full((CROP_PX, CROP_PX, 3), 128, np.uint8)
    if rng.random() < 0.3:
        canvas[:] = rng.integers(0, 256, 3, dtype=np.uint8)
    tiles = []
    if rng.random() < four_photos:
        x, y = (int(rng.integers(10, 19)) * GRID_PX for _ in range(2))
        boxes = [(0, 0, x, y), (x, 0, CROP_PX, y), (0, y, x, CROP_PX), (x, y, CROP_PX, CROP_PX)]
    else:
        boxes = [(0, 0, CROP_PX, CROP_PX)]
    for box in boxes:
        tiles.append(_paste(canvas, photos[int(rng.integers(len(photos)))], box, person_shares, rng))
    if index % RENDERED_EVERY == RENDERED_EVERY - 1:
        width, height = (int(rng.integers(18, CELLS + 1)) * GRID_PX for _ in range(2))
        sample = scenes.sample(index // RENDERED_EVERY, width, height)
        left = int(rng.integers(0, (CROP_PX - width) // GRID_PX + 1)) * GRID_PX
        top = int(rng.integers(0, (CROP_PX - height) // GRID_PX + 1)) * GRID_PX
        canvas[top : top + height, left : left + width] = sample.picture
        points = sample.keypoints_px + np.array([left, top], np.float32)
        tiles.append(Tile(left, top, left + width, top + height, points, sample.labelled, exact=True))
    return canvas, tiles


def _paste(
    canvas: Picture,
    photo: Photo,
    box: tuple[int, int, int, int],
    person_shares: tuple[float, float],
    rng: np.random.Generator,
) -> Tile:
    """Draw a photo into a box of the crop, turned a little and at the scale of somebody in it, who gets from the first
    to the second of `person_shares` of the box's longer side."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    picture = cv2.cvtColor(cv2.imread(str(photo.path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if len(photo.places_px):
        x0, y0, x1, y1 = photo.places_px[int(rng.integers(len(photo.places_px)))]
        wanted_px = max(width, height) * np.exp(rng.uniform(*np.log(person_shares)))
        scale = float(np.clip(wanted_px / max(x1 - x0, y1 - y0, 8), 0.2, 1.8))
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    else:
        scale = float(np.exp(rng.uniform(np.log(0.35), np.log(1.3))))
        middle = rng.uniform(0.2, 0.8, 2) * picture.shape[1::-1]
    # At a slightly smaller scale the whole photo is in view, so more border than that is not needed.
    scale = max(scale, 0.8 * min(width / picture.shape[1], height / picture.shape[0]))
    angle = rng.normal() * 0.12
    stretch = np.exp(rng.normal() * 0.06)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = scale * turn @ np.diag([stretch, 1 / stretch])
    target = np.array([width, height]) * rng.uniform(0.25, 0.75, 2)
    # There is a border only where the photo is smaller than the box, and a small one elsewhere.
    centre = turn @ (np.array(picture.shape[1::-1]) / 2)
    half = scale * np.array(picture.shape[1::-1]) / 2
    free = np.abs(half - np.array([width, height]) / 2) + 0.04 * np.array([width, height])
    middle_of_box = np.array([width, height]) / 2
    shift = np.clip(target - turn @ middle, middle_of_box - centre - free, middle_of_box - centre + free)
    source = picture
    if scale < 0.6:  # warpAffine samples points, so the photo is shrunk first to avoid aliasing
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        inner = turn @ np.diag([picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]])
        source = small
    else:
        inner = turn
    border = canvas[top, left].tolist()
    warped = cv2.warpAffine(
        source, np.column_stack([inner, shift]), (width, height), flags=cv2.INTER_LINEAR, borderValue=border
    )
    canvas[top:bottom, left:right] = warped
    points = (photo.keypoints_px @ turn.T + shift).astype(np.float32)
    inside = ((points >= 0) & (points < np.array([width, height]))).all(axis=-1)
    points = points + np.array([left, top], np.float32)
    return Tile(left, top, right, bottom, points, photo.labelled & inside, photo.empty)


def targets(heads: dict[str, Floats], tiles: Sequence[Tile]) -> dict[str, Floats]:
    """The arrays of FIELDS except the picture, from the teacher's heads and the tiles' known people."""
    keypoints = len(KEYPOINTS)
    logits = np.clip(heads["heatmap"], -30, 30)
    heat = 1 / (1 + np.exp(-logits))
    vectors = np.concatenate(
        [heads[name] for name in ("short_offset", "displacement_fwd", "displacement_bwd")], axis=-1
    ) / (ENLARGED * OUTPUT_STRIDE)
    heat_weight = np.ones_like(heat)
    parents, children = np.array(EDGES).T
    sources = np.concatenate([np.arange(keypoints), parents, children])
    vector_weight = np.where(heat > 0.15, heat, 0)[:, :, sources]
    y, x = np.mgrid[:CELLS, :CELLS].astype(np.float32) * GRID_PX
    for tile in tiles:
        inside = (x >= tile.left) & (x < tile.right) & (y >= tile.top) & (y < tile.bottom)
        if tile.exact:
            heat[inside], heat_weight[inside], vector_weight[inside] = 0, 1, 0
        best = np.full(heat.shape, np.inf, np.float32)
        for points, labelled in zip(tile.keypoints_px, tile.labelled, strict=True):
            if labelled.any():
                _override(points, labelled, tile.exact, inside, (x, y), best, heat, heat_weight, vectors, vector_weight)
    return {
        "heatmap": np.rint(heat * 255).astype(np.uint8),
        "heatmap_weight": heat_weight.astype(np.uint8),
        "vectors": np.clip(vectors, -30, 30).astype(np.float16),
        "vector_weight": np.rint(vector_weight * 255).astype(np.uint8),
    }


def _override(
    points: Floats,
    labelled: Flags,
    exact: bool,
    inside: Flags,
    grid: tuple[Floats, Floats],
    best: Floats,
    heat: Floats,
    heat_weight: Floats,
    vectors: Floats,
    vector_weight: Floats,
) -> None:
    """Write one known person into the targets, in place."""
    keypoints, edges = len(KEYPOINTS), len(EDGES)
    x, y = grid
    dx, dy = points[:, 0] - x[..., None], points[:, 1] - y[..., None]
    squared = np.where(labelled & inside[..., None], dx * dx + dy * dy, np.inf)
    own = (squared <= RADIUS_PX**2) & (squared < best)
    if not exact:  # the teacher's answers for these keypoints elsewhere on this person are doubtful
        low, high = points[labelled].min(axis=0), points[labelled].max(axis=0)
        margin = 0.15 * (high - low).max() + RADIUS_PX
        around = (x >= low[0] - margin) & (x <= high[0] + margin) & (y >= low[1] - margin) & (y <= high[1] + margin)
        doubt = around[..., None] & labelled & (heat * 255 >= DOUBTFUL) & ~own & ~np.isfinite(best)
        heat_weight[doubt] = 0
        parents, children = np.array(EDGES).T
        vector_weight[doubt[:, :, np.concatenate([np.arange(keypoints), parents, children])]] = 0
    best[own] = squared[own]
    heat[own], heat_weight[own] = 1, 1

    def put(first: int, count: int, weight: int, which: int, mask: Flags, across: Floats, down: Floats) -> None:
        vectors[mask, first + which] = (down[mask] if down.ndim else down) / OUTPUT_STRIDE
        vectors[mask, first + count + which] = (across[mask] if across.ndim else across) / OUTPUT_STRIDE
        vector_weight[mask, weight + which] = 1

    for k in np.flatnonzero(labelled):
        put(0, keypoints, 0, int(k), own[:, :, k], dx[:, :, k], dy[:, :, k])
    for edge, (parent, child) in enumerate(EDGES):
        if labelled[parent] and labelled[child]:
            gap = points[child] - points[parent]
            put(2 * keypoints, edges, keypoints, edge, own[:, :, parent], gap[0], gap[1])
            put(2 * keypoints + 2 * edges, edges, keypoints + edges, edge, own[:, :, child], -gap[0], -gap[1])


class CropStore:
    """The crops of a folder, one memory-mapped array for each of FIELDS; `made` is the number of complete crops."""

    def __init__(self, folder: Path, count: int | None = None):
        """Open a folder; with `count`, create it for that many crops if it does not exist."""
        self.folder = folder
        about = folder / "about.json"
        if not about.exists():
            if count is None:
                raise UserError(f"{folder} holds no training crops; make them first (docs/training.md)")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(about, json.dumps({"count": count, "crop_px": CROP_PX, "grid_px": GRID_PX}))
            write_atomic(folder / "made.txt", "0")
        try:
            self.count = int(json.loads(about.read_text(encoding="utf-8"))["count"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{about} is not a description of training crops: {error!r}; remove {folder}") from error
        self.arrays = {}
        for name, (dtype, shape) in FIELDS.items():
            path = folder / f"{name}.bin"
            mode = "r+" if path.exists() else "w+"
            self.arrays[name] = np.memmap(path, dtype, mode, shape=(self.count, *shape))  # type: ignore[call-overload]

    @property
    def made(self) -> int:
        """The number of crops that are complete."""
        try:
            return min(self.count, int((self.folder / "made.txt").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise FormatError(f"{self.folder / 'made.txt'} is damaged; remove {self.folder}") from error

    def fill(
        self,
        photos: Sequence[Photo],
        scenes: RenderedScenes,
        teacher: Teacher,
        progress: Callable[[int], object],
        large: bool = False,
    ) -> None:
        """Make the missing crops; this can be stopped at any time and continues where it stopped."""
        cv2.setNumThreads(1)
        first = self.made
        for index in range(first, self.count):
            picture, tiles = compose(photos, scenes, index, large)
            enlarged = cv2.resize(picture, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_LINEAR)
            # If everything in a crop is known exactly, the teacher is not needed.
            heads = _NOBODY if all(tile.exact for tile in tiles) else teacher(np.asarray(enlarged, np.uint8))
            self.arrays["pictures"][index] = picture
            for name, values in targets(heads, tiles).items():
                self.arrays[name][index] = values
            if index % 20 == 19 or index == self.count - 1:
                write_atomic(self.folder / "made.txt", str(index + 1))
            progress(index + 1)


_MIRRORED_EDGES = [EDGES.index((MIRRORED[a], MIRRORED[b])) for a, b in EDGES]


@dataclass(frozen=True)
class StoredCrops:
    """A folder of crops as a source of batches: any part of a crop, mirrored or not, with a camera's faults.

    A batch depends on the seed, its indices and the number of crops that exist, so a resumed run is repeated exactly
    only if the folder is complete.
    """

    seed: int
    folder: Path
    faults: bool = True
    rendered_share: float = 1 / RENDERED_EVERY
    """The fraction of drawn windows that come from crops with a rendered scene."""
    empty_folder: Path | None = None
    """Crops of pictures without people, from which the fraction `empty_share` of the windows comes."""
    empty_share: float = 0.25

    @property
    def name(self) -> str:
        return f"crops in {self.folder.name}"

    def batch(self, indices: Sequence[int], width_px: int, height_px: int) -> Batch:
        """Windows of width × height, multiples of 16 up to CROP_PX, of crops drawn at random."""
        if max(width_px, height_px) > CROP_PX or width_px % OUTPUT_STRIDE or height_px % OUTPUT_STRIDE:
            raise UserError(
                f"crops of {CROP_PX} px give windows of multiples of {OUTPUT_STRIDE}, not {width_px}x{height_px}"
            )
        stores = {folder: _open_store(folder) for folder in (self.folder, self.empty_folder) if folder is not None}
        counts = {folder: store.made for folder, store in stores.items()}
        for folder, count in counts.items():
            if count == 0:
                raise UserError(f"{folder} holds no crop yet")
        windows = []
        for index in indices:
            folder = self._folder(index)
            windows.append(self._window(stores[folder], index, counts[folder], width_px, height_px))
        picture, heat, heat_weight, vectors, vector_weight = (
            np.stack([window[number] for window in windows]) for number in range(5)
        )
        k, e = len(KEYPOINTS), len(EDGES)
        short, forward, backward = np.split(vectors.astype(np.float32), [2 * k, 2 * k + 2 * e], axis=-1)
        weights = vector_weight.astype(np.float32) / 255
        return Batch(
            heat.astype(np.float32) / 255,
            short,
            forward,
            backward,
            weights[..., k : k + e],
            weights[..., k + e :],
            picture,
            heat_weight.astype(np.float32),
            weights[..., :k],
        )

    def _folder(self, index: int) -> Path:
        """The folder from which a window comes."""
        if self.empty_folder and np.random.default_rng([self.seed, index, 6]).random() < self.empty_share:
            return self.empty_folder
        return self.folder

    def _window(self, store: CropStore, index: int, made: int, width: int, height: int) -> tuple[Numbers, ...]:
        rng = np.random.default_rng([self.seed, index, 4])
        number = int(rng.integers(made))
        mirror = rng.random() < 0.5
        if self.rendered_share != 1 / RENDERED_EVERY and made >= RENDERED_EVERY:
            group = number // RENDERED_EVERY % (made // RENDERED_EVERY)
            within = RENDERED_EVERY - 1 if rng.random() < self.rendered_share else int(rng.integers(RENDERED_EVERY - 1))
            number = group * RENDERED_EVERY + within
        top = int(rng.integers((CROP_PX - height) // GRID_PX + 1)) * GRID_PX
        # A mirrored window starts at a grid column and extends to the left, so its cells are on the grid again.
        first = (width // GRID_PX) if mirror else 0
        last = CELLS - 1 if mirror else (CROP_PX - width) // GRID_PX
        start = int(rng.integers(first, last + 1)) * GRID_PX if last > first else last * GRID_PX
        columns = start - np.arange(width) if mirror else start + np.arange(width)
        columns = np.maximum(columns, 0)
        cells = columns[::OUTPUT_STRIDE] // GRID_PX
        rows = np.arange(top // GRID_PX, (top + height) // GRID_PX, OUTPUT_STRIDE // GRID_PX)
        arrays = store.arrays
        picture = arrays["pictures"][number, top : top + height][:, columns]
        heat, heat_weight, vectors, vector_weight = (arrays[name][number, rows][:, cells] for name in list(FIELDS)[1:])
        if mirror:
            heat, heat_weight = heat[..., MIRRORED], heat_weight[..., MIRRORED]
            vectors, vector_weight = (
                vectors[..., _MIRRORED_VECTORS] * _MIRROR_SIGNS,
                vector_weight[..., _MIRRORED_WEIGHTS],
            )
        if self.faults:
            picture = camera_faults(picture, rng)
        return picture, heat, heat_weight, vectors, vector_weight


def _mirror_orders() -> tuple[Floats, Floats, Floats]:
    """Order and signs of FIELDS' vectors in a mirrored picture, and order of their weights."""
    orders, signs, weights, at, at_weight = [], [], [], 0, 0
    for order in (MIRRORED, _MIRRORED_EDGES, _MIRRORED_EDGES):
        count = len(order)
        orders += [at + n for n in order] + [at + count + n for n in order]
        signs += [1] * count + [-1] * count
        weights += [at_weight + n for n in order]
        at, at_weight = at + 2 * count, at_weight + count
    return np.array(orders), np.array(signs, np.float16), np.array(weights)


_MIRRORED_VECTORS, _MIRROR_SIGNS, _MIRRORED_WEIGHTS = _mirror_orders()


@lru_cache(maxsize=2)
def _open_store(folder: Path) -> CropStore:
    return CropStore(folder)


def camera_faults(taken: Picture, rng: np.random.Generator) -> Picture:
    """A picture as this camera could have taken it: light, colour cast, blur, noise, JPEG, RGB565."""
    picture: Numbers = np.ascontiguousarray(taken)
    if rng.random() < 0.1:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        picture = np.repeat(grey[..., None], 3, axis=2)
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.6)))
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    gain = np.exp(rng.normal() * 0.3 + rng.normal(size=3) * 0.08)
    curve = 255 * gain * levels ** np.exp(rng.normal() * 0.25) + rng.normal() * 12
    if rng.random() < 0.1:
        curve *= rng.uniform(0.25, 0.6)
    picture = cv2.LUT(picture, np.clip(curve, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.3:
        noise = rng.standard_normal(picture.shape, np.float32) * rng.uniform(2, 14)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))])[1]
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if rng.random() < 0.3:
        picture = rgb565.widen(rgb565.truncate(np.asarray(picture, np.uint8)), repeat=False)
    return np.asarray(picture, np.uint8)
