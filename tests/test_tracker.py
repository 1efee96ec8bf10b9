"""Numbers stay with people, and smoothing calms without lagging more than stated (docs/firmware.md)."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from host_tools.firmware_modules import firmware_module
from sim.boards.scripted import person

tracker_module = firmware_module("tracker")


def poses(people, scores=None):
    """As posenet.PoseNet gives them: .data, .id, .threshold_q15."""
    found = []
    for points in people:
        data = [30000]
        for k, (x, y) in enumerate(points):
            data += [round(x * 256), round(y * 256), 30000 if scores is None else scores[k]]
        found.append(SimpleNamespace(data=firmware_module("array").array("i", data), id=0, threshold_q15=16384))
    return found


def follow(tracker, frames, dt_ms=50):
    """Ids and coordinates (in px) of all frames."""
    ids, points = [], []
    for number, people in enumerate(frames):
        found = poses(people)
        tracker.update(found, number * dt_ms)
        ids.append([pose.id for pose in found])
        points.append([np.array(pose.data[1:]).reshape(-1, 3)[:, :2] / 256 for pose in found])
    return ids, points


def test_two_people_keep_their_numbers_whatever_the_order():
    """The decoder gives the best pose first, so the order changes from frame to frame; the numbers must not."""
    rng = np.random.default_rng(5)
    frames, order = [], []
    for i in range(60):
        people = [person(60 + 3 * i, 120), person(260 - 2 * i, 125, height=150)]
        swap = bool(rng.integers(2)) and abs(people[0][0, 0] - people[1][0, 0]) > 40
        frames.append(people[::-1] if swap else people)
        order.append(swap)
    ids, _ = follow(tracker_module.Tracker(), frames[:30])
    assert all(set(pair) == {1, 2} for pair in ids)
    first = [pair[1 if swap else 0] for pair, swap in zip(ids, order, strict=False)]
    assert len(set(first)) == 1


def test_number_survives_a_short_absence_only():
    """Missing for `patience` frames and back: same number; longer: a new one."""
    here = [person(160, 120)]
    for absent, same in ((15, True), (16, False)):
        ids, _ = follow(tracker_module.Tracker(patience=15), [here] * 3 + [[]] * absent + [here])
        assert (ids[0] == ids[-1]) is same


def test_a_newcomer_elsewhere_is_somebody_else():
    """A person half a frame away is not taken for the one who left."""
    ids, _ = follow(tracker_module.Tracker(), [[person(60, 120)]] * 3 + [[person(260, 120)]] * 2)
    assert ids[0] != ids[-1]


def test_smoothing_calms_what_rests():
    """1 px of noise on a resting person: what is left is less than half."""
    rng = np.random.default_rng(6)
    frames = [[person(160, 120) + rng.normal(0, 1, (17, 2))] for _ in range(200)]
    _, points = follow(tracker_module.Tracker(), frames)
    steady = np.array([frame[0] for frame in points[20:]])
    raw = np.array([frame[0] for frame in frames[20:]])
    assert steady.std(axis=0).mean() < 0.6 * raw.std(axis=0).mean()
    assert abs((steady.mean(axis=0) - raw.mean(axis=0)).mean()) < 0.05


def lag_ms(speed_px_s: float, dt_ms: int = 50) -> float:
    """How far a steadily moving person's smoothed keypoints are behind, as time."""
    frames = [[person(50 + speed_px_s * i * dt_ms / 1000, 120)] for i in range(int(3000 / dt_ms))]
    _, points = follow(tracker_module.Tracker(), frames, dt_ms)
    return float(np.mean(frames[-1][0][:, 0] - points[-1][0][:, 0])) / speed_px_s * 1000


def test_latency_is_what_the_documentation_states():
    """About 100 ms near rest, 65 ms at 50 px/s, 30 ms at 200 px/s, at 10 and at 20 frames a second alike."""
    for dt_ms in (50, 100):
        slow, medium, fast = (lag_ms(speed, dt_ms) for speed in (5, 50, 200))
        assert 95 < slow < 106 and 60 < medium < 70 and 25 < fast < 33


def test_off_changes_nothing():
    """smooth=False: ids only."""
    frames = [[person(160 + i, 120)] for i in range(10)]
    _, points = follow(tracker_module.Tracker(smooth=False), frames)
    for frame, got in zip(frames, points, strict=True):
        assert np.abs(frame[0] - got[0]).max() <= 1 / 256


def test_hidden_keypoint_jumps_when_it_comes_back():
    """What was not seen has no past to be smoothed with: no sweep across the picture."""
    tracker = tracker_module.Tracker()
    here = person(160, 120)
    moved = here.copy()
    moved[9] += (60, 0)
    seen, hidden = [30000] * 17, [30000] * 9 + [100] + [30000] * 7
    for scores, points in ((seen, here), (hidden, here), (seen, moved)):
        found = poses([points], scores)
        tracker.update(found, 0)
    assert abs(found[0].data[1 + 27] / 256 - moved[9, 0]) < 0.01


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(-50, 370), st.integers(-50, 290)), max_size=5), max_size=12))
def test_any_crowd(frames):
    """Whatever comes: every pose gets a number of its own in its frame, coordinates stay between old and new."""
    tracker = tracker_module.Tracker(max_people=5)
    for number, places in enumerate(frames):
        found = poses([person(x, y) for x, y in places])
        tracker.update(found, number * 50)
        numbers = [pose.id for pose in found]
        assert 0 not in numbers and len(set(numbers)) == len(numbers)


@given(st.integers(1, 30000), st.integers(1, 500))
def test_smoothing_factor_is_the_low_pass_formula(cutoff_mhz, dt_ms):
    """r / (1 + r) with r = 2·pi·f·dt, within 1/1000."""
    r = 2 * math.pi * cutoff_mhz / 1000 * dt_ms / 1000
    assert abs(tracker_module.smoothing_q16(cutoff_mhz, dt_ms) / 65536 - r / (1 + r)) < 1e-3
