# MaixPy_scripts' board module: names of a board's pins, filled by the user's config. Runs in MicroPython.
from Maix import config


class _BoardInfo:
    def __init__(self):
        for name, pin in (config.get_value("board_info", None) or {}).items():
            setattr(self, name, pin)


board_info = _BoardInfo()
