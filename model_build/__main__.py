"""`python -m model_build COMMAND`."""

import sys

from common.cli import dispatch

COMMANDS = {
    "list": ("model_build.commands.list_networks", "networks known and where their weights are"),
    "fetch": ("model_build.commands.fetch", "get weights into the local cache"),
    "build": ("model_build.commands.build", "weights → kmodel, posenet.json and report"),
    "inspect": ("model_build.commands.inspect", "look into a model file"),
    "evaluate": ("model_build.commands.evaluate", "accuracy against ground truth and against float"),
    "make-crops": ("model_build.commands.make_crops", "photos and a teacher's word on them, for training"),
    "train": ("model_build.commands.train_demo", "train a network on crops, your own pictures or rendered people"),
    "train-demo": ("model_build.commands.train_demo", "the same, by its old name"),
}

if __name__ == "__main__":
    sys.exit(dispatch("python -m model_build", __doc__ or "", COMMANDS))
