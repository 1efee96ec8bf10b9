"""`python -m sim COMMAND`."""

import sys

from common.cli import dispatch

COMMANDS = {
    "run": ("sim.commands.run", "pose of pictures or video on the host"),
    "board": ("sim.commands.board", "a simulated board on a pseudo-terminal"),
}

if __name__ == "__main__":
    sys.exit(dispatch("python -m sim", __doc__ or "", COMMANDS))
