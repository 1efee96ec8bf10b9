"""The operations of the board's programs on the KPU: kmodels in the chip's memory, and what they compute."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from model_build.kpu.kmodel_v3 import HEADER_BYTES, MAX_FILE_BYTES, VERSION
from sim.boards.board_memory import BoardError, BoardMemory, Status
from sim.boards.devices import CachedRunner, Devices, KpuModelRunner

# Error texts of the KPU module (Maix_kpu.c:185-227).
KPU_TEXTS = {
    2002: "unsupport kmodel version, only support kmodel V3{v4}",
    2003: "wrong kmodel format",
    2005: "read file error",
    2006: "no memory",
    2009: "only support at most 5 models at the same time",
}


@dataclass
class LoadedModel:
    """A model in the chip's memory.

    model_at, main_at: the addresses of the kmodel and of its output buffer.
    outputs: (offset in that buffer, bytes) of each output.
    shape: C, H and W of the input. last: W, H and C of the last output, once the model has run.
    """

    runner: KpuModelRunner
    model_at: int
    main_at: int
    outputs: list[tuple[int, int]]
    shape: tuple[int, int, int]
    last: tuple[int, int, int] = (0, 0, 0)


class KpuOperations:
    """Each `op_NAME` is called with the numbers and the payload of a request."""

    def __init__(self, devices: Devices, memory: BoardMemory):
        self.devices = devices
        self.memory = memory
        self.models: dict[int, LoadedModel] = {}
        self._upload = bytearray()

    def _kpu_error(self, code: int) -> BoardError:
        text = KPU_TEXTS[code].format(v4="/V4 now" if self.devices.kmodel_v4 else "")
        return BoardError(Status.VALUE_ERROR, f"[MAIXPY]kpu: load error:{code}, {text}")

    def op_kpu_flash(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        """kpu.load(address): the length follows from the header and the layer headers, as on the chip."""
        flash, at = self.devices.flash, n[0]
        if at + HEADER_BYTES > len(flash):
            raise self._kpu_error(2005)
        version, _, arch, layers, _, _, outputs = struct.unpack_from("<7I", flash, at)
        if version != VERSION or arch != 0:
            raise self._kpu_error(2002)
        headers = at + HEADER_BYTES + 8 * outputs
        length = HEADER_BYTES + 8 * outputs + 8 * layers
        if layers > 4096 or outputs > 4096 or at + length > len(flash):
            raise self._kpu_error(2003)
        for layer in range(layers):
            body = struct.unpack_from("<I", flash, headers + 8 * layer + 4)[0]
            if not body:
                raise self._kpu_error(2003)
            length += body
        if length > MAX_FILE_BYTES or at + length > len(flash):
            raise self._kpu_error(2003)
        return self._load(bytes(flash[at : at + length]))

    def op_kpu_begin(self, n: list[int], payload: bytes) -> None:
        self._upload = bytearray()

    def op_kpu_data(self, n: list[int], payload: bytes) -> None:
        if len(self._upload) <= MAX_FILE_BYTES:
            self._upload += payload

    def op_kpu_file(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        data = bytes(self._upload)
        self._upload = bytearray()
        if not data:
            raise self._kpu_error(2005)
        if len(data) < HEADER_BYTES or struct.unpack_from("<I4xI", data) != (VERSION, 0):
            raise self._kpu_error(2002)
        if len(data) > MAX_FILE_BYTES:
            raise self._kpu_error(2003)
        return self._load(data)

    def _load(self, kmodel: bytes) -> tuple[int, ...]:
        if len(self.models) >= 5:
            raise self._kpu_error(2009)
        main_bytes, count = struct.unpack_from("<20xII", kmodel)
        try:
            outputs = [struct.unpack_from("<II", kmodel, HEADER_BYTES + 8 * i) for i in range(count)]
            runner = self.devices.load_model(kmodel)
        except (UserError, struct.error):
            raise self._kpu_error(2003) from None
        try:
            model_at = self.memory.malloc(len(kmodel) + 256, 256)
        except BoardError:
            raise self._kpu_error(2006) from None
        try:
            main_at = self.memory.malloc(max(main_bytes, 8), 256)
        except BoardError:
            self.memory.heap.free(model_at)
            raise self._kpu_error(2006) from None
        channels, height, width = _input_shape(kmodel, count)
        if self.devices.cache_kpu:
            runner = CachedRunner(runner)
        task = next(i for i in range(1, 7) if i not in self.models)
        self.models[task] = LoadedModel(runner, model_at, main_at, outputs, (channels, height, width))
        return task, len(kmodel), count, width, height, channels

    def op_kpu_deinit(self, n: list[int], payload: bytes) -> None:
        model = self.models.pop(n[0], None)
        if model is not None:
            self.memory.heap.free(model.model_at)
            self.memory.heap.free(model.main_at)

    def op_kpu_run(self, n: list[int], payload: bytes) -> tuple[int, int, int]:
        """Number 0 is the model, 1 the place of the planes; answers w, h, ch of the last layer."""
        model = self.models[n[0]]
        channels, height, width = model.shape
        results = model.runner.run(self.memory.planes(n[1], width, height, channels))
        self.devices.kpu_runs += 1
        for (at, size), data in zip(model.outputs, results, strict=True):
            flat = np.ascontiguousarray(data).reshape(-1)[:size]
            self.memory.bytes[model.main_at + at : model.main_at + at + flat.size] = flat
        last = results[-1].shape
        model.last = (last[2], last[1], last[0])
        return model.last

    def op_kpu_output(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        model = self.models[n[0]]
        if not 0 <= n[1] < len(model.outputs):
            raise BoardError(Status.OS_ERROR, "sipeed_kpu_get_output err" if n[2] else "2001")
        at, size = model.outputs[n[1]]
        return model.main_at + at, size, *model.last


def _input_shape(kmodel: bytes, outputs: int) -> tuple[int, int, int]:
    """C, H and W of the first KPU layer, from its registers image_channel_num and image_size (V3 §K210_CONV)."""
    layers = struct.unpack_from("<12xI", kmodel)[0]
    body = HEADER_BYTES + 8 * outputs + 8 * layers
    offset = struct.unpack_from("<I", kmodel, body + 8)[0]
    channel_word, size_word = struct.unpack_from("<16xQQ", kmodel, offset)
    return (channel_word & 0x3FF) + 1, (size_word >> 10 & 0x1FF) + 1, (size_word & 0x3FF) + 1
