"""Counts people in zones of the picture, and who crosses from one zone into another.

One line whenever something changes: {"zones":{"left":1,"right":0},"crossed":{"left>right":2}}
Copy to the board as main.py.
"""

import json

from app import App

ZONES = (("left", 0, 0, 160, 240), ("right", 160, 0, 160, 240))  # name, x, y, w, h in pixels of the frame
STEADY_FRAMES = 3

where = {}  # person -> [zone, candidate, frames that the candidate has lasted, frame last seen]
crossed = {}
said = None


def zone_of(pose):
    """The zone that holds the middle of the person's visible part."""
    box = pose.box()
    if not box:
        return None
    x, y = box[0] + box[2] // 2, box[1] + box[3] // 2
    for name, left, top, w, h in ZONES:
        if left <= x < left + w and top <= y < top + h:
            return name
    return None


def on_poses(app, poses, img):
    global said
    for pose in poses:
        zone = zone_of(pose)
        known = where.setdefault(pose.id, [zone, zone, 0, app.frames])
        known[3] = app.frames
        known[2] = known[2] + 1 if zone == known[1] else 0
        known[1] = zone
        if zone != known[0] and known[2] >= STEADY_FRAMES:
            if zone and known[0]:
                key = known[0] + ">" + zone
                crossed[key] = crossed.get(key, 0) + 1
            known[0] = zone
    for person in list(where):
        if app.frames - where[person][3] > 30:
            del where[person]
    counts = {}
    for zone in ZONES:
        counts[zone[0]] = len([1 for pose in poses if where[pose.id][0] == zone[0]])
        img.draw_rectangle(zone[1], zone[2], zone[3], zone[4], color=(80, 80, 80))
        img.draw_string(zone[1] + 4, zone[2] + zone[4] - 24, str(counts[zone[0]]), color=(255, 255, 0), scale=2)
    line = json.dumps({"zones": counts, "crossed": crossed})
    if line != said:
        said = line
        print(line)


App(on_poses).run()
