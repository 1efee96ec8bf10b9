"""The renderer, with what training and the simulated camera rely on."""

import cv2
import numpy as np
import pytest

from model_build.accuracy import torso_px
from model_build.scene import HIDDEN, NOT_IN_FRAME, VISIBLE, Scene, _lit

WIDTH_PX, HEIGHT_PX = 256, 192


def test_same_seed_gives_same_bytes():
    """Trained weights and their measured accuracy can be repeated only if the pictures can."""
    for seed in range(8):
        first, second = Scene(seed), Scene(seed)
        second.frame(0.7, 160, 120)  # Earlier frames must not matter.
        assert np.array_equal(first.frame(2.5, WIDTH_PX, HEIGHT_PX), second.frame(2.5, WIDTH_PX, HEIGHT_PX))
        for a, b in zip(*(s.people(2.5, WIDTH_PX, HEIGHT_PX) for s in (first, second)), strict=True):
            assert np.array_equal(a.keypoints_px, b.keypoints_px)
            assert np.array_equal(a.visibility, b.visibility)


def test_other_seeds_give_other_scenes():
    """A test set that repeats one scene would measure nothing."""
    frames = [Scene(seed).frame(0.0, 64, 48).astype(int) for seed in range(6)]
    for i in range(6):
        for j in range(i):
            assert np.abs(frames[i] - frames[j]).mean() > 3


@pytest.mark.parametrize("size", [(224, 224), (256, 192), (320, 240), (96, 64)])
def test_frames_have_the_form_that_the_camera_passes_on(size):
    """The simulated camera passes on these arrays as they are."""
    frame = Scene(11).frame(1.0, *size)
    assert frame.shape == (size[1], size[0], 3) and frame.dtype == np.uint8 and frame.flags.c_contiguous


def test_scenes_have_one_to_three_people():
    """All three numbers occur, and a number that is asked for is kept."""
    counts = [len(Scene(seed).figures) for seed in range(60)]
    assert set(counts) == {1, 2, 3}
    assert [len(Scene(5, people=n).figures) for n in (1, 2, 3)] == [1, 2, 3]


def test_scene_scales_with_the_frame():
    """Keypoints of one scene at two sizes of the same shape may differ only in scale."""
    for seed in range(5):
        small, large = (Scene(seed).people(4.0, w, h) for w, h in ((160, 120), (320, 240)))
        assert small, "a scene without people has nothing to compare"
        for a, b in zip(small, large, strict=True):
            assert np.allclose(a.keypoints_px * 2, b.keypoints_px, atol=1e-3)


def test_people_move_smoothly():
    """People watch poses on the simulated board like a film, so no keypoint may jump between frames."""
    for seed in range(4):
        scene = Scene(seed)
        tracks = np.array(
            [[p.keypoints_px for p in scene.people(t, WIDTH_PX, HEIGHT_PX)] for t in np.arange(0, 7, 0.05)]
        )
        step_px = np.linalg.norm(np.diff(tracks, axis=0), axis=-1).max(axis=(0, 2))
        statures_px = np.array([figure.body.stature for figure in scene.figures]) * HEIGHT_PX
        assert np.all(step_px < 0.13 * statures_px)
        assert np.ptp(tracks, axis=0).max() > 0.02 * HEIGHT_PX


def test_visibility_says_what_is_in_the_frame():
    """Outside the frame it is exactly NOT_IN_FRAME. Most keypoints inside can be seen, but not all."""
    seen = []
    for seed in range(25):
        for person in Scene(seed).people(1.0, WIDTH_PX, HEIGHT_PX):
            x, y = np.floor(person.keypoints_px.T + 0.5)
            inside = (x >= 0) & (x < WIDTH_PX) & (y >= 0) & (y < HEIGHT_PX)
            assert np.array_equal(inside, person.visibility != NOT_IN_FRAME)
            assert torso_px(person.keypoints_px) > 8
            seen.extend(person.visibility[inside])
    assert 0.6 < np.mean(np.array(seen) == VISIBLE) < 0.97
    assert HIDDEN in seen


def test_keypoints_lie_on_what_is_drawn():
    """Truth and pixels must come from the same geometry.

    A frame with the figure is compared with the same scene without it, at the visible keypoints.
    """
    for seed in range(20):
        scene, empty = Scene(seed, people=1), Scene(seed, people=1)
        empty.figures = []
        for some in (scene, empty):
            some._noise = some._blur = 0
            some._gain = np.ones(3)
        difference = cv2.absdiff(scene.frame(1.5, WIDTH_PX, HEIGHT_PX), empty.frame(1.5, WIDTH_PX, HEIGHT_PX))
        person = scene.people(1.5, WIDTH_PX, HEIGHT_PX)[0]
        columns, rows = np.floor(person.keypoints_px[person.visibility == VISIBLE].T + 0.5).astype(int)
        # A colour may equal the background's by chance, but most do not.
        assert (difference[rows, columns].max(axis=1) > 3).mean() > 0.7


def test_left_and_right_are_the_persons_own():
    """For a figure that faces the camera, PoseNet's left is on the right of the picture."""
    scene = Scene(0, people=1)
    figure = scene.figures[0]
    figure.walk_x, figure.motions = 0.0, [lambda time_s: np.zeros(20)]
    for yaw, sign in ((0.0, 1), (np.pi, -1)):
        figure.yaw = yaw
        scene._posed = None
        points = scene.people(0.0, WIDTH_PX, HEIGHT_PX)[0].keypoints_px
        left, right = points[1::2, 0], points[2::2, 0]
        assert np.all(sign * (left - right) > 0)
    assert points[0, 1] < points[5, 1] < points[11, 1] < points[13, 1] < points[15, 1]


def test_light_rounds_halves_to_even_on_every_processor():
    """x86-64 always rounded like this. On arm64 OpenCV rounds halves up, so all products are compared."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
    exact = np.outer(np.arange(256), np.arange(256)) / 128
    assert np.array_equal(_lit(values, values.T.copy()), np.minimum(np.rint(exact), 255))
