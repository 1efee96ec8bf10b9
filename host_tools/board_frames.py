"""Runs pictures through a board, stage by stage, over the link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.errors import UserError
from host_tools.board_link import BoardLink, BoardMemoryLostError, protocol
from host_tools.diff import BoardFrame, unpack_poses
from model_build.network import HEADS

PICTURE_TRIES = 3

Progress = Callable[[str, int, int], None]


def check_board(link: BoardLink, manifest: Mapping[str, Any]) -> None:
    """UserError (exit 2) unless the board carries this build's network."""
    board, size = link.board, manifest["input"]
    wanted = (manifest["network"], [size["width"], size["height"]], manifest["kmodel"]["crc32"])
    found = (board["network"], list(board["size"]), board["kmodel"]["crc32"])
    if found != wanted:
        raise UserError(
            f"{link.transport.name}: the board has {found[0]} {found[1][0]}x{found[1][1]} with kmodel CRC "
            f"{found[2]:08x}, but the build is {wanted[0]} {wanted[1][0]}x{wanted[1][1]} with {wanted[2]:08x}; "
            "give --build the folder that was flashed, or flash this build",
            exit_code=2,
        )


def measure(
    link: BoardLink,
    name: str,
    picture: NDArray[np.uint8] | None,
    manifest: Mapping[str, Any],
    progress: Progress = lambda what, done, total: None,
) -> BoardFrame:
    """One picture's stages from the board. `picture` uint8 (h, w, 3) RGB of the network's size; None: the camera's.

    Begins again if the board restarts in the middle; UserError (exit 2) if it does so every time.
    """
    for _ in range(PICTURE_TRIES):
        try:
            return _measure(link, name, picture, manifest, progress)
        except BoardMemoryLostError:
            link.note("the board restarted; beginning this picture again")
            link.speed_up(link.fastest)
    raise UserError(
        f"{link.transport.name}: the board restarted {PICTURE_TRIES} times during {name}; check its power supply",
        exit_code=2,
    )


def _measure(
    link: BoardLink, name: str, picture: NDArray[np.uint8] | None, manifest: Mapping[str, Any], progress: Progress
) -> BoardFrame:
    width, height = manifest["input"]["width"], manifest["input"]["height"]
    cells = manifest["map"]["height"], manifest["map"]["width"]
    sent = None
    if picture is not None:
        sent = rgb565.to_memory(picture)
        link.put(protocol.PICTURE, sent, lambda done, total: progress("picture to the board", done, total))
    times = link.run(["picture" if sent is not None else "camera", "poses"])["us"]

    def get(buffer: int, length: int, what: str) -> bytes:
        return link.get(buffer, length, lambda done, total: progress(what, done, total))

    planes = np.frombuffer(get(protocol.PLANES, 3 * width * height, "input planes"), np.uint8)
    heads = {}
    for i, facts in enumerate(manifest["heads"]):
        data = np.frombuffer(get(protocol.HEATMAP + i, facts["bytes"], HEADS[i]), np.uint8)
        heads[HEADS[i]] = data.reshape(facts["channels"], *cells)
    # The pixels before drawing are fetched after the input, because on the board both share one image.
    before = sent if sent is not None else get(protocol.PICTURE, 2 * width * height, "camera's pixels")
    report = link.run(["single", "draw"])
    times |= report["us"]
    poses = get(protocol.POSES, report["poses_bytes"], "poses")
    drawn = get(protocol.PICTURE, 2 * width * height, "drawn picture")
    try:
        multi, single = unpack_poses(poses, len(manifest["keypoints"]))
    except ValueError as error:
        raise UserError(f"{link.transport.name}: the board's poses cannot be read: {error}", exit_code=2) from None
    return BoardFrame(
        name, sent, planes.reshape(3, height, width), heads, multi, single, before, drawn,
        {stage: int(value) for stage, value in times.items()},
    )  # fmt: skip
