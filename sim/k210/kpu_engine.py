"""The KPU device's arithmetic and timing: the project's bit-exact layer engine on the emulated memory."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from common.arrays import Bytes
from model_build.engines.kpu_layer import execute_layer
from model_build.engines.silicon_layer import execute_as
from model_build.kpu import cycles, registers
from model_build.kpu import layer as kpu_layer
from model_build.kpu.cycles import PUBLISHED, CycleModel
from model_build.kpu.silicon import ASSUMED, SiliconProfile

if TYPE_CHECKING:
    from sim.k210.soc import Soc


def execute(
    words: tuple[int, ...], eight_bit: bool, soc: Soc, silicon: SiliconProfile = ASSUMED
) -> tuple[Bytes | None, float]:
    """Run one layer in place; returns its output (CHW) if it is sent by DMA, and its seconds by the cycle model."""
    register_bytes = struct.pack("<12Q", *words)
    regs = registers.unpack(register_bytes)
    weight_bytes = 1 if eight_bit else 2
    channels = regs.o_ch_num + 1
    layer = _decode(
        register_bytes,
        bytes(soc.ram_slice(regs.para_start_addr, kpu_layer.weight_count(regs) * weight_bytes)),
        bytes(soc.ram_slice(regs.bwsx_base_addr, 8 * channels)),
        bytes(soc.ram_slice(regs.active_addr, kpu_layer.ACTIVATION_BYTES)),
        0 if regs.send_data_out else None,
        weight_bytes,
    )
    kpu_ram = np.frombuffer(soc.kpu_ram, np.uint8)
    as_assumed = silicon.assumed_arithmetic
    output = execute_layer(layer, kpu_ram) if as_assumed else execute_as(layer, kpu_ram, silicon)
    return (output if regs.send_data_out else None), layer_seconds(layer, soc.sysctl.kpu_hz, silicon.cycles)


def layer_seconds(layer: kpu_layer.KpuLayer, kpu_hz: float, model: CycleModel = PUBLISHED) -> float:
    """The time of one layer: the cycle model's estimate, which is for cycles.KPU_CLOCK_HZ, scaled with the clock."""
    return cycles.layer_us(layer, model) * 1e-6 * cycles.KPU_CLOCK_HZ / kpu_hz


@lru_cache(maxsize=256)
def _decode(
    register_bytes: bytes,
    weights: bytes,
    batch_norm: bytes,
    activation: bytes,
    main_mem_address: int | None,
    weight_bytes: int,
) -> kpu_layer.KpuLayer:
    """Decode a layer; each is decoded once, because the same layers come with every frame."""
    return kpu_layer.build(register_bytes, weights, batch_norm, activation, main_mem_address, "KPU layer", weight_bytes)
