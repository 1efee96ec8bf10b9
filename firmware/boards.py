"""What differs between boards, and the user's settings.

settings.json on the board may have any of the keys of DEFAULTS below, for example {"board": "m5stickv", "boxes": true}.
Without "board" the profile follows from "type" in MaixPy's own config.json, or else from the build (M5StickV, UnitV,
T-Watch and CanMV have builds of their own), or else it is a Maix Bit's. MaixPy itself reads the LCD's keys in
config.json ("lcd": width, height, invert, dir, lcd_type …).
"""

import json

from maixpy_api import board_of_build

# lcd: arguments of lcd.init(), None for a board without LCD. button: pin, which reads 0 while pressed. rotation, fit:
# as in DEFAULTS. MaixPy's direction 96, which makers of boards set, is rotation 2. twatch: also the LilyGO M1, whose
# build always uses its own size.
BOARDS = {
    "bit": {"button": 16},
    "dock": {"button": 16},
    "go": {"button": 16},
    "maixduino": {"button": 16},
    "canmv": {"button": 16},
    "m5stickv": {"button": 36, "lcd": {"type": 3, "width": 240, "height": 135}, "rotation": 2, "fit": "scale"},
    "unitv": {"button": 18, "lcd": None},
    "dnk210": {"button": 16, "rotation": 2},
    "cube": {"button": 10, "lcd": {"width": 240, "height": 240, "invert": 1}, "rotation": 2},
    "twatch": {"button": None, "lcd": {"width": 240, "height": 240, "invert": 1}, "rotation": 2},
    "amigo_ips": {"button": 23, "lcd": {"width": 480, "height": 320, "invert": 1}},
    "amigo_tft": {"button": 23, "lcd": {"width": 480, "height": 320, "lcd_type": 1}},
}

DEFAULTS = {
    # The host's page shows the comment after a key as its explanation.
    "board": None,  # the profile; null: it is recognized
    "lcd": {},  # arguments of lcd.init() and "dir" that replace the profile's, e.g. {"invert": 1}; null: no LCD
    "rotation": 0,  # rotation of the LCD in quarter turns
    "fit": "scale",  # an LCD smaller than the frame: "scale" shows all of it, "crop" its middle
    "mirror": None,  # mirror the camera left to right: true, false, or null for the sensor driver's choice
    "flip": None,  # turn the camera's picture upside down, in the same way
    "camera": 0,  # sensor.reset(choice=…), if a board has two cameras
    "framing": "off",  # "auto": the sensor's view follows the people; "each": it shows them one by one
    "double_buffer": None,  # two frame buffers: true, false, or null: if the heap has room
    "turbo": None,  # true: CPU and KPU at 600 MHz; false: back at 400 MHz; null: unchanged
    "button": None,  # the button's pin; null: the profile's
    "model": None,  # path of a kmodel on the SD card; null: the one in flash
    "check": True,  # compare the kmodel's CRC with posenet.json at every start
    "single": False,  # only one person: the best place of every keypoint
    "max_poses": 5,  # the most people reported
    "threshold": 50,  # the score in percent that a keypoint must reach
    "track": True,  # people keep their number and colour
    "smooth": True,  # coordinates are smoothed
    "overlay": True,  # show frames per second and stage times
    "boxes": False,  # show a box, number and score for each person
    "names": False,  # show the names of the keypoints
    "repl": False,  # print one JSON line per frame on the REPL's line
    "uart": None,  # {}: lines on UART1; {"baud": 115200, "tx": 10, "rx": 11, "crc": true, "changes": false}: with these
    "start_delay_ms": 500,  # time in which Ctrl-C or the button stops the start
    "retry_ms": 5000,  # time until a failed step is tried again
    "watchdog_ms": 0,  # hardware watchdog; 0: none, otherwise at least 5000
}

# The texts that a value may be.
CHOICES = {"fit": ("scale", "crop"), "framing": ("off", "auto", "each")}
# Types of the values that are null by default.
KINDS = {
    "board": str,
    "mirror": bool,
    "flip": bool,
    "double_buffer": bool,
    "turbo": bool,
    "button": int,
    "model": str,
    "uart": dict,
}
UART = {"baud": 115200, "tx": 10, "rx": 11, "crc": True, "changes": False}
_NAMES = {bool: "true or false", int: "a whole number, 0 or more", str: "text in quotes", dict: "an object in {}"}


def _check(path, key, value, default, name=None):
    """ValueError if a value has the wrong type; unchecked, it would fail elsewhere without naming the key."""
    kind = KINDS.get(key) or type(default)
    if value is None and (default is None or key == "lcd"):
        return
    if type(value) is not kind or (kind is int and value < 0):
        raise ValueError("%s: %s is %s, it must be %s" % (path, name or key, str(value)[:20], _NAMES[kind]))
    if value not in CHOICES.get(key, (value,)):
        words = " or ".join(['"%s"' % choice for choice in CHOICES[key]])
        raise ValueError("%s: %s is %s, it must be %s" % (path, key, value[:20], words))


# "type" in config.json, as MaixPy_scripts' board/config_*.py and CanMV write it, in lower case → profile.
_TYPES = {
    "bit": "bit", "dock": "dock", "go": "go", "duino": "maixduino", "m5stickv": "m5stickv", "cube": "cube",
    "alientek": "dnk210",
}  # fmt: skip


def _read(path):
    try:
        with open(path) as file:
            found = json.load(file)
    except OSError:
        return {}
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def guess_board(config):
    """The name of a profile: from MaixPy's config.json, or else from the build, or else a Maix Bit's."""
    kind = str(config.get("type", "")).lower()
    if kind.startswith("amigo"):
        return "amigo_ips" if kind == "amigo_ips" or config.get("lcd", {}).get("invert") else "amigo_tft"
    return _TYPES.get(kind) or board_of_build() or "bit"


def load_settings(path="settings.json", config="/flash/config.json"):
    """DEFAULTS, overridden by the board's profile, overridden by the user's file. ValueError names what is wrong."""
    try:
        user = _read(path)
    except (ValueError, RuntimeError) as error:
        raise ValueError("%s: %s" % (path, error))
    for key in user:
        if key not in DEFAULTS:
            raise ValueError("%s: unknown key %s" % (path, key))
        _check(path, key, user[key], DEFAULTS[key])
    for key in user.get("uart") or ():
        if key not in UART:
            raise ValueError("%s: unknown key %s in uart" % (path, key))
        _check(path, key, user["uart"][key], UART[key], "uart " + key)
    try:
        board = user.get("board") or guess_board(_read(config))
    except (ValueError, AttributeError, RuntimeError):
        board = "bit"
    if board not in BOARDS:
        raise ValueError("%s: board %s is unknown; known: %s" % (path, board, " ".join(sorted(BOARDS))))
    settings = DEFAULTS.copy()
    settings.update(BOARDS[board])
    for key in user:
        if key == "lcd" and user["lcd"] is not None:
            lcd = (settings["lcd"] or {}).copy()
            lcd.update(user["lcd"])
            settings["lcd"] = lcd
        else:
            settings[key] = user[key]
    settings["board"] = board
    return settings
