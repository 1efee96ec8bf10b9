"""Accuracy on rendered scenes: how it is counted, and what the network of this repository reaches."""

import numpy as np
import pytest

from common.pictures import letterbox, load_picture
from common.pose import Pose
from common.skeleton import KEYPOINTS
from model_build.accuracy import AnnotatedPerson, torso_px
from model_build.catalog import find
from model_build.float_forward import forward
from model_build.network import HEADS
from model_build.reference_decoder import ReferenceDecoder
from model_build.scene import HIDDEN, VISIBLE
from model_build.train import weights_file
from model_build.train.measure import measure, score, table, test_scene
from sim.parts.camera_source import PHOTO


def _person(x):
    points = np.column_stack([np.linspace(x, x + 40, 17), np.linspace(20, 120, 17), np.full(17, VISIBLE)])
    return AnnotatedPerson(points, 4000.0)


def _pose(person, shift=0.0):
    return Pose(0.9, person.keypoints[:, :2] + [shift, 0], np.full(17, 0.9))


def test_keypoints_beyond_a_fifth_of_the_torso_are_wrong():
    """Exact poses are all right, poses off by more than 0.2 torso all wrong, and a missed person is wrong."""
    left, right = _person(20), _person(150)
    limit = 0.2 * torso_px(left.keypoints)
    exact = score([[left, right]], [[_pose(right), _pose(left)]])
    assert exact.pck == 1 and (exact.found, exact.extra) == (2, 0)
    assert score([[left]], [[_pose(left, limit * 0.99)]]).pck == 1
    assert score([[left]], [[_pose(left, limit * 1.01)]]).pck == 0
    missed = score([[left, right]], [[_pose(left)]])
    assert missed.pck == 0.5 and (missed.people, missed.found) == (2, 1)
    doubled = score([[left]], [[_pose(left), _pose(left, 3)]])
    assert doubled.pck == 1 and doubled.extra == 1
    assert score([[]], [[_pose(left)]]).extra == 1


def test_hidden_keypoints_do_not_count():
    """Nobody can see through a table."""
    person = _person(20)
    person.keypoints[3:, 2] = HIDDEN
    pose = _pose(person)
    pose.keypoints[3:] += 500
    result = score([[person]], [[pose]])
    assert result.pck == 1 and result.visible_by_keypoint.sum() == 3


def test_measured_scenes_are_always_the_same():
    """Figures of different days can be compared only if the scenes are the same."""
    first, again = test_scene(3, 128, 96), test_scene(3, 128, 96)
    assert np.array_equal(first.picture, again.picture)
    assert all(np.array_equal(a.keypoints, b.keypoints) for a, b in zip(first.people, again.people, strict=True))


def test_a_real_person_is_found_in_the_first_minute():
    """Without PoseNet's weights the first command uses this network. It must find one pose, with the face in place."""
    picture, box = letterbox(load_picture(PHOTO), 320, 240)
    entry = find("people-k210")
    assert entry is not None and entry.path is not None
    network = weights_file.load(entry.path)
    heads = forward(network, picture)
    decoder = ReferenceDecoder(network.output_stride, network.edges)
    (pose,) = (one.in_source(box) for one in decoder.multi(*(heads[name].transpose(2, 0, 1) for name in HEADS)))
    assert pose.score > 0.8
    for name, x, y in (
        ("nose", 104, 63),
        ("leftEye", 113, 55),
        ("rightEye", 95, 53),
    ):  # These are the photo's 240 × 240 px.
        assert np.linalg.norm(pose.keypoints[KEYPOINTS.index(name)] - (x, y)) < 6, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "most_bytes"), [("people-k210", (320, 240), 1_200_000), ("demo", (256, 192), 400_000)]
)
def test_the_repositorys_networks_are_small_and_find_rendered_people(name, size, most_bytes):
    """Each also says how it was made. docs/training.md has its figure on 500 scenes.

    With 60 scenes here, the bound is three standard errors lower.
    """
    entry = find(name)
    assert entry is not None and entry.path is not None
    path = entry.path
    assert path.stat().st_size <= most_bytes
    notes = weights_file.load_notes(path)
    assert {"command", "schedule", "trained_on", "losses", "accuracy"} <= set(notes)
    assert ("rendered people only" in notes["trained_on"]) == (name == "demo")
    network = weights_file.load(path)
    decoder = ReferenceDecoder(network.output_stride, network.edges)

    def stage(picture):
        heads = forward(network, picture)
        poses = decoder.multi(*(heads[name].transpose(2, 0, 1) for name in HEADS))
        return [Pose(pose.score, pose.keypoints, pose.scores) for pose in poses]

    results = measure({"float": stage}, 60, size[0], size[1], lambda count: None)
    accuracy = results["float"]
    documented = notes["accuracy"]["stages"]["float (NumPy), float decoder"]["pck"]
    assert accuracy.pck >= documented - 0.05
    assert accuracy.found >= 0.9 * accuracy.people and accuracy.extra <= 0.15 * accuracy.people
    assert f"{accuracy.pck:.2%}" in table(results)
