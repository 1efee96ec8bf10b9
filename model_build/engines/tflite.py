"""Runs float TFLite with the official small runtime, ai-edge-litert, as the reference."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from common.arrays import Bytes, Floats
from common.errors import FormatError, UserError
from model_build.engines import litert
from model_build.float_forward import normalise
from model_build.network import HEADS


class TfliteEngine:
    """Runs posenet.tflite, at its own size or another."""

    def __init__(self, path: Path, size: tuple[int, int] | None = None):
        if not litert.available():
            raise UserError(
                "the tflite engine needs the package ai-edge-litert, which has no wheels for this computer (macOS on "
                "Intel); use --engine kpu"
            )
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; build it with `python -m model_build build`") from None
        try:
            shape = (1, size[1], size[0], 3) if size is not None else None
            self._interpreter = litert.open_interpreter(data, max(1, (os.cpu_count() or 2) // 2), shape)
        except (ValueError, RuntimeError) as error:
            raise FormatError(f"{path} is not a TFLite file that can be run: {' '.join(str(error).split())}") from None
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        if len(self._outputs) != len(HEADS):
            raise FormatError(f"{path} has {len(self._outputs)} outputs instead of the heads {', '.join(HEADS)}")

    def run(self, planes: Bytes) -> dict[str, Floats]:
        """uint8 (3, H, W) RGB → float32 heads (C, H', W'), logits and pixels, by name."""
        height, width = self._input["shape"][1:3]
        if planes.shape != (3, height, width) or planes.dtype != np.uint8:
            raise UserError(f"the network takes uint8 planes (3, {height}, {width}), got {planes.dtype} {planes.shape}")
        picture = normalise(planes.transpose(1, 2, 0))[None]
        self._interpreter.set_tensor(self._input["index"], picture)
        self._interpreter.invoke()
        return {
            name: np.ascontiguousarray(self._interpreter.get_tensor(output["index"])[0].transpose(2, 0, 1))
            for name, output in zip(HEADS, self._outputs, strict=True)
        }
