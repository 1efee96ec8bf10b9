"""The same person keeps the same number and steady keypoints from frame to frame. Optional; integers only.

Matching: greedy, nearest first, by the mean distance of the keypoints that both have, as a part of the person's
size. Smoothing: the one-euro filter (Casiez, Roussel, Vogel, CHI 2012), a low-pass whose cutoff frequency rises
with speed, so that a resting hand is calm and a fast one lags little.
"""

from array import array

try:
    from micropython import const
except ImportError:

    def const(value):
        return value


_TWO_PI_Q8 = const(1608)  # round(2·pi·256)
_FAR = const(1 << 30)


def smoothing_q16(cutoff_mhz, dt_ms):
    """Weight of a new value in a low-pass of this cutoff frequency (1/1000 Hz): r/(1+r), r = 2·pi·f·dt."""
    r_q16 = _TWO_PI_Q8 * cutoff_mhz * dt_ms // 3906  # 2^8 → 2^16 and 10^6 (mHz·ms): 10^6/256 = 3906.25
    return (r_q16 << 16) // (65536 + r_q16)


class _Track:
    """State of one person: the last smoothed and raw values and speeds of each keypoint."""

    def __init__(self, keypoints):
        self.id = 0
        self.lost = -1  # frames since it was seen; −1: not in use
        self.pose = None  # index of this frame's pose
        self.data = array("i", [0] * (1 + 3 * keypoints))
        self.raw = array("i", [0] * (2 * keypoints))
        self.speed = array("i", [0] * (2 * keypoints))


class Tracker:
    """Give update() each frame's poses: it sets their ids and smooths their coordinates in place.

    smooth: off leaves coordinates as they are. min_cutoff_mhz: cutoff at rest in 1/1000 Hz (lower is calmer and
    lags more: 159,000 / min_cutoff_mhz ms for slow movements). beta_q16: rise of the cutoff with speed, in
    1/65536 Hz per px/s. patience: frames that a person may be missing and keep the number.
    """

    def __init__(self, smooth=True, min_cutoff_mhz=1500, beta_q16=1300, patience=15, max_people=10, keypoints=17):
        self.smooth = smooth
        self.min_cutoff_mhz = min_cutoff_mhz
        self.beta_q16 = beta_q16
        self.patience = patience
        self._tracks = [_Track(keypoints) for _ in range(max_people)]
        self._next = 1
        self._last_ms = None

    def update(self, poses, now_ms):
        """poses: list of posenet.Pose of one frame; now_ms: its time."""
        dt_ms = 50 if self._last_ms is None else min(max(now_ms - self._last_ms, 1), 500)
        self._last_ms = now_ms
        tracks = self._tracks
        for pose in poses:
            pose.id = 0
        for track in tracks:
            track.pose = None
        while True:
            best = _FAR
            best_pose = best_track = None
            for pose in poses:
                if pose.id:
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
            best_pose.id = best_track.id
            best_track.pose = best_pose
            best_track.lost = 0
        for track in tracks:
            if track.lost >= 0 and track.pose is None:
                track.lost += 1
                if track.lost > self.patience:
                    track.lost = -1
        for pose in poses:
            if not pose.id:
                track = self._free_track()
                track.id = pose.id = self._next
                self._next += 1
                track.lost = 0
                track.pose = pose
                track.data[0] = 0
                for i in range(3, len(track.data), 3):
                    track.data[i] = 0
        for track in tracks:
            if track.pose is not None:
                if self.smooth:
                    self._filter(track, track.pose, dt_ms)
                track.data[:] = track.pose.data

    def _free_track(self):
        """A track not in use, or the one missing for longest."""
        longest = self._tracks[0]
        for track in self._tracks:
            if track.lost < 0:
                return track
            if track.pose is None and (longest.pose is not None or track.lost > longest.lost):
                longest = track
        return longest

    def _filter(self, track, pose, dt_ms):
        old = track.data
        new = pose.data
        raw = track.raw
        speed = track.speed
        threshold = pose.threshold_q15
        slow_q16 = smoothing_q16(1000, dt_ms)
        j = 0
        for i in range(1, len(new), 3):
            for axis in (i, i + 1):
                value = new[axis]
                if old[i + 2] < threshold or new[i + 2] < threshold:
                    # Not seen before, or not now: nothing to be smoothed with.
                    speed[j] = 0
                else:
                    # q8 px per s, low-passed at 1 Hz; then the value, at a cutoff that follows the speed.
                    now = (value - raw[j]) * 1000 // dt_ms
                    speed[j] += ((now - speed[j]) * slow_q16) >> 16
                    cutoff = self.min_cutoff_mhz + (abs(speed[j]) * self.beta_q16 * 1000 >> 24)
                    new[axis] = old[axis] + (((value - old[axis]) * smoothing_q16(cutoff, dt_ms) + 32768) >> 16)
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
