"""Fall alarm: when somebody's trunk has been horizontal for a second, one JSON line is sent on UART1, once per fall.

{"alarm":"fall","person":3,"ms":81234}, later {"alarm":"up",…}, or "gone" if nobody is seen there for 5 s.
Copy to the board as main.py. UART1: TX is pin 10, 115200 baud.
"""

from app import App
from fpioa_manager import fm
from machine import UART
from utime import ticks_diff, ticks_ms

LEVEL_MS = 1000
GONE_MS = 5000

fm.register(10, fm.fpioa.UART1_TX, force=True)
fm.register(11, fm.fpioa.UART1_RX, force=True)
uart = UART(UART.UART1, 115200)
since = {}  # person -> time since which the trunk has been horizontal
fallen = {}  # person -> time when last seen on the floor


def trunk_is_level(pose):
    """Whether the trunk is more horizontal than vertical; None if it is not seen."""
    parts = (pose.left_shoulder, pose.right_shoulder, pose.left_hip, pose.right_hip)
    if not all([part.seen for part in parts]):
        return None
    dx = parts[0].x + parts[1].x - parts[2].x - parts[3].x
    dy = parts[0].y + parts[1].y - parts[2].y - parts[3].y
    return abs(dx) > abs(dy)


def send(kind, person, now):
    line = '{"alarm":"%s","person":%d,"ms":%d}' % (kind, person, now)
    uart.write(line + "\n")
    print(line)


def on_poses(app, poses, img):
    now = ticks_ms()
    here = [pose.id for pose in poses]
    for person in list(since):
        if person not in here and person not in fallen:
            del since[person]
    for pose in poses:
        level = trunk_is_level(pose)
        if level:
            since.setdefault(pose.id, now)
            if pose.id not in fallen and ticks_diff(now, since[pose.id]) >= LEVEL_MS:
                send("fall", pose.id, now)
                fallen[pose.id] = now
        elif level is False:
            since.pop(pose.id, None)
            if pose.id in fallen:
                del fallen[pose.id]
                send("up", pose.id, now)
        if pose.id in fallen:
            fallen[pose.id] = now
    for person in list(fallen):
        if ticks_diff(now, fallen[person]) > GONE_MS:
            del fallen[person]
            since.pop(person, None)
            send("gone", person, now)
    app.note = "FALL" if fallen else ""


# Coordinates are not smoothed, because quick movements matter here, but each person keeps a number.
App(on_poses, {"smooth": False}).run()
