"""Numbers stay with people, and smoothing calms without lagging more than stated (docs/firmware.md)."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.firmware_modules import firmware_module
from sim.boards.scripted_network import person

tracker_module = firmware_module("tracker")


def poses(people, scores=None):
    """As posenet.PoseNet gives them: .data, .id, .threshold_q15, .track."""
    found = []
    for points in people:
        data = [30000]
        for k, (x, y) in enumerate(points):
            data += [round(x * 256), round(y * 256), 30000 if scores is None else scores[k]]
        data = firmware_module("array").array("i", data)
        found.append(SimpleNamespace(data=data, id=0, threshold_q15=16384, track=None))
    return found


def at_once(**options):
    """A tracker that reports people in the first frame, so that every frame has its ids."""
    return tracker_module.Tracker(appear_after=1, **options)


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
    ids, _ = follow(at_once(), frames[:30])
    assert all(set(pair) == {1, 2} for pair in ids)
    first = [pair[1 if swap else 0] for pair, swap in zip(ids, order, strict=False)]
    assert len(set(first)) == 1


def test_number_survives_a_short_absence_only():
    """Missing for `patience` frames and back: same number; longer: a new one."""
    here = [person(160, 120)]
    for absent, same in ((15, True), (16, False)):
        ids, _ = follow(at_once(patience=15), [here] * 3 + [[]] * absent + [here])
        assert (ids[0] == ids[-1]) is same


def test_a_newcomer_elsewhere_is_somebody_else():
    """A person half a frame away is not taken for the one who left."""
    ids, _ = follow(at_once(), [[person(60, 120)]] * 3 + [[person(260, 120)]] * 2)
    assert ids[0] != ids[-1]


def test_smoothing_calms_what_rests():
    """1 px of noise on a resting person: what is left is less than half."""
    rng = np.random.default_rng(6)
    frames = [[person(160, 120) + rng.normal(0, 1, (17, 2))] for _ in range(200)]
    _, points = follow(at_once(), frames)
    steady = np.array([frame[0] for frame in points[20:]])
    raw = np.array([frame[0] for frame in frames[20:]])
    assert steady.std(axis=0).mean() < 0.6 * raw.std(axis=0).mean()
    assert abs((steady.mean(axis=0) - raw.mean(axis=0)).mean()) < 0.05


def errors_px(place, noise_px: float = 1.3, dt_ms: int = 70, frames: int = 200) -> tuple[float, float]:
    """Mean error of a person's measured and of the smoothed keypoints, px; place(seconds) → x of the person."""
    rng = np.random.default_rng(1)
    truth = [person(place(number * dt_ms / 1000), 120) for number in range(frames)]
    measured = [points + rng.normal(0, noise_px, points.shape) for points in truth]
    _, smoothed = follow(at_once(), [[points] for points in measured], dt_ms)
    pairs = list(zip(truth, measured, [frame[0] for frame in smoothed], strict=True))[20:]
    raw, calm = zip(*((np.hypot(*(m - t).T).mean(), np.hypot(*(s - t).T).mean()) for t, m, s in pairs), strict=True)
    return float(np.mean(raw)), float(np.mean(calm))


@pytest.mark.parametrize(
    ("place", "share"),
    [
        (lambda t: 160, 0.6),
        (lambda t: 100 * t - 100, 0.6),
        (lambda t: 160 + 60 * math.sin(2 * math.pi * t / 4), 0.7),
        (lambda t: 160 + 40 * math.sin(2 * math.pi * t / 2), 0.9),
    ],
    ids=("at rest", "walking at 100 px/s", "a pan to and fro in 4 s", "a pan to and fro in 2 s"),
)
def test_smoothing_never_costs_more_than_it_calms(place, share):
    """When all keypoints move together they must not lag behind: the smoothed pose is nearer to the truth."""
    raw, calm = errors_px(place)
    assert calm < share * raw


def lag_ms(speed_px_s: float, dt_ms: int = 50) -> float:
    """How far one wrist that moves steadily while the person rests is behind, as time."""
    frames = []
    for number in range(int(3000 / dt_ms)):
        points = person(160, 120)
        points[9, 0] += speed_px_s * number * dt_ms / 1000
        frames.append([points])
    _, points = follow(at_once(), frames, dt_ms)
    return float(frames[-1][0][9, 0] - points[-1][0][9, 0]) / speed_px_s * 1000


def test_latency_is_what_the_documentation_states():
    """A keypoint that moves alone: about 100 ms at 5 px/s, 65 ms at 50, 30 ms at 200, at 10 and 20 frames a second."""
    for dt_ms in (50, 100):
        slow, medium, fast = (lag_ms(speed, dt_ms) for speed in (5, 50, 200))
        assert 95 < slow < 106 and 60 < medium < 70 and 25 < fast < 33


def test_a_person_who_walks_is_not_behind():
    """All keypoints together at 100 px/s: the motion in common is known after a second, and nothing lags."""
    frames = [[person(50 + 5 * number, 120)] for number in range(40)]
    _, points = follow(at_once(), frames)
    assert abs(frames[-1][0][:, 0] - points[-1][0][:, 0]).max() < 0.25


def test_who_is_seen_once_is_not_reported():
    """A ghost of one frame never appears and uses up no number; a person appears in the second frame in a row."""
    tracker = tracker_module.Tracker()
    here, ghost = person(80, 120), person(250, 120)
    ids, _ = follow(tracker, [[here], [here], [here, ghost], [here], [ghost, here], [ghost, here]])
    assert ids == [[], [1], [1], [1], [1], [2, 1]]


def test_more_people_than_tracks():
    """Two tracks and three people: two are reported, each with a number of its own."""
    ids, _ = follow(at_once(max_people=2), [[person(50, 120), person(160, 120), person(270, 120)]] * 2)
    assert ids == [[1, 2], [1, 2]]


def test_the_person_missing_for_longest_makes_room():
    """Of two people away, the one who left first is forgotten when a third needs the track; the other comes back."""
    left, right, new = person(40, 120), person(160, 120), person(290, 120)
    ids, _ = follow(at_once(max_people=2, patience=15), [[left, right], [right], [], [new], [right, new]])
    assert ids == [[1, 2], [2], [], [3], [2, 3]]


def test_a_gap_in_time_is_taken_as_half_a_second_at_most():
    """After a pause of minutes the filter must not believe that everything has stood still for minutes."""
    assert [smoothed_step(gap_ms) for gap_ms in (500, 600, 60_000)] == [smoothed_step(500)] * 3


def smoothed_step(gap_ms: int) -> int:
    """Where a resting person's nose is reported, q8 px, after a gap and a step of 3 px."""
    tracker = at_once()
    tracker.update(poses([person(160, 120)]), 1000)
    found = poses([person(163, 120)])
    tracker.update(found, 1000 + gap_ms)
    return found[0].data[1]


def test_matching_reaches_half_the_size_and_no_further():
    """A person may move by half of its size from frame to frame and keep the number; the limit is part of the match."""
    points = person(160, 120)
    size = max(np.ptp(points[:, 0]), np.ptp(points[:, 1]))
    for share, same in ((0.49, True), (0.52, False)):
        ids, _ = follow(at_once(), [[points], [points + (share * size, 0)]])
        assert (ids[0] == ids[1]) is same


def test_off_changes_nothing():
    """smooth=False: ids only."""
    frames = [[person(160 + i, 120)] for i in range(10)]
    _, points = follow(at_once(smooth=False), frames)
    for frame, got in zip(frames, points, strict=True):
        assert np.abs(frame[0] - got[0]).max() <= 1 / 256


def test_hidden_keypoint_jumps_when_it_comes_back():
    """What was not seen has no past to be smoothed with: no sweep across the picture."""
    tracker = at_once()
    here = person(160, 120)
    moved = here.copy()
    moved[9] += (60, 0)
    seen, hidden = [30000] * 17, [30000] * 9 + [100] + [30000] * 7
    for scores, points in ((seen, here), (hidden, here), (seen, moved)):
        found = poses([points], scores)
        tracker.update(found, 0)
    assert abs(found[0].data[1 + 27] / 256 - moved[9, 0]) < 0.01


@given(st.lists(st.lists(st.tuples(st.integers(-50, 370), st.integers(-50, 290)), max_size=5), max_size=12))
def test_any_crowd(frames):
    """Whatever comes: every pose gets a number of its own in its frame, coordinates stay between old and new."""
    tracker = at_once(max_people=5)
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
