"""nncase's own Simulator on the V5 file: slow, a cross-check of the kpu engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import UserError
from model_build.kpu import kmodel_v5
from model_build.network import HEADS


class NncaseEngine:
    """Runs posenet.v5.kmodel at the size that it was quantized at.

    The V5 file ends in float; the bytes that its KPU layers made are taken back by the heads' scale and zero
    point, exactly, since float32 tells 256 multiples of a scale apart.
    """

    def __init__(self, path: Path):
        try:
            import nncase
        except ImportError:
            raise UserError(
                "the nncase engine needs nncase, which is not installed (x86-64 only); use --engine kpu"
            ) from None
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; build it with `python -m model_build build`") from None
        # Parsed by us first: nncase itself does not survive damaged files.
        self._program = kmodel_v5.read(data)
        if len(self._program.outputs) != len(HEADS):
            raise UserError(f"{path} has {len(self._program.outputs)} outputs, wanted are the heads {', '.join(HEADS)}")
        self._nncase = nncase
        self._simulator = nncase.Simulator()
        self._simulator.load_model(data)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of the pictures that it takes."""
        return self._program.input_shape

    def run(self, planes: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (3, H, W) RGB → uint8 heads (C, H', W') by name."""
        channels, height, width = self.input_shape
        if planes.shape != (channels, height, width) or planes.dtype != np.uint8:
            raise UserError(
                f"nncase's file takes {width}x{height} pictures (the size that it was quantized at; nncase cannot "
                f"place larger ones), got {planes.dtype} {planes.shape}; use --engine kpu"
            )
        picture = np.ascontiguousarray(planes.transpose(1, 2, 0)[None])
        self._simulator.set_input_tensor(0, self._nncase.RuntimeTensor.from_numpy(picture))
        self._simulator.run()
        heads = {}
        for index, (name, output) in enumerate(zip(HEADS, self._program.outputs, strict=True)):
            real = self._simulator.get_output_tensor(index).to_numpy()[0].astype(np.float64)
            heads[name] = np.rint(real / (output.scale or 1.0) + (output.zero_point or 0)).clip(0, 255).astype(np.uint8)
        return heads
