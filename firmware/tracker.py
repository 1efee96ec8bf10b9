"""The same person keeps the same number and steady keypoints from frame to frame. Optional; integers only.

Matching: greedy, nearest first, by the mean distance of the keypoints that both have, as a part of the person's
size. Smoothing: the one-euro filter (Casiez, Roussel, Vogel, CHI 2012), a low-pass whose cutoff frequency rises
with speed, so that a resting hand is calm and a fast one lags little.

When the camera pans or a person walks, all keypoints move together, and a filter that sees each one alone lags behind
all of them. So the motion that a person's keypoints have in common is estimated first (the median of their changes,
smoothed over time) and the filter works on what remains:

    last smoothed place --common motion--> predicted place --part of the way to the measurement--> smoothed place
"""

from array import array

try:
    from micropython import const
except ImportError:

    def const(value):
        return value


_TWO_PI_Q8 = const(1608)  # round(2·pi·256)
_FAR = const(1 << 30)
_LEAST_IN_COMMON = const(5)  # fewer keypoints than this have no motion in common
_COMMON_CUTOFF_MHZ = const(2000)


def smoothing_q16(cutoff_mhz, dt_ms):
    """Weight of a new value in a low-pass of this cutoff frequency (1/1000 Hz): r/(1+r), r = 2·pi·f·dt."""
    r_q16 = _TWO_PI_Q8 * cutoff_mhz * dt_ms // 3906  # 2^8 → 2^16 and 10^6 (mHz·ms): 10^6/256 = 3906.25
    return (r_q16 << 16) // (65536 + r_q16)


class _Track:
    """State of one person: the last smoothed and raw values and speeds of each keypoint."""

    def __init__(self, keypoints):
        self.id = 0  # 0 until the person has been seen often enough
        self.seen = 0  # frames in which it was seen
        self.lost = -1  # frames since it was seen; −1: not in use
        self.pose = None  # index of this frame's pose
        self.data = array("i", [0] * (1 + 3 * keypoints))
        self.raw = array("i", [0] * (2 * keypoints))
        self.speed = array("i", [0] * (2 * keypoints))
        self.common = array("i", (0, 0))  # speed that all keypoints share, x and y, in 1/256 px per second


class Tracker:
    """Give update() each frame's poses: it sets their ids and smooths their coordinates in place.

    smooth: off leaves coordinates as they are. min_cutoff_mhz: cutoff at rest in 1/1000 Hz (lower is calmer and
    lags more: 159,000 / min_cutoff_mhz ms for slow movements). beta_q16: rise of the cutoff with speed, in
    1/65536 Hz per px/s. patience: frames that a person may be missing and keep the number. appear_after: frames in a
    row that a person must be seen in before it is reported; what the network sees in a single frame is often nobody.
    """

    def __init__(
        self,
        smooth=True,
        min_cutoff_mhz=1500,
        beta_q16=1300,
        patience=15,
        max_people=10,
        keypoints=17,
        appear_after=2,
    ):
        self.smooth = smooth
        self.min_cutoff_mhz = min_cutoff_mhz
        self.beta_q16 = beta_q16
        self.patience = patience
        self.appear_after = appear_after
        self._tracks = [_Track(keypoints) for _ in range(max_people)]
        self._changes = []
        self._next = 1
        self._last_ms = None

    def update(self, poses, now_ms):
        """poses: list of posenet.Pose of one frame; those of people not yet reported leave it. now_ms: its time."""
        dt_ms = 50 if self._last_ms is None else min(max(now_ms - self._last_ms, 1), 500)
        self._last_ms = now_ms
        tracks = self._tracks
        for pose in poses:
            pose.track = None
        for track in tracks:
            track.pose = None
        while True:
            best = _FAR
            best_pose = best_track = None
            for pose in poses:
                if pose.track:
                    continue
                for track in tracks:
                    if track.lost >= 0 and track.pose is None:
                        cost = _distance(pose, track.data)
                        if cost < best:
                            best = cost
                            best_pose = pose
                            best_track = track
            if best_pose is None:
                break
            best_pose.track = best_track
            best_track.pose = best_pose
            best_track.lost = 0
        for track in tracks:
            if track.lost >= 0 and track.pose is None:
                track.lost += 1
                if track.lost > self.patience or not track.id:
                    track.lost = -1
        for pose in poses:
            if not pose.track:
                track = self._free_track()
                if track is None:
                    continue
                track.id = track.seen = track.lost = 0
                track.pose = pose
                pose.track = track
                track.data[0] = 0
                for i in range(3, len(track.data), 3):
                    track.data[i] = 0
                track.common[0] = track.common[1] = 0
        for track in tracks:
            if track.pose is not None:
                if self.smooth:
                    self._filter(track, track.pose, dt_ms)
                track.data[:] = track.pose.data
                track.seen += 1
                if not track.id and track.seen >= self.appear_after:
                    track.id = self._next
                    self._next += 1
        for i in range(len(poses) - 1, -1, -1):
            track = poses[i].track
            if track and track.id:
                poses[i].id = track.id
            else:
                del poses[i]

    def _free_track(self):
        """A track not in use, or the one missing for longest; None when every track has its person in this frame."""
        longest = None
        for track in self._tracks:
            if track.lost < 0:
                return track
            if track.pose is None and (longest is None or track.lost > longest.lost):
                longest = track
        return longest

    def _follow_common_motion(self, track, pose, dt_ms):
        """Update the speed that the person's keypoints have in common."""
        old = track.data
        new = pose.data
        raw = track.raw
        threshold = pose.threshold_q15
        changes = self._changes
        for axis in (0, 1):
            del changes[:]
            j = axis
            for i in range(3, len(new), 3):
                if old[i] >= threshold and new[i] >= threshold:
                    changes.append(new[i - 2 + axis] - raw[j])
                j += 2
            if len(changes) < _LEAST_IN_COMMON:
                track.common[axis] = 0
                continue
            changes.sort()
            speed = changes[len(changes) // 2] * 1000 // dt_ms
            calm = track.common[axis]
            cutoff = _COMMON_CUTOFF_MHZ + (abs(speed) * self.beta_q16 * 1000 >> 24)
            track.common[axis] += ((speed - calm) * smoothing_q16(cutoff, dt_ms)) >> 16

    def _filter(self, track, pose, dt_ms):
        self._follow_common_motion(track, pose, dt_ms)
        old = track.data
        new = pose.data
        raw = track.raw
        speed = track.speed
        threshold = pose.threshold_q15
        slow_q16 = smoothing_q16(1000, dt_ms)
        j = 0
        for i in range(1, len(new), 3):
            seen = old[i + 2] >= threshold and new[i + 2] >= threshold
            for axis in (0, 1):
                value = new[i + axis]
                if seen:
                    # The keypoint's own speed in q8 px per s, low-passed at 1 Hz; then its place, at a cutoff that
                    # follows that speed.
                    common = track.common[axis]
                    own = (value - raw[j]) * 1000 // dt_ms - common
                    speed[j] += ((own - speed[j]) * slow_q16) >> 16
                    cutoff = self.min_cutoff_mhz + (abs(speed[j]) * self.beta_q16 * 1000 >> 24)
                    predicted = old[i + axis] + common * dt_ms // 1000
                    new[i + axis] = predicted + (((value - predicted) * smoothing_q16(cutoff, dt_ms) + 32768) >> 16)
                else:
                    # Not seen before, or not now: there is nothing to smooth it with.
                    speed[j] = 0
                raw[j] = value
                j += 1


def _distance(pose, data):
    """Mean distance of keypoints seen in both, in 1/256 of the person's size; _FAR if that is over one half."""
    new = pose.data
    threshold = pose.threshold_q15
    left = top = _FAR
    right = bottom = -_FAR
    total = count = 0
    for i in range(1, len(new), 3):
        if new[i + 2] >= threshold:
            x = new[i]
            y = new[i + 1]
            left = min(left, x)
            right = max(right, x)
            top = min(top, y)
            bottom = max(bottom, y)
            if data[i + 2] >= threshold:
                total += abs(x - data[i]) + abs(y - data[i + 1])
                count += 1
    if not count:
        return _FAR
    size = max(right - left, bottom - top, 4096)
    cost = total * 256 // (count * size)
    return cost if cost <= 128 else _FAR
