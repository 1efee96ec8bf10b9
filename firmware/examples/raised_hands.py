"""Raised hands switch a pin: on while anybody holds a wrist above the nose, for a lamp or a relay.

Copy to the board as main.py.
"""

from app import App
from fpioa_manager import fm
from Maix import GPIO

PIN = 24
STEADY_FRAMES = 3  # the number of frames in a row before the pin changes

fm.register(PIN, fm.fpioa.GPIOHS1, force=True)
pin = GPIO(GPIO.GPIOHS1, GPIO.OUT)
pin.value(0)
state = 0
steady = 0


def hand_up(pose):
    """Whether one of the wrists is seen above the nose."""
    nose = pose.nose
    return nose.seen and any([w.seen and w.y < nose.y for w in (pose.left_wrist, pose.right_wrist)])


def on_poses(app, poses, img):
    global state, steady
    wanted = int(any([hand_up(pose) for pose in poses]))
    steady = steady + 1 if wanted != state else 0
    if steady >= STEADY_FRAMES:
        state = wanted
        steady = 0
        pin.value(state)
        print("pin %d %s" % (PIN, "on" if state else "off"))
    app.note = "ON" if state else "off"


App(on_poses).run()
