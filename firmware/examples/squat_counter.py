"""Counts the squats of everybody in the picture, separately for each person.

The measure is how far the hips are above the knees, in percent of the trunk's length: about 80 when standing, near 0
at the bottom. Copy to the board as main.py.
"""

from app import App

UP_PERCENT, DOWN_PERCENT = 60, 30

counts = {}  # person's number -> squats
is_down = {}


def depth_percent(pose):
    """(knees − hips) / (hips − shoulders) in percent of the better seen side; None if neither side is seen."""
    best = None
    for shoulder, hip, knee in (
        (pose.left_shoulder, pose.left_hip, pose.left_knee),
        (pose.right_shoulder, pose.right_hip, pose.right_knee),
    ):
        score = min(shoulder.score, hip.score, knee.score)
        trunk = hip.y - shoulder.y
        if shoulder.seen and hip.seen and knee.seen and trunk > 8 and (best is None or score > best[0]):
            best = (score, (knee.y - hip.y) * 100 // trunk)
    return best and best[1]


def on_poses(app, poses, img):
    for pose in poses:
        depth = depth_percent(pose)
        if depth is None:
            continue
        if depth < DOWN_PERCENT:
            is_down[pose.id] = True
        elif depth > UP_PERCENT and is_down.pop(pose.id, False):
            counts[pose.id] = counts.get(pose.id, 0) + 1
            print("person %d: %d squats" % (pose.id, counts[pose.id]))
    if len(counts) > 20:  # people come and go all day, so those who left are forgotten
        here = [pose.id for pose in poses]
        for person in list(counts):
            if person not in here:
                del counts[person]
    app.note = " ".join(["%d:%d" % (pose.id, counts.get(pose.id, 0)) for pose in poses])


App(on_poses).run()
