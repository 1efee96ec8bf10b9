"""Walks for the tracker on another interpreter, which runs this file after the text of firmware/tracker.py.

People walk, tremble, come and go, inside or outside the view. For each of 120 pictures it prints the numbers of the
people, with a CRC-32 of the coordinates of those who were found and of those at whom the camera does not look. The
walks are pseudo-random and the same everywhere.
"""

# MicroPython, after firmware/tracker.py, whose names it uses:
# mypy: ignore-errors
# ruff: noqa: F821

from binascii import crc32


class Found:
    threshold_q15 = 16384


state = 1


def some(limit):
    global state
    state = (state * 1103 + 12345) % 65521
    return state % limit


tracker = Tracker(patience=2)
now = 0
for frame in range(120):
    now += 1 + some(300)
    poses = []
    for walker in range(3):
        if some(4):
            pose = Found()
            pose.data = array("i", [30000])
            for k in range(17):
                x = ((walker * 100 + frame) << 8) + some(3000)
                pose.data.extend(array("i", [x, k * 2048 + some(2000), some(4) * 10000]))
            poses.append(pose)
    looked = some(4) * 100 << 8
    tracker.update(poses, now, lambda data, looked=looked: data[1] > looked, some(3) == 0)
    found = [(pose.id, crc32(bytes(pose.data))) for pose in poses]
    print(found, "away", [(track.id, track.away, crc32(bytes(track.data))) for track in tracker.away])
