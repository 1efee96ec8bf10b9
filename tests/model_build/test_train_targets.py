"""What the network is taught, compared with definitions written out cell by cell."""

import json

import cv2
import numpy as np
import pytest

from common.errors import FormatError, UserError
from common.skeleton import EDGES, MIRRORED
from model_build.train.samples import RenderedScenes, make_batch, read_coco
from model_build.train.targets import DISK_RADIUS_PX, OUTPUT_STRIDE, make_targets

WIDTH_PX, HEIGHT_PX = 112, 96


def test_targets_equal_their_definition():
    """Vectorised targets must equal PersonLab's definitions, with overlapping people and unknown keypoints too."""
    rng = np.random.default_rng(5)
    points = rng.uniform(-10, 110, (3, 17, 2)).astype(np.float32)
    labelled = rng.random((3, 17)) < 0.8
    targets = make_targets(points, labelled, WIDTH_PX, HEIGHT_PX)
    assert targets.heatmap.shape == (6, 7, 17)
    for row in range(6):
        for column in range(7):
            cell = np.array([column, row], np.float32) * OUTPUT_STRIDE
            distance = np.where(labelled, np.linalg.norm(points - cell, axis=-1), np.inf)
            owner = distance.argmin(axis=0)
            for k in range(17):
                inside = distance[owner[k], k] <= DISK_RADIUS_PX
                assert targets.heatmap[row, column, k] == inside
                offset = targets.short_offset[row, column, [17 + k, k]] * OUTPUT_STRIDE
                wanted = points[owner[k], k] - cell if inside else np.zeros(2)
                assert np.allclose(offset, wanted, atol=1e-3)
            for e, (parent, child) in enumerate(EDGES):
                for source, target, vectors, mask in (
                    (parent, child, targets.displacement_fwd, targets.fwd_mask),
                    (child, parent, targets.displacement_bwd, targets.bwd_mask),
                ):
                    who = owner[source]
                    counts = distance[who, source] <= DISK_RADIUS_PX and labelled[who, target]
                    assert mask[row, column, e] == counts
                    wanted = points[who, target] - points[who, source] if counts else np.zeros(2)
                    assert np.allclose(vectors[row, column, [16 + e, e]] * OUTPUT_STRIDE, wanted, atol=1e-3)


def test_a_picture_without_people_teaches_silence():
    """It teaches nothing about offsets."""
    targets = make_targets(np.zeros((0, 17, 2)), np.zeros((0, 17), bool), WIDTH_PX, HEIGHT_PX)
    for name in targets.__dataclass_fields__:
        assert not getattr(targets, name).any()


def test_samples_depend_on_index_alone():
    """Resuming at any step must give the batches of an unbroken run."""
    whole = make_batch(RenderedScenes(3), range(4, 12), WIDTH_PX, HEIGHT_PX)
    make_batch(RenderedScenes(3), range(40, 42), WIDTH_PX, HEIGHT_PX)
    part = make_batch(RenderedScenes(3), range(6, 9), WIDTH_PX, HEIGHT_PX)
    for name in whole.__dataclass_fields__:
        assert np.array_equal(getattr(whole, name)[2:5], getattr(part, name))


def test_mirroring_swaps_left_and_right():
    """Mirroring twice must change nothing."""
    assert [MIRRORED[i] for i in MIRRORED] == list(range(17))
    assert MIRRORED[0] == 0 and MIRRORED[5] == 6 and MIRRORED[15] == 16


@pytest.fixture
def coco_folder(tmp_path):
    """Two pictures: one with a bright square at each keypoint of a person, and one without people."""
    rng = np.random.default_rng(0)
    points = rng.integers(60, 240, (17, 2))
    picture = np.zeros((300, 400, 3), np.uint8)
    flat = []
    for k, (x, y) in enumerate(points.tolist()):
        visible = 0 if k == 4 else 2
        if visible:
            cv2.rectangle(picture, (x - 6, y - 6), (x + 6, y + 6), (255, 255, 255), -1)
        flat += [x, y, visible]
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((100, 100, 3), np.uint8))
    data = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [{"image_id": 7, "keypoints": flat, "iscrowd": 0}],
    }
    (tmp_path / "people.json").write_text(json.dumps(data))
    return tmp_path


def test_coco_keypoints_follow_the_picture(coco_folder):
    """Scaling, turning, mirroring and cropping must move the keypoints exactly as they move the pixels."""
    source = read_coco(coco_folder / "people.json", coco_folder, seed=2)
    checked = 0
    for index in range(30):
        sample = source.sample(index, WIDTH_PX, HEIGHT_PX)
        assert sample.picture.shape == (HEIGHT_PX, WIDTH_PX, 3)
        for point in sample.keypoints_px[sample.labelled]:
            column, row = np.clip(np.round(point).astype(int), 0, [WIDTH_PX - 1, HEIGHT_PX - 1])
            assert sample.picture[row, column].min() > 90
            checked += 1
    assert checked > 50


def test_errors_in_the_users_data_are_one_line(coco_folder):
    """One line says what is wrong with somebody's own pictures or annotations."""
    with pytest.raises(UserError, match="cannot read"):
        read_coco(coco_folder / "none.json", coco_folder)
    with pytest.raises(UserError, match="check --images"):
        read_coco(coco_folder / "people.json", coco_folder / "elsewhere")
    for text in ("{", "[]", '{"images": [{"id": 1}], "annotations": []}'):
        (coco_folder / "bad.json").write_text(text)
        with pytest.raises(FormatError):
            read_coco(coco_folder / "bad.json", coco_folder)
    (coco_folder / "empty.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match="no person"):
        read_coco(coco_folder / "empty.json", coco_folder)
