"""nncase's Simulator, with a kmodel V5 by nncase that holds a build's weights and tables: a slow cross-check."""

from __future__ import annotations

import numpy as np

from common.arrays import Bytes
from common.errors import UserError
from model_build import nncase_witness
from model_build.build_folder import BuildFolder
from model_build.kpu import kmodel_v3, kmodel_v5
from model_build.network import HEADS


class NncaseEngine:
    """Compiles the build's float network with nncase and runs it with the build's tables; takes seconds to open.

    The V5 file gives floats. The bytes of its KPU layers are recovered exactly by the heads' scale and zero point,
    because float32 distinguishes 256 multiples of a scale.
    """

    def __init__(self, build: BuildFolder):
        nncase_witness.require()
        import nncase

        try:
            tflite, kmodel = build.tflite.read_bytes(), build.kmodel.read_bytes()
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; `python -m model_build build` makes it") from None
        v5 = nncase_witness.witness_of(tflite, kmodel_v3.read(kmodel))
        self._program = kmodel_v5.read(v5)
        self._nncase = nncase
        self._simulator = nncase.Simulator()
        self._simulator.load_model(v5)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of its input pictures."""
        return self._program.input_shape

    def run(self, planes: Bytes) -> dict[str, Bytes]:
        """uint8 (3, H, W) RGB → uint8 heads (C, H', W') by name."""
        channels, height, width = self.input_shape
        if planes.shape != (channels, height, width) or planes.dtype != np.uint8:
            raise UserError(f"the network takes uint8 planes (3, {height}, {width}), got {planes.dtype} {planes.shape}")
        picture = np.ascontiguousarray(planes.transpose(1, 2, 0)[None])
        self._simulator.set_input_tensor(0, self._nncase.RuntimeTensor.from_numpy(picture))
        self._simulator.run()
        heads = {}
        for index, (name, output) in enumerate(zip(HEADS, self._program.outputs, strict=True)):
            real = self._simulator.get_output_tensor(index).to_numpy()[0].astype(np.float64)
            heads[name] = np.rint(real / (output.scale or 1.0) + (output.zero_point or 0)).clip(0, 255).astype(np.uint8)
        return heads
