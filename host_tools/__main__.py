"""`python -m host_tools COMMAND`."""

import sys

from common.cli import dispatch

COMMANDS = {
    "ports": ("host_tools.commands.ports", "serial ports and the boards behind them"),
    "info": ("host_tools.commands.info", "what is on a board"),
    "diff": ("host_tools.commands.diff", "board against simulator, stage by stage"),
    "certify": ("host_tools.commands.certify", "what only a board can tell: its silicon profile"),
    "capture": ("host_tools.commands.capture", "the very bytes that the board's KPU saw"),
    "page": ("host_tools.commands.page", "one local web page for everything: try it, flash, watch"),
    "monitor": ("host_tools.commands.monitor", "live poses from a board"),
}

if __name__ == "__main__":
    sys.exit(dispatch("python -m host_tools", __doc__ or "", COMMANDS))
