"""The targets of the four heads for people whose keypoints are known (PersonLab, arXiv 1803.08225 §3.1).

All offsets are in cells (pixels / output stride), so that a network learns numbers of about one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.arrays import Flags, Floats
from common.skeleton import EDGES

OUTPUT_STRIDE = 16
DISK_RADIUS_PX = 20.0
"""A cell within this distance of a keypoint belongs to it; PersonLab uses 32 px, for larger people."""


@dataclass(frozen=True)
class Targets:
    """Head targets of one picture, HWC, and where each counts.

    heatmap: uint8 (h, w, K), 1 within the disk of a keypoint.
    short_offset: float32 (h, w, 2K), K × y then K × x, cells from the cell's position to its keypoint.
    displacement_fwd, displacement_bwd: float32 (h, w, 2E), E × y then E × x, cells from the edge's parent to
    its child, and back; constant within the disk of the keypoint from which it starts.
    fwd_mask, bwd_mask: uint8 (h, w, E). Short offsets count where heatmap is 1.
    """

    heatmap: Floats
    short_offset: Floats
    displacement_fwd: Floats
    displacement_bwd: Floats
    fwd_mask: Floats
    bwd_mask: Floats


def make_targets(
    keypoints_px: Floats,
    labelled: Flags,
    width_px: int,
    height_px: int,
    edges: tuple[tuple[int, int], ...] = EDGES,
) -> Targets:
    """Targets for keypoints_px float (P, K, 2) x then y, of which `labelled` bool (P, K) are known.

    Where disks of several people overlap, a cell belongs to the nearest keypoint of each kind.
    """
    rows, columns = (height_px - 1) // OUTPUT_STRIDE + 1, (width_px - 1) // OUTPUT_STRIDE + 1
    people, keypoints = labelled.shape
    parents, children = np.array(edges).T
    if people == 0:
        return Targets(
            np.zeros((rows, columns, keypoints), np.uint8),
            np.zeros((rows, columns, 2 * keypoints), np.float32),
            *(np.zeros((rows, columns, 2 * len(edges)), np.float32) for _ in range(2)),
            *(np.zeros((rows, columns, len(edges)), np.uint8) for _ in range(2)),
        )
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    at = keypoints_px.astype(np.float32) / OUTPUT_STRIDE
    dx = at[:, None, None, :, 0] - x[None, :, :, None]  # (P, h, w, K)
    dy = at[:, None, None, :, 1] - y[None, :, :, None]
    distance = np.where(labelled[:, None, None], dx * dx + dy * dy, np.inf)
    owner = distance.argmin(axis=0)  # (h, w, K)
    pick = owner[None]
    heatmap = np.take_along_axis(distance, pick, 0)[0] <= (DISK_RADIUS_PX / OUTPUT_STRIDE) ** 2
    short = np.concatenate([np.take_along_axis(d, pick, 0)[0] for d in (dy, dx)], axis=-1)
    short *= np.concatenate([heatmap, heatmap], axis=-1)

    def along(sources: Floats, targets: Floats) -> tuple[Floats, Floats]:
        owners = owner[:, :, sources]  # (h, w, E)
        edge = np.arange(len(sources))
        mask = heatmap[:, :, sources] & labelled[owners, targets[edge]]
        vector = at[owners, targets[edge]] - at[owners, sources[edge]]  # (h, w, E, 2), x then y
        vector = np.concatenate([vector[..., 1] * mask, vector[..., 0] * mask], axis=-1)
        return vector, mask.astype(np.uint8)

    forward, forward_mask = along(parents, children)
    backward, backward_mask = along(children, parents)
    return Targets(heatmap.astype(np.uint8), short, forward, backward, forward_mask, backward_mask)
