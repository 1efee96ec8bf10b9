"""Computes what the simulators expect of each of a board's stages: the reference of `host_tools diff`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.arrays import Bytes, Numbers
from common.decoder_options import DEFAULTS, DecoderOptions
from common.firmware_modules import firmware_module
from common.pose import integer_rows
from host_tools.diff import BoardFrame, SimulatedFrame
from host_tools.firmware_drawing import draw_poses
from model_build.network import HEADS
from model_build.reference_decoder import ReferenceDecoder

Run = Callable[[Bytes], Mapping[str, Numbers]]


class StageSimulator:
    """`manifest` is posenet.json as a dictionary; `kpu` and `real` map planes (3, h, w) to heads by name.

    `real` is the float network's, in real values, or None. `options` are the board's.
    """

    def __init__(
        self, manifest: Mapping[str, Any], kpu: Run, real: Run | None = None, options: DecoderOptions = DEFAULTS
    ):
        self.manifest = manifest
        self.kpu = kpu
        self.real = real
        self.threshold_q15 = options.for_board()["score_threshold_q15"]
        self.reference = ReferenceDecoder(
            manifest["output_stride"],
            tuple((int(parent), int(child)) for parent, child in manifest["edges"]),
            **options.for_reference(),
            widening=field_width(manifest) / manifest["input"]["width"],
        )
        self.decoder = firmware_module("decoder").Decoder(manifest, **options.for_board())

    def simulate(self, frame: BoardFrame) -> SimulatedFrame:
        """Compute each stage from the board's own input of that stage."""
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
            planes=rgb565.planes_of(frame.sent, width, height) if frame.sent is not None else None,
            heads={name: np.asarray(heads[name]) for name in HEADS},
            multi=multi,
            single=single,
            drawn=draw_poses(
                frame.before_drawing,
                width,
                height,
                self._squeezed(frame.multi),
                self.manifest["edges"],
                self.threshold_q15,
            ),  # fmt: skip
            chain=chain,
            real=real,
            real_chain=self._real_single(real) if real else None,
        )

    def _squeezed(self, poses: NDArray[np.int32]) -> NDArray[np.int32]:
        """Poses (n, 1 + 3·keypoints) in the picture's pixels, in which the board draws, from those of the field."""
        rows = [array("i", pose.tolist()) for pose in poses]
        for row in rows:
            firmware_module("mount").squeeze(row, self.manifest["input"]["width"], field_width(self.manifest))
        return _poses(rows, len(self.manifest["keypoints"]))

    def _real_single(self, real: Mapping[str, Numbers]) -> NDArray[np.int32]:
        """The float reference decoder's single pose in the integer decoder's form."""
        found = self.reference.single(*(np.asarray(real[name], dtype=np.float64) for name in HEADS[:2]))
        return integer_rows(found, len(self.manifest["keypoints"]))


def field_width(manifest: Mapping[str, Any]) -> int:
    """Width of the field that the input shows, in square pixels; `manifest` is posenet.json as a dictionary."""
    return int(manifest.get("field", manifest["input"])["width"])


def _poses(found: list[array[int]], keypoints: int) -> NDArray[np.int32]:
    """The decoder's reused arrays as int32 (n, 1 + 3·keypoints)."""
    return np.array([list(pose) for pose in found], dtype=np.int32).reshape(-1, 1 + 3 * keypoints)
