"""Accuracy figures, compared with values computed by hand and with pycocotools."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from common.arrays import Numbers
from common.errors import FormatError, UserError
from common.pose import Pose
from model_build.accuracy import COCO_SIGMAS, agreement, load_truth, match, oks, truth_scores

STANDING = np.array([(50 + 3 * (i % 2), 20 + 8 * i) for i in range(17)], float)


def pose(points: Numbers, score: float = 0.9, sure: float = 0.9) -> Pose:
    return Pose(score, np.asarray(points, float), np.full(len(points), sure))


def truth_file(tmp_path, people):
    """The truth in a COCO file about pictures 1…n with these people in each."""
    annotations: list[dict[str, object]] = []
    for image, found in enumerate(people, start=1):
        for points in found:
            low, high = points.min(axis=0), points.max(axis=0)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
                "bbox": [*low, *(high - low)], "area": float(np.prod(high - low)),
                "keypoints": [v for x, y in points for v in (float(x), float(y), 2)],
            })  # fmt: skip
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in range(1, len(people) + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": ["k"] * 17, "skeleton": []}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(data))
    return load_truth(path)


def test_oks_of_a_nose_one_sigma_away():
    """exp(−d²/(2·area·(2σ)²)) with d = 2σ·√area is exp(−1/2), so a wrong σ or area would show."""
    keypoints = STANDING.copy()
    area = 2500.0
    keypoints[0, 0] += 2 * COCO_SIGMAS[0] * math.sqrt(area)
    only_nose = np.arange(17) == 0
    assert oks(keypoints, STANDING, area, only_nose) == pytest.approx(math.exp(-0.5))
    assert oks(keypoints, STANDING, area, np.ones(17, bool)) == pytest.approx((16 + math.exp(-0.5)) / 17)
    assert oks(keypoints, STANDING, area, np.zeros(17, bool)) == 0


def test_match_takes_best_pairs_first():
    """The most similar pair is matched first, and the pair that is left only if it is similar enough."""
    similarity = np.array([[0.9, 0.8], [0.85, 0.2]])
    assert match(similarity, 0.5) == [(0, 0)]
    assert match(similarity, 0.1) == [(0, 0), (1, 1)]
    assert match(np.zeros((0, 3)), 0.1) == []


def test_agreement_counts_pictures_and_distances():
    """In one of two pictures a pose is 3 px off, in the other one stage sees a person too many."""
    moved = STANDING + (0, 3)
    result = agreement([[pose(STANDING)], [pose(STANDING)]], [[pose(moved)], [pose(STANDING), pose(STANDING + 500)]])
    assert (result.pictures, result.same_set, result.same_people, result.matched) == (2, 1, 1, 2)
    ghost = pose(STANDING + 500, score=0.19)
    haunted = agreement([[pose(STANDING)]], [[pose(STANDING), ghost]])
    assert (haunted.same_set, haunted.same_people) == (0, 1)
    assert result.distance_px(100) == pytest.approx(3)
    assert result.distance_px(50) == pytest.approx(1.5)


def test_unsure_keypoints_do_not_count():
    """Where the reference is not sure of a keypoint, there is no place to compare with."""
    unsure = Pose(0.5, STANDING, np.where(np.arange(17) < 5, 0.9, 0.1))
    off = STANDING.copy()
    off[5:] += 40
    assert agreement([[unsure]], [[pose(off)]]).distance_px(100) == 0


def test_truth_found_exactly_scores_one(tmp_path):
    """The truth itself as the answer is perfect by every measure, and no answer at all is zero."""
    truth = truth_file(tmp_path, [[STANDING], [STANDING + 20, STANDING + (90, 10)]])
    perfect = {i: [pose(p.keypoints[:, :2]) for p in people] for i, people in truth.people.items()}
    scores = truth_scores(truth, perfect)
    assert (scores.ap, scores.ap50, scores.ar) == pytest.approx((1, 1, 1))
    assert (scores.people, scores.found, scores.pck) == (3, 3, 1) and scores.mean_oks == pytest.approx(1)
    nothing = truth_scores(truth, {1: [], 2: []})
    assert (nothing.ap, nothing.people, nothing.found) == (0, 3, 0)


def test_pck_counts_keypoints_within_a_fifth_of_the_torso(tmp_path):
    """Of 17 keypoints one is 0.19 and one 0.21 torso diagonals off, so exactly one is wrong."""
    truth = truth_file(tmp_path, [[STANDING]])
    torso = np.mean([np.hypot(*(STANDING[5] - STANDING[12])), np.hypot(*(STANDING[6] - STANDING[11]))])
    points = STANDING.copy()
    points[3, 0] += 0.19 * torso
    points[9, 0] += 0.21 * torso
    assert truth_scores(truth, {1: [pose(points)]}).pck == pytest.approx(16 / 17)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [{}], "annotations": []}', '{"images": 5}'])
def test_foreign_json_is_one_clear_error(tmp_path, text):
    """Somebody gives another JSON file. The message must say that it is no COCO file."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError, match="COCO"):
        load_truth(path)
    with pytest.raises(UserError, match="no such file"):
        load_truth(tmp_path / "absent.json")
