"""The KPU device's arithmetic and timing: the project's bit-exact layer engine on the emulated memory."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from model_build.kpu import layer as kpu_layer
from model_build.kpu import ram, registers

if TYPE_CHECKING:
    from sim.k210.soc import Soc


def execute(words: tuple[int, ...], eight_bit: bool, soc: Soc) -> tuple[np.ndarray | None, float]:
    """Run one layer in place; returns its output if it goes out through DMA (CHW), and seconds by the cycle model."""
    from sim.engines.kpu import execute_layer

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
    output = execute_layer(layer, np.frombuffer(soc.kpu_ram, np.uint8))
    return (output if regs.send_data_out else None), layer_seconds(layer, soc.sysctl.kpu_hz)


def layer_seconds(layer: kpu_layer.KpuLayer, kpu_hz: float) -> float:
    """Time of one layer, fitted to published per-layer timings at 400 MHz and scaled with the clock: an estimate.

    About one 64-byte line a cycle and output channel, plus the parameters, plus a fixed cost.
    """
    lines = ram.lines(layer.in_channels, layer.in_height, layer.in_width)
    at_400_mhz: float
    if layer.depthwise:
        at_400_mhz = 5.76e-9 * lines + 32.8e-9 * layer.in_channels + 6.3e-6
    else:
        weights = layer.in_channels * layer.out_channels * layer.kernel_size**2
        at_400_mhz = 2.63e-9 * lines * layer.out_channels + 3.04e-9 * weights + 30.5e-6
    return at_400_mhz * 400e6 / kpu_hz


@lru_cache(maxsize=256)
def _decode(
    register_bytes: bytes,
    weights: bytes,
    batch_norm: bytes,
    activation: bytes,
    main_mem_address: int | None,
    weight_bytes: int,
) -> kpu_layer.KpuLayer:
    """Layers repeat every frame: decode each once."""
    return kpu_layer.build(register_bytes, weights, batch_norm, activation, main_mem_address, "KPU layer", weight_bytes)
