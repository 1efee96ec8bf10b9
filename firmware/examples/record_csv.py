"""Records poses to the SD card as CSV: /sd/poses000.csv, then 001 …; one row per person and frame.

seq,ms,person,score,nose_x,nose_y,nose_score,… pixels and percent. Rows wait in one buffer made at the start
(a list of strings would fragment the heap) and are written when it is full and once a second, so that
pulling the card loses little. If there is no card, or it is full, the LCD says so, and it is tried again.
Copy to the board as main.py.
"""

import uos
from app import App
from utime import ticks_diff, ticks_ms

FLUSH_MS = 1000

file = None
buffer = bytearray(4096)
used = 0
last_ms = 0


def new_file(names):
    """Open the first name that is free, with a header; OSError without a card."""
    taken = uos.listdir("/sd")
    number = 0
    while "poses%03d.csv" % number in taken:
        number += 1
    path = "/sd/poses%03d.csv" % number
    made = open(path, "w")
    columns = ["seq", "ms", "person", "score"]
    for name in names:
        columns += [name + "_x", name + "_y", name + "_score"]
    made.write(",".join(columns) + "\n")
    print("recording to", path)
    return made


def flush(app):
    """Write the buffer to the card, or say why not."""
    global file, used
    count = used
    used = 0
    try:
        if file is None:
            file = new_file(app.net.names)
        if count:
            file.write(memoryview(buffer)[:count])
            file.flush()
        app.note = "REC"
    except OSError as error:
        full = error.args and error.args[0] == 28
        app.note = "SD card full" if full else "no SD card"
        print("not recorded:", app.note)
        try:
            if file:
                file.close()
        except OSError:
            pass
        file = None


def on_poses(app, poses, img):
    global used, last_ms
    now = ticks_ms()
    for pose in poses:
        numbers = [app.frames, now, pose.id, pose.score]
        for point in pose.keypoints:
            numbers += [point.x, point.y, point.score]
        row = (",".join([str(n) for n in numbers]) + "\n").encode()
        if used + len(row) > len(buffer):
            flush(app)
        buffer[used : used + len(row)] = row
        used += len(row)
    if ticks_diff(now, last_ms) >= FLUSH_MS:
        last_ms = now
        flush(app)


App(on_poses).run()
