"""`python -m model_build COMMAND`."""

import sys

from common.cli import dispatch

COMMANDS = {
    "list": ("model_build.commands.list_networks", "networks known and where their weights are"),
    "fetch": ("model_build.commands.fetch", "get weights into the local cache"),
    "build": ("model_build.commands.build", "weights → kmodel, posenet.json and report"),
    "inspect": ("model_build.commands.inspect", "look into a model file"),
    "evaluate": ("model_build.commands.evaluate", "accuracy against ground truth and against float"),
    "train-demo": ("model_build.commands.train_demo", "train the small network of our own"),
}

if __name__ == "__main__":
    sys.exit(dispatch("python -m model_build", __doc__ or "", COMMANDS))
