"""Numbers stay with people, and smoothing makes them calm without lagging more than docs/firmware.md says."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scripted_network import person
from common.firmware_modules import firmware_module

tracker_module = firmware_module("tracker")


def poses(people, scores=None):
    """Poses as posenet.PoseNet gives them, with .data, .id, .threshold_q15 and .track."""
    found = []
    for points in people:
        data = [30000]
        for k, (x, y) in enumerate(points):
            data += [round(x * 256), round(y * 256), 30000 if scores is None else scores[k]]
        data = firmware_module("array").array("i", data)
        found.append(SimpleNamespace(data=data, id=0, threshold_q15=16384, track=None))
    return found


def at_once(**options):
    """A tracker that reports people in the first frame, so that every frame has numbers."""
    return tracker_module.Tracker(appear_after=1, **options)


def follow(tracker, frames, dt_ms=50):
    """The numbers and coordinates (in px) of all frames."""
    ids, points = [], []
    for number, people in enumerate(frames):
        found = poses(people)
        tracker.update(found, number * dt_ms)
        ids.append([pose.id for pose in found])
        points.append([np.array(pose.data[1:]).reshape(-1, 3)[:, :2] / 256 for pose in found])
    return ids, points


def test_a_new_person_is_not_drawn_to_where_another_was():
    """Smoothing must not begin at another person's place, even if the threshold is 0 %, which a score of 0 reaches."""
    tracker = at_once(max_people=1, patience=0)
    for now_ms, x in ((0, 20), (50, 300), (100, 300)):
        found = poses([person(x, 120)], scores=[0] * 17)
        found[0].threshold_q15 = 0
        before = list(found[0].data)
        tracker.update(found if now_ms != 50 else [], now_ms)
        assert list(found[0].data) == before


def test_somebody_outside_the_view_moves_on_for_half_a_second():
    """Every keypoint moves by 1000 and −500 per second and keeps its score. After half a second nothing is added."""
    track = tracker_module._Track(3)
    track.data[:] = firmware_module("array").array("i", [9, 1, 2, 3, 10, 20, 30, 100, 200, 300])
    track.average[0], track.average[1] = 1000, -500
    track.last_ms = track.data_ms = 0
    for now_ms, data in (
        (100, [9, 101, -48, 3, 110, -30, 30, 200, 150, 300]),
        (900, [9, 501, -248, 3, 510, -230, 30, 600, -50, 300]),
        (950, [9, 501, -248, 3, 510, -230, 30, 600, -50, 300]),
    ):
        tracker_module._carry_on(track, now_ms)
        assert list(track.data) == data
    track.data_ms, track.last_ms = 949, 949
    tracker_module._carry_on(track, 950)
    assert track.data[1] == 502, "a millisecond counts"


def test_in_another_view_keypoints_move_less_far():
    """Just after a change of view keypoints go three quarters of their way, and a quarter after being outside the view.

    In another view the network sees people elsewhere by some pixels, which is spread over pictures instead of a jump.
    Three keypoints are too few for a motion in common, and beta is 0, so each goes the same part of its way.
    """
    moved = []
    for other_view, away in ((False, 0), (True, 0), (True, 1)):
        tracker = at_once(keypoints=3, beta_q16=0)
        tracker.update(poses([[(100, 100), (120, 100), (110, 160)]]), 0)
        tracker._tracks[0].away = away
        found = poses([[(110, 100), (130, 100), (120, 160)]])
        tracker.update(found, 50, other_view=other_view)
        moved.append(found[0].data[1] - 100 * 256)
    weight = tracker_module.smoothing_q16(1500, 50)
    assert moved == [(10 * 256 * weight * quarters + (1 << 17)) >> 18 for quarters in (4, 3, 1)]


def test_a_change_of_view_is_not_taken_for_a_walk():
    """The network sees a resting person 4 px lower in another view.

    If the view leaves the person after that, the pose comes to rest within 3 px of there; at the speed of that one
    frame it would go on downwards by 12 px.
    """
    tracker = at_once()
    for frame in range(20):
        tracker.update(poses([person(100, 100)]), 100 * frame)
    tracker.update(poses([person(100, 104)]), 2000, other_view=True)
    for frame in range(5):
        tracker.update([], 2100 + 100 * frame, cuts_off=lambda data: True)
    assert tracker.away[0].data[2] - person(100, 104)[0, 1] * 256 < 3 * 256


def test_any_score_makes_a_person_appear_unless_one_is_asked_for():
    """Without an appear score even a pose with a score of 0 counts."""
    found = poses([person(100, 120)])
    found[0].data[0] = 0
    at_once().update(found, 0)
    assert [pose.id for pose in found] == [1]


def test_two_people_keep_their_numbers_whatever_the_order():
    """The decoder gives the best pose first, so the order changes between frames, but the numbers must not."""
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
    """Somebody who is missing for up to `patience` frames keeps the number; later it is a new one."""
    here = [person(160, 120)]
    for absent, same in ((15, True), (16, False)):
        ids, _ = follow(at_once(patience=15), [here] * 3 + [[]] * absent + [here])
        assert (ids[0] == ids[-1]) is same


def test_a_newcomer_elsewhere_is_somebody_else():
    """A person half a frame away must not be taken for the one who left."""
    ids, _ = follow(at_once(), [[person(60, 120)]] * 3 + [[person(260, 120)]] * 2)
    assert ids[0] != ids[-1]


def test_smoothing_calms_what_rests():
    """Of 1 px of noise on a resting person, less than 60 % may remain, without a shift."""
    rng = np.random.default_rng(6)
    frames = [[person(160, 120) + rng.normal(0, 1, (17, 2))] for _ in range(200)]
    _, points = follow(at_once(), frames)
    steady = np.array([frame[0] for frame in points[20:]])
    raw = np.array([frame[0] for frame in frames[20:]])
    assert steady.std(axis=0).mean() < 0.6 * raw.std(axis=0).mean()
    assert abs((steady.mean(axis=0) - raw.mean(axis=0)).mean()) < 0.05


def errors_px(place, noise_px: float = 1.3, dt_ms: int = 70, frames: int = 200) -> tuple[float, float]:
    """The mean errors, in px, of measured and of smoothed keypoints; place(seconds) gives the person's x."""
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
    """If all keypoints move together they must not lag: the smoothed pose is nearer to the truth than the measured."""
    raw, calm = errors_px(place)
    assert calm < share * raw


def lag_ms(speed_px_s: float, dt_ms: int = 50) -> float:
    """The time by which a wrist that moves steadily lags behind while the rest of the person stays still."""
    frames = []
    for number in range(int(3000 / dt_ms)):
        points = person(160, 120)
        points[9, 0] += speed_px_s * number * dt_ms / 1000
        frames.append([points])
    _, points = follow(at_once(), frames, dt_ms)
    return float(frames[-1][0][9, 0] - points[-1][0][9, 0]) / speed_px_s * 1000


def test_latency_is_what_the_documentation_states():
    """A keypoint that moves alone lags 100 ms at 5 px/s, 65 ms at 50 and 30 ms at 200, at 10 and 20 frames a second."""
    for dt_ms in (50, 100):
        slow, medium, fast = (lag_ms(speed, dt_ms) for speed in (5, 50, 200))
        assert 95 < slow < 106 and 60 < medium < 70 and 25 < fast < 33


def test_a_person_who_walks_is_not_behind():
    """At 100 px/s the common motion of all keypoints is known after a second, and then nothing lags."""
    frames = [[person(50 + 5 * number, 120)] for number in range(40)]
    _, points = follow(at_once(), frames)
    assert abs(frames[-1][0][:, 0] - points[-1][0][:, 0]).max() < 0.25


def test_who_is_seen_once_is_not_reported():
    """A ghost of one frame never appears and uses up no number. A person appears in the second frame in a row."""
    tracker = tracker_module.Tracker()
    here, ghost = person(80, 120), person(250, 120)
    ids, _ = follow(tracker, [[here], [here], [here, ghost], [here], [ghost, here], [ghost, here]])
    assert ids == [[], [1], [1], [1], [1], [2, 1]]


def test_more_people_than_tracks_are_not_reported():
    """With two tracks and three people, two are reported, each with a number of its own."""
    ids, _ = follow(at_once(max_people=2), [[person(50, 120), person(160, 120), person(270, 120)]] * 2)
    assert ids == [[1, 2], [1, 2]]


def test_the_person_missing_for_longest_makes_room():
    """Two people are away and a third needs a track. The one who left first is forgotten, the other can come back."""
    left, right, new = person(40, 120), person(160, 120), person(290, 120)
    ids, _ = follow(at_once(max_people=2, patience=15), [[left, right], [right], [], [new], [right, new]])
    assert ids == [[1, 2], [2], [], [3], [2, 3]]
    ids, _ = follow(at_once(max_people=2, patience=15), [[left, right], [left], [], [new], [left, new]])
    assert ids == [[1, 2], [1], [], [3], [1, 3]]
    # If both left at the same time, the first track is used.
    ids, _ = follow(at_once(max_people=2, patience=15), [[left, right], [], [new], [right, new]])
    assert ids == [[1, 2], [], [3], [2, 3]]


def test_a_gap_in_time_is_taken_as_half_a_second_at_most():
    """After a pause of minutes the filter must not believe that everything stood still for minutes."""
    assert [smoothed_step(gap_ms) for gap_ms in (500, 600, 60_000)] == [smoothed_step(500)] * 3


def smoothed_step(gap_ms: int) -> int:
    """The reported place of a resting person's nose, q8 px, after a gap and a step of 3 px."""
    tracker = at_once()
    tracker.update(poses([person(160, 120)]), 1000)
    found = poses([person(163, 120)])
    tracker.update(found, 1000 + gap_ms)
    return int(found[0].data[1])


def test_matching_reaches_half_the_size_and_no_further():
    """Somebody may move by half of their size between frames and keep the number."""
    points = person(160, 120)
    size = max(np.ptp(points[:, 0]), np.ptp(points[:, 1]))
    for share, same in ((0.49, True), (0.52, False)):
        ids, _ = follow(at_once(), [[points], [points + (share * size, 0)]])
        assert (ids[0] == ids[1]) is same


def test_without_smoothing_coordinates_stay():
    """smooth=False gives numbers and changes nothing else."""
    frames = [[person(160 + i, 120)] for i in range(10)]
    _, points = follow(at_once(smooth=False), frames)
    for frame, got in zip(frames, points, strict=True):
        assert np.abs(frame[0] - got[0]).max() <= 1 / 256


def test_hidden_keypoint_jumps_when_it_comes_back():
    """A keypoint that was not seen has no past to be smoothed with and must not sweep across the picture."""
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
def test_in_any_crowd_every_pose_has_a_number_of_its_own(frames):
    """Whatever the people do, no number may appear twice in a frame, and none may be missing."""
    tracker = at_once(max_people=5)
    for number, places in enumerate(frames):
        found = poses([person(x, y) for x, y in places])
        tracker.update(found, number * 50)
        numbers = [pose.id for pose in found]
        assert 0 not in numbers and len(set(numbers)) == len(numbers)


@given(st.integers(1, 30000), st.integers(1, 500))
def test_smoothing_factor_is_the_low_pass_formula(cutoff_mhz, dt_ms):
    """The integers must equal r / (1 + r) with r = 2·pi·f·dt to within 1/1000."""
    r = 2 * math.pi * cutoff_mhz / 1000 * dt_ms / 1000
    assert abs(tracker_module.smoothing_q16(cutoff_mhz, dt_ms) / 65536 - r / (1 + r)) < 1e-3


# -- the same integers as the formulas, which are written here once more without any thought of speed


def low_pass(old: int, new: int, cutoff_mhz: int, dt_ms: int) -> int:
    """old + (new − old) · r/(1 + r), with the weight in q16, rounded down."""
    return int(old + ((new - old) * tracker_module.smoothing_q16(cutoff_mhz, dt_ms) >> 16))


class PlainFilter:
    """The one-euro filter of one person with the common motion (firmware/tracker.py's docstring), all in q8 px."""

    def __init__(self, keypoints: int, min_cutoff_mhz: int, beta_q16: int):
        self.least, self.beta = min_cutoff_mhz, beta_q16
        self.raw = [[0, 0] for _ in range(keypoints)]
        self.speed = [[0, 0] for _ in range(keypoints)]
        self.smooth: list[tuple[int, int, int]] = [(0, 0, 0)] * keypoints
        self.common = [0, 0]

    def cutoff(self, least: int, speed_q8: int) -> int:
        return least + (abs(speed_q8) * self.beta * 1000 >> 24)

    def update(self, points: list[tuple[int, int, int]], dt_ms: int, threshold: int = 16384) -> None:
        seen = [old[2] >= threshold and new[2] >= threshold for old, new in zip(self.smooth, points, strict=True)]
        for axis in (0, 1):
            changes = sorted(p[axis] - raw[axis] for p, raw, both in zip(points, self.raw, seen, strict=True) if both)
            if len(changes) < 5:
                self.common[axis] = 0
                continue
            speed = changes[len(changes) // 2] * 1000 // dt_ms
            self.common[axis] = low_pass(self.common[axis], speed, self.cutoff(2000, speed), dt_ms)
        for k, point in enumerate(points):
            place = list(point)
            for axis in (0, 1):
                if not seen[k]:
                    self.speed[k][axis] = 0
                else:
                    own = (point[axis] - self.raw[k][axis]) * 1000 // dt_ms - self.common[axis]
                    self.speed[k][axis] = low_pass(self.speed[k][axis], own, 1000, dt_ms)
                    expected = self.smooth[k][axis] + self.common[axis] * dt_ms // 1000
                    cutoff = self.cutoff(self.least, self.speed[k][axis])
                    weight = tracker_module.smoothing_q16(cutoff, dt_ms)
                    place[axis] = expected + ((point[axis] - expected) * weight + 32768 >> 16)
                self.raw[k][axis] = point[axis]
            self.smooth[k] = (place[0], place[1], point[2])


walk = st.lists(
    st.tuples(
        st.integers(1, 700),
        st.lists(
            st.tuples(st.integers(-600, 600), st.integers(-600, 600), st.sampled_from((30000, 16384, 16383))),
            min_size=7,
            max_size=7,
        ),
        st.tuples(st.integers(-2000, 2000), st.integers(-2000, 2000)),
    ),
    min_size=2,
    max_size=12,
)


@given(walk, st.integers(100, 5000), st.integers(0, 20000))
def test_the_filter_computes_its_formulas(frames, min_cutoff_mhz, beta_q16):
    """Seven keypoints that tremble, move together, come and go at any pace must have exactly the formula's coordinates.

    The time step is limited to 1 … 500 ms. The body is so large that no step makes it somebody else.
    """
    tracker = at_once(keypoints=7, min_cutoff_mhz=min_cutoff_mhz, beta_q16=beta_q16, patience=100)
    plain = PlainFilter(7, min_cutoff_mhz, beta_q16)
    now, moved = 0, [0, 0]
    for number, (step_ms, points, together) in enumerate(frames):
        now += step_ms
        moved = [moved[0] + together[0], moved[1] + together[1]]
        body = [(50_000 * k + x + moved[0], 30_000 * (k % 3) + y + moved[1], s) for k, (x, y, s) in enumerate(points)]
        for k in (0, 6):  # Both ends are always seen, so that the body is large.
            body[k] = (*body[k][:2], 30000)
        data = firmware_module("array").array("i", [30000, *(value for point in body for value in point)])
        found = [SimpleNamespace(data=data, id=0, threshold_q15=16384, track=None)]
        tracker.update(found, now)
        plain.update(body, 50 if number == 0 else min(step_ms, 500))
        assert [found[0].id] == [1]
        assert list(data[1:]) == [value for point in plain.smooth for value in point]


def test_frames_without_time_between_count_as_a_millisecond_apart():
    """Two frames can come within one millisecond, and a clock can go back. Neither may end in a division by zero."""
    for later in (1000, 999, 1001):
        tracker = at_once()
        tracker.update(poses([person(160, 120)]), 1000)
        found = poses([person(163, 120)])
        tracker.update(found, later)
        weight = tracker_module.smoothing_q16(1500, 1)
        assert weight > 0 and abs(found[0].data[1] - 160 * 256) < 256


def pose_of(*points: tuple[int, int, int], threshold: int = 200) -> SimpleNamespace:
    """A pose of keypoints (x, y, score), with x and y in px."""
    data = [0, *(value for x, y, score in points for value in (x * 256, y * 256, score))]
    return SimpleNamespace(data=data, threshold_q15=threshold, id=0, track=None)


def test_a_persons_size_is_the_larger_side_of_what_is_seen():
    """It is in 1/256 px and at least 16 px. A keypoint at half the threshold counts, and one below does not."""
    tall = pose_of((10, 20, 100), (30, 90, 500), (20, 50, 100), (-500, 900, 99))
    wide = pose_of((-10, 20, 100), (150, 21, 100), (70, 25, 100))
    assert tracker_module._size(tall) == 70 * 256
    assert tracker_module._size(wide) == 160 * 256
    assert tracker_module._size(pose_of((5, 5, 100), (21, 5, 100))) == 4096
    assert tracker_module._size(pose_of((5, 5, 100), (22, 5, 100))) == 17 * 256
    assert tracker_module._size(pose_of((5, 5, 99))) == 4096


def test_the_distance_is_the_mean_over_keypoints_that_both_have():
    """|Δx| + |Δy| is averaged in 1/256 of the size. More than half the size, or nothing in common, is out of reach."""
    old = pose_of((0, 0, 100), (100, 0, 100), (0, 100, 99), (50, 50, 100)).data
    new = pose_of((3, -4, 100), (100, 10, 100), (0, 0, 100), (0, 0, 99))
    far = tracker_module._FAR
    assert tracker_module._distance(new, 100 * 256, old) == (7 + 10) * 256 // (2 * 100)
    beside = pose_of((50, 0, 100), (150, 0, 100), (0, 0, 0), (0, 0, 0))
    assert tracker_module._distance(beside, 100 * 256, old) == 128
    beyond = pose_of((51, 0, 100), (151, 0, 100), (0, 0, 0), (0, 0, 0))
    assert tracker_module._distance(beyond, 100 * 256, old) == far
    for away, cost in ((128, 128), (129, far)):  # For a person of 256 px each px is one step.
        assert tracker_module._distance(pose_of((away, 0, 100)), 256 * 256, pose_of((0, 0, 100)).data) == cost
    assert tracker_module._distance(pose_of((0, 0, 99), (0, 0, 0), (0, 0, 100), (0, 0, 0)), 4096, old) == far


def test_a_person_of_whom_only_the_trunk_is_sure_keeps_the_number():
    """Somebody small in the view: the size must be that of the whole body and not of the trunk alone."""
    sure = (5, 6, 11, 12)
    scores = [20000 if k in sure else 9000 for k in range(17)]
    tracker = at_once()
    for x in (100, 115):
        found = poses([person(x, 120, height=60)], scores)
        tracker.update(found, 10 * x)
        assert [pose.id for pose in found] == [1]


def test_the_nearest_pair_is_matched_first():
    """B's person moved towards A's track and is the nearest to it but for A's own person, who must keep it."""
    a, b = person(100, 120), person(130, 120)
    ids, _ = follow(at_once(), [[a, b], [b + (-12, 0), a + (3, 0)], [a, b]])
    assert ids == [[1, 2], [2, 1], [1, 2]]
    # One pose near two tracks gets the nearer one, and the other stays free for its own person.
    ids, _ = follow(at_once(), [[a, b], [a + (3, 0)], [b, a]])
    assert ids == [[1, 2], [1], [2, 1]]
    # Of two equally near poses the first gets the track; with one track only the first is reported.
    ids, _ = follow(at_once(max_people=1), [[a], [a + (2, 0), a + (-2, 0)]])
    assert ids == [[1], [1]]
    tracker = at_once(max_people=1)
    tracker.update(poses([a]), 0)
    found = poses([a + (2, 0), a + (-2, 0)])
    first = found[0]
    tracker.update(found, 50)
    assert found == [first]


def test_a_new_person_takes_over_nothing_from_the_one_before():
    """A track is used again after its person left. The old number, speed and place must not count."""
    tracker = at_once(max_people=1, patience=0)
    for number in range(10):
        tracker.update(poses([person(40 + 12 * number, 120)]), 50 * number)
    tracker.update([], 500)
    newcomer = person(250, 120)
    found = poses([newcomer])
    tracker.update(found, 550)
    assert found[0].id == 2
    assert np.abs(np.array(found[0].data[1:]).reshape(-1, 3)[:, :2] / 256 - newcomer).max() <= 1 / 256
    tracker.update(again := poses([newcomer]), 600)
    assert again[0].id == 2
    assert np.abs(np.array(again[0].data[1:]).reshape(-1, 3)[:, :2] / 256 - newcomer).max() <= 1 / 256


def test_a_ghost_that_pauses_begins_anew():
    """Two frames with a gap are not two in a row, and three in a row are needed where three are asked for."""
    here = person(160, 120)
    ids, _ = follow(tracker_module.Tracker(), [[here], [], [here], [here]])
    assert ids == [[], [], [], [1]]
    ids, _ = follow(tracker_module.Tracker(appear_after=3), [[here]] * 4)
    assert ids == [[], [], [1], [1]]


def test_whoever_is_not_in_the_view_is_not_missing() -> None:
    """Where nobody looks, nobody can be missed. The number stays as long as needed, and `away` lists these people."""
    tracker = at_once(patience=3)
    tracker.update(poses([person(100, 100), person(250, 100)]), 0)
    for frame in range(1, 40):
        found = poses([person(100, 100)])
        tracker.update(found, 50 * frame, cuts_off=lambda data: data[1] > 200 << 8)
        assert [pose.id for pose in found] == [1]
        assert [(track.id, track.away) for track in tracker.away] == [(2, frame)]
    found = poses([person(100, 100), person(252, 100)])
    tracker.update(found, 2000, cuts_off=lambda data: False)
    assert [pose.id for pose in found] == [1, 2] and not tracker.away


def walks_out_of_the_view(step_px: float, looked_ms: int, away: int) -> tuple[Any, list[int], int]:
    """Somebody walks evenly, and then nobody looks for `away` pictures of 50 ms.

    Returns the tracker, the place of the nose in each of these pictures, and where the nose would really be, in q8 px.
    """
    tracker = at_once()
    count = looked_ms // 50
    for frame in range(count):
        tracker.update(poses([person(50 + step_px * frame, 100)]), 50 * frame)
    places = []
    for frame in range(count, count + away):
        tracker.update([], 50 * frame, cuts_off=lambda data: True)
        assert [track.away for track in tracker.away] == [frame - count + 1]
        places.append(tracker.away[0].data[1])
    return tracker, places, round(256 * person(50 + step_px * (count + away - 1), 100)[0, 0])


def test_somebody_outside_the_view_walks_on() -> None:
    """They continue at the common speed of their keypoints, and are found where they are expected."""
    tracker, places, truth = walks_out_of_the_view(4, looked_ms=2000, away=6)
    assert (np.abs(np.diff(places) - 4 * 256) < 64).all()
    assert abs(places[-1] - truth) < 128
    # Seen again, they are reported where they are at once, and no faster than before.
    (found,) = poses([person(50 + 4 * 46, 100)])
    tracker.update([found], 50 * 46, cuts_off=lambda data: False)
    assert found.id == 1 and abs(found.data[1] - 256 * person(50 + 4 * 46, 100)[0, 0]) < 128
    assert abs(tracker._tracks[0].common[0] - 4 * 20 * 256) < 256


def test_nobody_walks_on_for_more_than_half_a_second() -> None:
    """After that nobody knows where they are. Somebody who stood still stays where they are."""
    _, places, _ = walks_out_of_the_view(4, looked_ms=2000, away=30)
    assert places[9] - places[0] > 8 * 4 * 256 and len(set(places[9:])) == 1
    _, places, truth = walks_out_of_the_view(0, looked_ms=2000, away=30)
    assert set(places) == {truth}


def test_without_smoothing_nobody_is_moved() -> None:
    """smooth=False leaves coordinates as they were found, also for people outside the view."""
    tracker = at_once(smooth=False)
    for frame in range(10):
        tracker.update(poses([person(50 + 4 * frame, 100)]), 50 * frame)
    last = tracker._tracks[0].data[1]
    tracker.update([], 500, cuts_off=lambda data: True)
    assert tracker.away[0].data[1] == last


def test_a_person_begins_with_sure_poses_and_is_followed_with_others() -> None:
    """By posenet.json's appear_score somebody begins with two such poses and is then followed with lower scores."""
    tracker = tracker_module.Tracker()
    tracker.appear_q15 = 26214
    reported = []
    for number, score in enumerate((26213, 26213, 26213, 26214, 20000, 26214, 13107, 13107)):
        found = poses([person(160, 120)])
        found[0].data[0] = score
        tracker.update(found, 50 * number)
        reported.append(len(found))
    assert reported == [0, 0, 0, 0, 0, 1, 1, 1]
