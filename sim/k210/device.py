"""The base of all on-chip devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.k210.soc import Soc


class Device:
    """A block of 32-bit registers. Subclasses override `read`, `write` and `reset`.

    Everything in `__dict__` is part of a snapshot; references to other devices are stored by name.
    """

    size = 0x1000  # bytes of address space, whole pages
    on_busy: Callable[[bool], None] | None = None
    """Called when the block begins and ends to work (DVP, KPU); it may look at the machine but must not change it."""

    def __init__(self, soc: Soc, name: str, base: int):
        self.soc = soc
        self.name = name
        self.base = base
        self.registers: dict[int, int] = {}

    def tell_busy(self, busy: bool) -> None:
        """Call the listener, if there is one."""
        listener = self.on_busy  # another thread may take it away
        if listener is not None:
            listener(busy)

    def reset(self) -> None:
        """Set the device to its state after power-on."""
        self.registers.clear()

    def read(self, offset: int) -> int:
        """The 32-bit register at `offset`."""
        return self.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Store to the 32-bit register at `offset`."""
        self.registers[offset] = value


class RegisterFile(Device):
    """A block that stores what is written and does nothing else: FFT, I2S, AES, FPIOA's neighbours."""
