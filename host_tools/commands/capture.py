"""Saves the bytes that the board's KPU saw, and its results.

For each frame it writes to --out: NAME.png (the input as a picture, lossless: `python -m sim run` on it repeats the
frame; for a network of 256x240 it is squeezed in width, as the KPU sees it), NAME.input.npy and NAME.<head>.npy (uint8
CHW, as `sim run --tensors` writes them), NAME.json (the decoder's poses, times).
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import positive
from common.files import write_atomic
from common.pictures import png
from host_tools.board_frames import measure
from host_tools.board_link import BoardLink
from host_tools.board_session import add_board_arguments, open_board, say
from host_tools.diff import BoardFrame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of `host_tools capture`."""
    add_board_arguments(parser)
    parser.add_argument("--build", type=Path, metavar="DIR", help="build folder for --board sim")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--frames", type=positive, default=1, metavar="N", help="frames to take (default: 1)")
    parser.add_argument("--name", default="frame", help="beginning of the file names (default: frame)")


def run(arguments: argparse.Namespace) -> int:
    """Take frames and write them."""
    with open_board(arguments, arguments.build) as link:
        for number in range(1, arguments.frames + 1):
            frame = measure(link, f"{arguments.name}-{number:04d}", None, manifest_of(link))
            for path, data in frame_files(frame, link.board):
                write_atomic(arguments.out / path, data)
            say(f"{arguments.out / frame.name}: {len(frame.multi)} poses")
    return 0


def manifest_of(link: BoardLink) -> dict[str, Any]:
    """The parts of posenet.json that reading a frame needs, from the board's own facts."""
    board = link.board
    cells = board["map"][0] * board["map"][1]
    return {
        "input": {"width": board["size"][0], "height": board["size"][1]},
        "map": {"width": board["map"][0], "height": board["map"][1]},
        "heads": [{"channels": channels, "bytes": channels * cells} for channels in board["channels"]],
        "keypoints": board["keypoints"],
    }


def frame_files(frame: BoardFrame, board: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """(file name, contents) of everything that is saved of a frame."""
    yield f"{frame.name}.png", png(np.ascontiguousarray(frame.planes.transpose(1, 2, 0)))
    for name, array in {"input": frame.planes, **frame.heads}.items():
        data = io.BytesIO()
        np.save(data, array)
        yield f"{frame.name}.{name}.npy", data.getvalue()
    facts = {
        "network": board["network"],
        "kmodel_crc32": board["kmodel"]["crc32"],
        "field": board["field"],
        "times_us": frame.times_us,
        "multi": frame.multi.tolist(),
        "single": frame.single.tolist(),
    }
    yield f"{frame.name}.json", (json.dumps(facts) + "\n").encode()
