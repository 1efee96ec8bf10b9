"""Gives each person a number that lasts, and steadies keypoints from frame to frame. Optional; integers only.

Matching: greedy, nearest first, by the mean distance of the keypoints that both poses have, relative to the person's
size. Smoothing: the one-euro filter (Casiez, Roussel, Vogel, CHI 2012), a low-pass whose cutoff frequency rises with
speed, so that a hand at rest is steady and a fast one lags little.

When the camera pans or a person walks, all keypoints move together, and a filter on each keypoint alone would lag
behind. So the motion that a person's keypoints share is estimated first (the median of their changes, smoothed over
time), and the filter works on the rest:

    last smoothed place --common motion--> predicted place --part of the way to the measurement--> smoothed place

The network places a person some pixels elsewhere in another view of the camera (framing.py), and nobody measures people
outside the view. In these frames a person moves on at the average speed of the last second, because the speed of the
last frame alone would carry the network's trembling on.
"""

from array import array

try:
    from micropython import const
except ImportError:

    def const(value):
        return value


_TWO_PI_Q8 = const(1608)  # round(2·pi·256)
_FAR = const(1 << 30)
_LEAST_IN_COMMON = const(5)  # with fewer keypoints no common motion is estimated
_COMMON_CUTOFF_MHZ = const(2000)
_AVERAGE_CUTOFF_MHZ = const(500)


def smoothing_q16(cutoff_mhz, dt_ms):
    """Weight of a new value in a low-pass of this cutoff frequency (1/1000 Hz): r/(1+r), r = 2·pi·f·dt."""
    r_q16 = _TWO_PI_Q8 * cutoff_mhz * dt_ms // 3906  # 2^8 → 2^16 and 10^6 (mHz·ms): 10^6/256 = 3906.25
    return (r_q16 << 16) // (65536 + r_q16)


class _Track:
    """State of one person: the last smoothed and raw values and speeds of each keypoint."""

    def __init__(self, keypoints):
        self.id = 0  # 0 until the person has been found often enough
        self.seen = 0  # frames in which the person was found
        self.lost = -1  # frames since the person was last found; −1: this track is free
        self.away = 0  # frames in a row whose view did not show the person's place
        self.last_ms = 0  # time of the last frame in which the person was found
        self.data_ms = 0  # the time of data: that frame's, or later if the person is outside the view
        self.pose = None  # index of this frame's pose
        self.data = array("i", [0] * (1 + 3 * keypoints))
        self.raw = array("i", [0] * (2 * keypoints))
        self.speed = array("i", [0] * (2 * keypoints))
        self.common = array("i", (0, 0))  # speed that all keypoints share, x and y, in 1/256 px per second
        self.average = array("i", (0, 0))  # the same, averaged over about a second


class Tracker:
    """Call update() with each frame's poses: it sets their ids and smooths their coordinates in place.

    smooth: False leaves coordinates as they are. min_cutoff_mhz: cutoff at rest in 1/1000 Hz (a lower one is steadier
    and lags more: 159,000 / min_cutoff_mhz ms for slow movements). beta_q16: how much the cutoff rises with speed, in
    1/65536 Hz per px/s. patience: for how many frames a person may be missing and keep the number. appear_after: in how
    many frames in a row a person must be found before being reported; a pose found in only one frame is often nobody.
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
        self.appear_q15 = 0  # of so many frames' poses each must have this score; posenet.json says which
        self._tracks = [_Track(keypoints) for _ in range(max_people)]
        self._changes = []
        self._costs = []  # for each pose a row with its distance to every track
        self._next = 1
        self.away = []  # tracks of people reported before whose place this frame does not show

    def update(self, poses, now_ms, cuts_off=None, other_view=False):
        """Number and smooth one frame's poses.

        poses: list of posenet.Pose; people who are not reported yet are removed from it. now_ms: the frame's time.
        cuts_off: a function that tells from a track's data whether this frame shows that person only in part or not at
        all (framing.py). Such a person does not count as missing; `away` lists these tracks, whose coordinates go on
        moving as the person did. other_view: this frame shows a different view than the frame before. The network
        places people slightly differently in another view, so their keypoints move only three quarters as far in this
        frame, and a quarter as far if the person was outside the view before.
        """
        tracks = self._tracks
        for pose in poses:
            pose.track = None
        for track in tracks:
            track.pose = None
        self._match(poses)
        away = self.away
        del away[:]
        for track in tracks:
            if track.lost >= 0 and track.pose is None:
                if cuts_off and track.id and not track.lost and cuts_off(track.data):
                    track.away += 1
                    if self.smooth:
                        _carry_on(track, now_ms)
                    away.append(track)
                    continue
                track.lost += 1
                if track.lost > self.patience or not track.id:
                    track.lost = -1
        for pose in poses:
            if not pose.track:
                track = self._free_track()
                if track is None:
                    continue
                track.id = track.seen = track.lost = track.away = 0
                track.last_ms = now_ms
                track.pose = pose
                pose.track = track
                track.data[0] = 0
                for i in range(3, len(track.data), 3):
                    track.data[i] = -1  # below every threshold, as nothing was found before
                track.common[0] = track.common[1] = track.average[0] = track.average[1] = 0
        for track in tracks:
            if track.pose is not None:
                if self.smooth:
                    self._filter(track, track.pose, min(max(now_ms - track.last_ms, 1), 500), other_view)
                track.last_ms = track.data_ms = now_ms
                track.away = 0
                track.data[:] = track.pose.data
                if track.data[0] >= self.appear_q15:
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

    def _match(self, poses):
        """Give poses their tracks, nearest first; of equal distances the first pose, then the first track wins."""
        tracks = self._tracks
        costs = self._costs
        del costs[:]
        for pose in poses:
            size = None
            for track in tracks:
                cost = _FAR
                if track.lost >= 0:
                    if size is None:
                        size = _size(pose)
                    cost = _distance(pose, size, track.data)
                costs.append(cost)
        count = len(tracks)
        while costs:
            best = min(costs)
            if best == _FAR:
                break
            at = costs.index(best)
            pose = poses[at // count]
            track = tracks[at % count]
            pose.track = track
            track.pose = pose
            track.lost = 0
            for i in range(at // count * count, at // count * count + count):
                costs[i] = _FAR
            for i in range(at % count, len(costs), count):
                costs[i] = _FAR

    def _free_track(self):
        """A free track, or that of the person missing for longest; None if every track has a pose in this frame."""
        longest = None
        for track in self._tracks:
            if track.lost < 0:
                return track
            if track.pose is None and (longest is None or track.lost > longest.lost):
                longest = track
        return longest

    def _follow_common_motion(self, track, pose, dt_ms):
        """Update the speed that the person's keypoints share, and its average."""
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
            average = track.average[axis]
            track.average[axis] += ((speed - average) * smoothing_q16(_AVERAGE_CUTOFF_MHZ, dt_ms)) >> 16

    def _filter(self, track, pose, dt_ms, other_view):
        self._follow_common_motion(track, pose, dt_ms)
        quarters = 1 if track.away else 3 if other_view else 4
        old = track.data
        new = pose.data
        raw = track.raw
        speed = track.speed
        threshold = pose.threshold_q15
        slow_q16 = smoothing_q16(1000, dt_ms)
        step = _TWO_PI_Q8 * dt_ms
        least = self.min_cutoff_mhz
        beta = self.beta_q16 * 1000
        common_x, common_y = track.average if other_view else track.common
        ahead_ms = track.last_ms + dt_ms - track.data_ms
        move_x = common_x * ahead_ms // 1000
        move_y = common_y * ahead_ms // 1000
        j = 0
        for i in range(1, len(new), 3):
            if old[i + 2] >= threshold and new[i + 2] >= threshold:
                # First the keypoint's own speed in q8 px per s, low-passed at 1 Hz; then its place, with a cutoff that
                # follows that speed. The weight is smoothing_q16() written out, as it is needed 34 times a person.
                value = new[i]
                own = speed[j]
                own += (((value - raw[j]) * 1000 // dt_ms - common_x - own) * slow_q16) >> 16
                speed[j] = own
                r_q16 = step * (least + (abs(own) * beta >> 24)) // 3906
                predicted = old[i] + move_x
                weight = (r_q16 << 16) // (65536 + r_q16) * quarters
                new[i] = predicted + (((value - predicted) * weight + 131072) >> 18)
                raw[j] = value
                j += 1
                i += 1
                value = new[i]
                own = speed[j]
                own += (((value - raw[j]) * 1000 // dt_ms - common_y - own) * slow_q16) >> 16
                speed[j] = own
                r_q16 = step * (least + (abs(own) * beta >> 24)) // 3906
                predicted = old[i] + move_y
                weight = (r_q16 << 16) // (65536 + r_q16) * quarters
                new[i] = predicted + (((value - predicted) * weight + 131072) >> 18)
                raw[j] = value
                j += 1
            else:
                # Not found in the last frame, or not in this one: there is nothing to smooth it with.
                speed[j] = speed[j + 1] = 0
                raw[j] = new[i]
                raw[j + 1] = new[i + 1]
                j += 2


def _carry_on(track, now_ms):
    """Move a person outside the view on at the average speed, for half a second at most."""
    until = min(now_ms, track.last_ms + 500)
    ahead_ms = until - track.data_ms
    if ahead_ms > 0:
        data = track.data
        move_x = track.average[0] * ahead_ms // 1000
        move_y = track.average[1] * ahead_ms // 1000
        for i in range(1, len(data), 3):
            data[i] += move_x
            data[i + 1] += move_y
        track.data_ms = until


def _size(pose):
    """The longer side of the box around the keypoints at half the threshold, at least 16 px, in 1/256 px.

    Of somebody far away or half hidden, often only the trunk reaches the threshold itself.
    """
    new = pose.data
    threshold = pose.threshold_q15 >> 1
    left = top = _FAR
    right = bottom = -_FAR
    for i in range(1, len(new), 3):
        if new[i + 2] >= threshold:
            x = new[i]
            y = new[i + 1]
            if x < left:
                left = x
            if x > right:
                right = x
            if y < top:
                top = y
            if y > bottom:
                bottom = y
    return max(right - left, bottom - top, 4096)


def _distance(pose, size, data):
    """Mean distance of the keypoints that reach half the threshold in both, in 1/256 of the person's size.

    It is _FAR if it is over one half, or if there are no such keypoints.
    """
    new = pose.data
    threshold = pose.threshold_q15 >> 1
    total = count = 0
    for i in range(3, len(new), 3):
        if new[i] >= threshold and data[i] >= threshold:
            total += abs(new[i - 2] - data[i - 2]) + abs(new[i - 1] - data[i - 1])
            count += 1
    if not count:
        return _FAR
    cost = total * 256 // (count * size)
    return cost if cost <= 128 else _FAR
