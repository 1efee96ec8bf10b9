"""Crops that are made in advance: what they say about a picture must be where the picture shows it, mirrored or not."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.errors import FormatError, UserError
from common.skeleton import EDGES, KEYPOINTS, MIRRORED
from model_build.network import head_channels
from model_build.train import crops
from model_build.train.crops import CELLS, CROP_PX, CropStore, Photo, StoredCrops, Tile, read_photos, targets
from model_build.train.samples import RenderedScenes, make_batch

ELBOW, WRIST = KEYPOINTS.index("rightElbow"), KEYPOINTS.index("rightWrist")
RED, GREEN = 0, 1


def _heads(logit=-30.0):
    """The heads of a teacher that sees the same everywhere."""
    channels = head_channels(len(KEYPOINTS), len(EDGES))
    heads = {name: np.zeros((CELLS, CELLS, count), np.float32) for name, count in channels.items()}
    heads["heatmap"] += logit
    return heads


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """A photo with a red dot as right elbow and a green one as right wrist, and nothing else."""
    path = tmp_path_factory.mktemp("photos") / "dots.png"
    picture = np.zeros((200, 240, 3), np.uint8)
    keypoints, labelled = np.zeros((1, len(KEYPOINTS), 2), np.float32), np.zeros((1, len(KEYPOINTS)), bool)
    for keypoint, colour, at in ((ELBOW, (0, 0, 255), (90, 80)), (WRIST, (0, 255, 0), (140, 130))):
        cv2.circle(picture, at, 8, colour, -1)
        keypoints[0, keypoint], labelled[0, keypoint] = at, True
    cv2.imwrite(str(path), picture)
    return Photo(path, keypoints, labelled, np.array([[90, 80, 140, 130]], np.float32))


@pytest.fixture(scope="module")
def store(dots, tmp_path_factory):
    """Four crops of the dots, by a teacher that sees nobody. The fifth would have a rendered scene."""
    folder = tmp_path_factory.mktemp("crops") / "dots"
    made = CropStore(folder, 4)
    made.fill([dots], RenderedScenes(3), lambda picture: _heads(), lambda count: None)
    return made


def test_windows_show_what_their_targets_say(store):
    """However a window is turned, scaled, cut and mirrored, every target must lead to its own dot."""
    batch = make_batch(StoredCrops(5, store.folder, faults=False), range(200), 128, 96)
    seen = {True: 0, False: 0}
    for n in range(200):
        for mirrored in (False, True):
            elbow, wrist = (MIRRORED[ELBOW], MIRRORED[WRIST]) if mirrored else (ELBOW, WRIST)
            edge = EDGES.index((elbow, wrist))
            for row, column in np.argwhere(batch.heatmap[n, :, :, elbow] == 1):
                short = batch.short_offset[n, row, column, [17 + elbow, elbow]]
                at = 16 * (np.array([column, row]) + short)
                if _inside(at):
                    assert _colour(batch.pictures[n], at) == RED
                    seen[mirrored] += 1
                if batch.fwd_mask[n, row, column, edge]:
                    to = at + 16 * batch.displacement_fwd[n, row, column, [16 + edge, edge]]
                    assert not _inside(to) or _colour(batch.pictures[n], to) == GREEN
            for row, column in np.argwhere(batch.bwd_mask[n, :, :, edge] == 1):
                at = 16 * (np.array([column, row]) + batch.short_offset[n, row, column, [17 + wrist, wrist]])
                back = at + 16 * batch.displacement_bwd[n, row, column, [16 + edge, edge]]
                assert not _inside(back) or _colour(batch.pictures[n], back) == RED
    assert min(seen.values()) > 20  # Both kinds of window were tested.


def _inside(at):
    return (at >= 1).all() and at[0] < 127 and at[1] < 95


def _colour(picture, at):
    return int(picture[int(at[1] + 0.5), int(at[0] + 0.5)].argmax())


def test_stopped_crops_continue_as_if_never_stopped(dots, store, tmp_path):
    """Making crops takes an hour, and stopping may cost at most the crop in work."""
    calls = []

    def tired(picture):
        calls.append(picture)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return _heads()

    again = CropStore(tmp_path / "again", 4)
    with pytest.raises(KeyboardInterrupt):
        again.fill([dots], RenderedScenes(3), tired, lambda count: None)
    again = CropStore(tmp_path / "again")
    again.fill([dots], RenderedScenes(3), lambda picture: _heads(), lambda count: None)
    assert again.made == 4 and calls[0].shape == (2 * CROP_PX, 2 * CROP_PX, 3)
    for name in crops.FIELDS:
        assert np.array_equal(again.arrays[name], store.arrays[name]), name


def test_pictures_without_people_need_no_teacher(dots, store, tmp_path):
    """A teacher that sees ghosts must not teach them where certainly nobody is. Half of the windows come from there."""
    room = replace(dots, keypoints_px=np.zeros((0, 17, 2)), labelled=np.zeros((0, 17), bool), empty=True)

    def asked(picture):
        raise AssertionError("the teacher was asked about a picture without people")

    rooms = CropStore(tmp_path / "rooms", 3)
    rooms.fill([room], RenderedScenes(3), asked, lambda count: None)
    assert rooms.arrays["heatmap"].max() == 0 and rooms.arrays["heatmap_weight"].min() == 1
    source = StoredCrops(5, store.folder, faults=False, empty_folder=rooms.folder, empty_share=0.5)
    alone = make_batch(StoredCrops(5, store.folder, faults=False), range(200), 128, 96)
    mixed = make_batch(source, range(200), 128, 96)
    empty = np.array([source._folder(index) == rooms.folder for index in range(200)])
    assert 70 < empty.sum() < 130
    assert mixed.heatmap[empty].max() == 0 and alone.heatmap[empty].max() == 1
    assert np.array_equal(mixed.pictures[~empty], alone.pictures[~empty])
    with pytest.raises(UserError, match="holds no crop yet"):
        make_batch(replace(source, empty_folder=CropStore(tmp_path / "none", 3).folder), range(8), 128, 96)


def test_large_crops_show_people_larger(dots):
    """`make-crops --large` is for networks that see people who are near. The dots' distance is the person's size."""

    def sizes_px(large: bool) -> list[float]:
        tiles = [crops.compose([dots], RenderedScenes(3), index, large)[1] for index in range(0, 100, 5)]
        whole = [one[0] for one in tiles if len(one) == 1]
        return [float(np.abs(np.diff(tile.keypoints_px[0][tile.labelled[0]], axis=0)).max(initial=0)) for tile in whole]

    assert len(sizes_px(True)) > len(sizes_px(False))  # fewer crops are put together from four photos
    assert np.mean(sizes_px(True)) > np.mean(sizes_px(False))


def test_truth_outweighs_the_teacher():
    """The teacher sees wrists everywhere. A known wrist, and a room known to be empty, must count more."""
    keypoints, labelled = np.zeros((1, 17, 2), np.float32), np.zeros((1, 17), bool)
    keypoints[0, [ELBOW, WRIST]] = (40, 40), (72, 72)
    labelled[0, [ELBOW, WRIST]] = True
    photo = Tile(0, 0, 112, CROP_PX, keypoints, labelled, exact=False)
    room = Tile(112, 0, CROP_PX, CROP_PX, np.zeros((0, 17, 2)), np.zeros((0, 17), bool), exact=True)
    made = targets(_heads(5.0), [photo, room])
    wrist = made["heatmap"][:, :, WRIST], made["heatmap_weight"][:, :, WRIST]
    assert wrist[0][9, 9] == 255 and wrist[1][9, 9] == 1  # On the wrist.
    assert wrist[0][5, 5] > 250 and wrist[1][5, 5] == 0  # On the elbow, where the teacher may be wrong.
    assert wrist[0][26, 2] > 250 and wrist[1][26, 2] == 1  # Far away there may be another person.
    assert made["heatmap_weight"][5, 5, 0] == 1  # Nothing is known about the nose.
    assert (made["heatmap"][:, 14:] == 0).all() and (made["heatmap_weight"][:, 14:] == 1).all()
    assert (made["vector_weight"][:, 14:] == 0).all()


def test_the_first_file_with_people_in_a_photo_counts(tmp_path):
    """Predictions serve only to aim, and two keypoints tell nothing."""
    for name in ("a.png", "b.png", "room.png", "left.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((50, 60, 3), np.uint8))

    def coco(name, people):
        images = [{"id": n, "file_name": file} for n, file in enumerate(people)]
        annotations = []
        for n, points in enumerate(people.values()):
            flat = [value for x in points for value in (x, 2 * x, 2)] + [0] * 3 * (17 - len(points))
            annotations.append({"image_id": n, "keypoints": flat, "area": 100})
        (tmp_path / name).write_text(json.dumps({"images": images, "annotations": annotations}))
        return tmp_path / name

    truth = coco("truth.json", {"a.png": [10, 20, 30], "b.png": [10, 20]})
    other = coco("other.json", {"a.png": [1, 2, 3], "b.png": [5, 6, 7]})
    photos = read_photos(tmp_path, [truth, other], [other], "room*", ["b*"], {"left.png"})
    assert [photo.path.name for photo in photos] == ["a.png", "b.png", "room.png", "b.png"]
    assert photos[0].keypoints_px[0, 2].tolist() == [30, 60] and photos[1].keypoints_px[0, 2].tolist() == [7, 14]
    assert photos[0].places_px.tolist() == [[10, 20, 30, 60], [1, 2, 3, 6]]
    assert [photo.empty for photo in photos] == [False, False, True, False]
    with pytest.raises(UserError, match="no such folder"):
        read_photos(tmp_path / "nowhere", [])
    with pytest.raises(UserError, match="no pictures"):
        read_photos(tmp_path, [], left_out={"a.png", "b.png", "room.png", "left.png"})


def test_folders_that_are_no_crops_are_refused(tmp_path, store):
    """Each has one clear line before training starts."""
    with pytest.raises(UserError, match="no training crops"):
        CropStore(tmp_path)
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(FormatError, match="not a description"):
        CropStore(tmp_path)
    with pytest.raises(UserError, match="240x128"):
        make_batch(StoredCrops(1, store.folder), range(1), 240, 128)


def test_camera_faults_leave_a_picture(store):
    """Whatever chance does to a picture, it keeps its size and mostly changes."""
    picture = np.random.default_rng(1).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    changed = [crops.camera_faults(picture, np.random.default_rng(n)) for n in range(40)]
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in changed)
    assert sum(not np.array_equal(one, picture) for one in changed) > 35
