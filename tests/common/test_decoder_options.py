"""The decoder's defaults are written on the host once and on the board once; both must say the same."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from common.decoder_options import DEFAULTS, DecoderOptions
from common.firmware_modules import FIRMWARE_DIR, firmware_module


def defaults_of(function: object) -> dict[str, object]:
    """The keyword defaults of a function of the firmware."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {parameter.name: parameter.default for parameter in parameters}


def test_the_firmware_decoder_has_the_hosts_defaults():
    """A board that decodes with other options than the host finds other people, and diff would report a fault."""
    board = defaults_of(firmware_module("decoder").Decoder)
    assert DEFAULTS.for_board() == {name: board[name] for name in DEFAULTS.for_board()}


def test_the_firmwares_posenet_class_has_the_hosts_defaults():
    """A user's own program calls PoseNet() without options and must get the poses that the host expects."""
    # posenet.py can be imported only where MaixPy's modules are, so this reads its source.
    tree = ast.parse((FIRMWARE_DIR / "posenet.py").read_text(encoding="utf-8"))
    (posenet,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PoseNet")
    start = next(node for node in posenet.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    names = [argument.arg for argument in start.args.args][-len(start.args.defaults) :]
    board: dict[str, Any] = {
        name: default.value
        for name, default in zip(names, start.args.defaults, strict=True)
        if isinstance(default, ast.Constant)
    }
    assert (board["max_poses"], board["nms_radius_px"]) == (DEFAULTS.max_poses, DEFAULTS.nms_radius_px)
    assert DecoderOptions.of_board(board["threshold"], board["max_poses"]) == DEFAULTS


def test_the_firmwares_settings_have_the_hosts_defaults():
    """The application takes its options from the settings in boards.py, a third place for the same numbers."""
    tree = ast.parse((FIRMWARE_DIR / "boards.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DEFAULTS"
    )
    settings = ast.literal_eval(value)
    assert DecoderOptions.of_board(settings["threshold"], settings["max_poses"]) == DEFAULTS


def test_a_percentage_becomes_the_boards_integer_exactly():
    """People give the threshold in per cent. Host and board must make the same integer of each of the 101 values."""
    for percent in range(101):
        options = DecoderOptions.of_board(percent, 3)
        assert options.for_board()["score_threshold_q15"] == percent * 32768 // 100
