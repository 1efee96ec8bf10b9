"""Engines compute the network's heads on the host."""

from __future__ import annotations

from typing import Protocol

from common.arrays import Bytes, Numbers
from common.errors import UserError
from model_build.build_folder import BuildFolder
from model_build.engines.kpu import KpuEngine
from model_build.engines.nncase import NncaseEngine
from model_build.engines.tflite import TfliteEngine
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from model_build.network import HEADS

ENGINES = ("kpu", "tflite", "nncase")
"""kpu: our integer simulator of the V3 file; tflite: float; nncase: nncase's simulator, with a file that nncase
made."""


class Engine(Protocol):
    def run(self, planes: Bytes) -> dict[str, Numbers]:
        """uint8 (3, H, W) RGB → heads CHW by name: uint8 for kpu and nncase, float32 real values for tflite."""


class _KpuHeads:
    """The KPU engine, whose outputs are named by their heads."""

    def __init__(self, kmodel: bytes, silicon: SiliconProfile, threads: int | None):
        self._engine = KpuEngine(kmodel, threads, silicon=silicon)

    def run(self, planes: Bytes) -> dict[str, Numbers]:
        return dict(zip(HEADS, self._engine.run(planes), strict=True))


def open_engine(name: str, build: BuildFolder, silicon: SiliconProfile = ASSUMED, threads: int | None = None) -> Engine:
    """The engine of this name, opened on a build's files; UserError if there is no such engine or no build.

    silicon: the chip whose arithmetic the engine `kpu` uses. threads: number of its threads, by default half of the
    processors.
    """
    if name not in ENGINES:
        raise UserError(f"no engine is called {name!r}; known engines: {', '.join(ENGINES)}", exit_code=2)
    build.load_manifest()
    if name == "tflite":
        return TfliteEngine(build.tflite)
    if name == "nncase":
        return NncaseEngine(build)
    try:
        return _KpuHeads(build.kmodel.read_bytes(), silicon, threads)
    except OSError as error:
        raise UserError(f"{build.kmodel}: {error.strerror}; build it with `python -m model_build build`") from None
