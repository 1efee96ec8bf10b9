"""What the simulators make of each of a board's stages: the right-hand side of `host_tools diff`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.firmware_modules import firmware_module
from host_tools.diff import HEADS, BoardFrame, SimulatedFrame
from host_tools.link import rgb565_planes
from sim.board_image import draw_poses
from sim.reference_decoder import ReferenceDecoder

Planes = NDArray[np.uint8]
Run = Callable[[Planes], Mapping[str, NDArray]]


class StageSimulator:
    """`manifest` is posenet.json as a dictionary; `kpu` and `real` map planes (3, h, w) to heads by name.

    `real` is the float network's, in real values, or None. threshold (percent) and max_poses are the board's.
    """

    def __init__(
        self, manifest: Mapping[str, Any], kpu: Run, real: Run | None = None, threshold: int = 50, max_poses: int = 5
    ):
        self.manifest = manifest
        self.kpu = kpu
        self.real = real
        self.threshold = threshold
        self.reference = ReferenceDecoder(
            manifest["output_stride"],
            tuple((int(parent), int(child)) for parent, child in manifest["edges"]),
            score_threshold=threshold / 100,
            max_poses=max_poses,
        )
        self.decoder = firmware_module("decoder").Decoder(manifest, threshold * 32768 // 100, 20, max_poses)

    def simulate(self, frame: BoardFrame) -> SimulatedFrame:
        """Each stage computed from the board's own input of that stage."""
        height, width = frame.planes.shape[1:]
        heads = self.kpu(frame.planes)
        buffers = [np.ascontiguousarray(frame.heads[name]).reshape(-1).data for name in HEADS]
        keypoints = len(self.manifest["keypoints"])
        multi = _poses(self.decoder.multi(buffers), keypoints)
        single = _poses(self.decoder.single(buffers), keypoints)
        own = [np.ascontiguousarray(heads[name]).reshape(-1).data for name in HEADS]
        chain = _poses(self.decoder.single(own), keypoints)
        real = dict(self.real(frame.planes)) if self.real else None
        return SimulatedFrame(
            planes=rgb565_planes(frame.sent, width, height) if frame.sent is not None else None,
            heads={name: np.asarray(heads[name]) for name in HEADS},
            multi=multi,
            single=single,
            drawn=draw_poses(
                frame.before_drawing, width, height, frame.multi, self.manifest["edges"], self.threshold
            ),
            chain=chain,
            real=real,
            real_chain=self._real_single(real) if real else None,
        )

    def _real_single(self, real: Mapping[str, NDArray]) -> NDArray[np.int32]:
        """The float reference decoder's single pose in the integer decoder's form."""
        found = self.reference.single(*(np.asarray(real[name], dtype=np.float64) for name in HEADS[:2]))
        return pose_integers(found)


def pose_integers(found: Sequence[Any]) -> NDArray[np.int32]:
    """Poses of the reference decoder, rounded to [score_q15, x_q8, y_q8, score_q15, …]: int32 (n, 1 + 3·keypoints)."""
    rows = []
    for pose in found:
        points = np.column_stack((np.asarray(pose.keypoints) * 256, np.asarray(pose.scores) * 32768))
        rows.append(np.round(np.concatenate(([pose.score * 32768], points.reshape(-1)))))
    return np.array(rows, dtype=np.int32)


def _poses(found: list[array], keypoints: int) -> NDArray[np.int32]:
    """The decoder's reused arrays as int32 (n, 1 + 3·keypoints)."""
    return np.array([list(pose) for pose in found], dtype=np.int32).reshape(-1, 1 + 3 * keypoints)
