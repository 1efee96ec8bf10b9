"""Runs a whole kmodel V3 in the KPU's integers, bit-exact with nncase 1.9's kernels.

There are three ways to the same bytes (tests compare them):

- float layers (kpu_float.py): the TFLite runtime runs each layer as a float network that gives the chip's integers;
- arrays (kpu_layer.py): NumPy computes each layer, if the runtime is missing or a layer has no such form;
- KPU RAM: each layer reads and writes the chip's memory line by line, if some layer reads anything but whole
  channels of earlier maps. This is slow. It checks layouts, and it serves chips that are not as assumed
  (silicon_layer.py).
"""

from __future__ import annotations

import os
import struct

import cv2
import numpy as np

from common.arrays import Bytes, Numbers
from common.errors import UserError
from model_build.engines import litert
from model_build.engines.kpu_float import FloatLayer
from model_build.engines.kpu_layer import execute_layer, prepare
from model_build.engines.kpu_plan import Step, plan, trace_inputs
from model_build.engines.silicon_layer import execute_as
from model_build.kpu import kmodel_v3, ram
from model_build.kpu.kmodel_v3 import KmodelV3
from model_build.kpu.layer import KpuLayer
from model_build.kpu.program import INPUT
from model_build.kpu.silicon import ASSUMED, SiliconProfile


def _dequantize(body: bytes, main_memory: Bytes) -> None:
    """kmodel V3 layer 12: {flags, in, out, count, f32 scale, f32 bias}; real = byte · scale + bias, float32."""
    _, source, target, count, scale, bias = struct.unpack_from("<4I2f", body)
    values = main_memory[source : source + count] * np.float32(scale) + np.float32(bias)
    main_memory[target : target + 4 * count] = values.astype("<f4").view(np.uint8)


def _float_layers(steps: list[Step], threads: int) -> list[FloatLayer] | None:
    """All steps as float layers, or None if that is impossible or not faster."""
    if not steps or not litert.available():
        return None
    made = []
    for step in steps:
        layer = FloatLayer.of(prepare(step.layer), threads)
        if layer is None:
            return None
        made.append(layer)
    # The tables of nncase 1.x bend at their ends, so a straight line does not fit: most channels would need extra work.
    by_hand = sum(len(step.by_hand) * step.pixels for step in made)
    return made if 2 * by_hand < sum(step.prepared.out_channels * step.pixels for step in made) else None


class KpuEngine:
    """Runs a kmodel V3 made of KPU convolutions, and dequantizations of their outputs."""

    def __init__(self, kmodel: bytes | KmodelV3, threads: int | None = None, silicon: SiliconProfile = ASSUMED):
        """FormatError for anything but a V3 file, UserError if it has layers that are not simulated.

        threads: number of the float runtime's threads, by default half of the processors. silicon: the chip whose
        arithmetic is used. One that differs from the assumptions is computed slowly, in KPU RAM.
        """
        model = kmodel if isinstance(kmodel, KmodelV3) else kmodel_v3.read(kmodel)
        self.model = model
        foreign = [la for la in model.layers if not isinstance(la, KpuLayer) and not _can_dequantize(la, model)]
        if foreign or not isinstance(model.layers[0], KpuLayer):
            names = ", ".join(sorted({layer.type_name for layer in foreign})) or "a first layer that is none"
            raise UserError(f"the kpu engine runs KPU convolutions and dequantize; this kmodel has {names}")
        layers = model.kpu_layers
        first = layers[0]
        self.input_shape = (first.in_channels, first.in_height, first.in_width)
        self._main_memory = np.zeros(model.main_mem_bytes, np.uint8)
        # Maps go from layer to layer as arrays if all layers read whole channels; otherwise through KPU RAM.
        self._silicon = None if silicon.assumed_arithmetic else silicon
        inputs = trace_inputs(layers) if self._silicon is None else None
        self._steps = plan(layers, inputs) if inputs is not None else None
        self._kpu_ram = np.zeros(ram.RAM_BYTES if self._steps is None else 0, np.uint8)
        self._float_layers = _float_layers(self._steps or [], threads or max(1, (os.cpu_count() or 2) // 2))
        # Outputs of a convolution keep its shape; outputs of CPU layers are float32.
        self._shapes: dict[int, tuple[int, int, int] | None] = {}
        for layer in model.layers:
            if not isinstance(layer, KpuLayer):
                self._shapes[struct.unpack_from("<3I", layer.body)[2]] = None
            elif layer.main_mem_address is not None:
                self._shapes[layer.main_mem_address] = (layer.out_channels, layer.out_height, layer.out_width)
        if unmade := [output.address for output in model.outputs if output.address not in self._shapes]:
            raise UserError(f"no layer of the kmodel computes the output at main memory address {unmade[0]}")

    def run(self, planes: Bytes) -> list[Bytes]:
        """uint8 (channels, height, width) picture → outputs in the file's order: uint8 (channels, h, w) of
        convolutions, float32 (n,) of dequantizations."""
        if planes.shape != self.input_shape or planes.dtype != np.uint8:
            raise UserError(
                f"the kmodel takes uint8 planes of shape {self.input_shape}, got {planes.dtype} {planes.shape}"
            )
        if self._steps is None:
            made = self._in_ram(planes)
        elif self._float_layers is not None:
            made = self._by_floats(planes, self._steps, self._float_layers)
        else:
            made = self._by_arrays(planes, self._steps)
        # The file's order matters, because main memory is reused as well.
        number = 0
        for layer in self.model.layers:
            if not isinstance(layer, KpuLayer):
                _dequantize(layer.body, self._main_memory)
                continue
            if (start := layer.main_mem_address) is not None:
                self._main_memory[start : start + layer.out_bytes] = made[number].ravel()
            number += 1
        return [self._output(output) for output in self.model.outputs]

    def _in_ram(self, planes: Bytes) -> dict[int, Bytes]:
        """The maps that go to main memory, by their layer's number, (channels, height, width), computed in KPU RAM."""
        ram.write(self._kpu_ram, self.model.kpu_layers[0].source_line, planes)
        made = {}
        for number, layer in enumerate(self.model.kpu_layers):
            if self._silicon is None:
                execute_layer(layer, self._kpu_ram)
            else:
                execute_as(layer, self._kpu_ram, self._silicon)
            if layer.main_mem_address is not None:
                shape = layer.out_channels, layer.out_height, layer.out_width
                made[number] = ram.read(self._kpu_ram, layer.target_line, *shape)
        return made

    def _by_arrays(self, planes: Bytes, steps: list[Step]) -> dict[int, Bytes]:
        """The same as _in_ram, computed by NumPy."""
        maps: dict[int, Bytes] = {INPUT: planes}
        for index, step in enumerate(steps):
            pieces = [maps[part.layer][part.first : part.last] for part in step.inputs]
            maps[index] = prepare(step.layer).run(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        return {step.numbers[0]: maps[index] for index, step in enumerate(steps) if step.to_main_memory}

    def _by_floats(self, planes: Bytes, steps: list[Step], layers: list[FloatLayer]) -> dict[int, Bytes]:
        """The same as _in_ram, computed by the float runtime, whose maps are (height, width, channels)."""
        # OpenCV interleaves channels faster than NumPy.
        picture = cv2.merge(list(planes)) if len(planes) == 3 else np.ascontiguousarray(planes.transpose(1, 2, 0))
        maps: dict[int, Numbers] = {INPUT: np.asarray(picture)}
        for index, (step, layer) in enumerate(zip(steps, layers, strict=True)):
            pieces = [maps[part.layer][..., part.first : part.last] for part in step.inputs]
            maps[index] = layer.run(pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=2))
        return {
            step.numbers[0]: maps[index].transpose(2, 0, 1) for index, step in enumerate(steps) if step.to_main_memory
        }

    def _output(self, output: kmodel_v3.MainMemOutput) -> Bytes:
        shape = self._shapes[output.address]
        if shape is None:
            end = output.address + output.size_bytes
            return self._main_memory[output.address : end].view("<f4").copy()
        count = shape[0] * shape[1] * shape[2]
        return self._main_memory[output.address : output.address + count].reshape(shape).copy()


def _can_dequantize(layer: kmodel_v3.CpuLayer, model: KmodelV3) -> bool:
    """Whether this is a dequantization that stays inside main memory."""
    if layer.type_name != "dequantize" or len(layer.body) < 24:
        return False
    _, source, target, count = struct.unpack_from("<4I", layer.body)
    return bool(max(source + count, target + 4 * count) <= model.main_mem_bytes)
