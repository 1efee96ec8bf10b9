"""FPIOA (pin multiplexer), GPIOHS (32 fast pins) and GPIO (8 pins).

`Fpioa` owns the level of the chip's 48 pads: an output function drives its pad, the host drives inputs.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.k210.device import Device
from sim.k210.devices import plic

PADS = 48
FUNC_GPIOHS0, FUNC_GPIO0 = 24, 56


class Fpioa(Device):
    """Function select per pad: low 8 bits of each register."""

    host_side = ("soc",)

    def reset(self) -> None:
        super().reset()
        if not hasattr(self, "input_level"):
            self.input_level = [1] * PADS  # Pads are pulled up.

    def function(self, pad: int) -> int:
        """The function number that a pad is connected to."""
        return self.registers.get(4 * pad, 0) & 0xFF

    def pad_of(self, function: int) -> int | None:
        """The first pad that a function is connected to."""
        for pad in range(PADS):
            if self.registers.get(4 * pad, 0) & 0xFF == function:
                return pad
        return None

    def set_input(self, pad: int, level: int) -> None:
        """Drive a pad from outside, as a button or a boot line does."""
        self.input_level[pad] = level
        self.soc.gpiohs.inputs_changed()
        self.soc.gpio.inputs_changed()

    def input_of(self, function: int) -> int:
        """The level that a function sees."""
        pad = self.pad_of(function)
        return 1 if pad is None else self.input_level[pad]


class Gpiohs(Device):
    """32 pins with an interrupt each; watchers are called when an output changes."""

    host_side = ("soc", "watchers")
    INPUT_VAL, INPUT_EN, OUTPUT_EN, OUTPUT_VAL = 0x00, 0x04, 0x08, 0x0C
    RISE_IE, RISE_IP, FALL_IE, FALL_IP, HIGH_IE, HIGH_IP, LOW_IE, LOW_IP = range(0x18, 0x38, 4)

    def reset(self) -> None:
        super().reset()
        self.inputs = 0xFFFFFFFF
        if not hasattr(self, "watchers"):
            self.watchers: list[Callable[[int, int], None]] = []  # called with (pin, level) on output changes

    def level(self, pin: int) -> int:
        """The output level of a pin."""
        return self.registers.get(self.OUTPUT_VAL, 0) >> pin & 1

    def inputs_changed(self) -> None:
        """Recompute the 32 inputs from the pads; edges set their pending bits."""
        value = 0
        for pin in range(32):
            value |= self.soc.fpioa.input_of(FUNC_GPIOHS0 + pin) << pin
        rising, falling = value & ~self.inputs, self.inputs & ~value
        self.inputs = value
        registers = self.registers
        registers[self.RISE_IP] = registers.get(self.RISE_IP, 0) | rising
        registers[self.FALL_IP] = registers.get(self.FALL_IP, 0) | falling
        self._update_interrupts()

    def _update_interrupts(self) -> None:
        get = self.registers.get
        lines = (
            get(self.RISE_IE, 0) & get(self.RISE_IP, 0)
            | get(self.FALL_IE, 0) & get(self.FALL_IP, 0)
            | get(self.HIGH_IE, 0) & self.inputs
            | get(self.LOW_IE, 0) & ~self.inputs
        )
        for pin in range(32):
            self.soc.plic.set_level(plic.GPIOHS0_IRQ + pin, bool(lines >> pin & 1))

    def read(self, offset: int) -> int:
        if offset == self.INPUT_VAL:
            output_enable = self.registers.get(self.OUTPUT_EN, 0)
            driven = self.registers.get(self.OUTPUT_VAL, 0) & output_enable
            return driven | self.inputs & ~output_enable & 0xFFFFFFFF
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset in (self.RISE_IP, self.FALL_IP):
            self.registers[offset] = self.registers.get(offset, 0) & ~value  # write 1 to clear
        elif offset == self.OUTPUT_VAL:
            changed = value ^ self.registers.get(offset, 0)
            self.registers[offset] = value
            pin = 0
            while changed:
                if changed & 1:
                    for watch in self.watchers:
                        watch(pin, value >> pin & 1)
                changed >>= 1
                pin += 1
            return
        else:
            super().write(offset, value)
        if self.RISE_IE <= offset <= self.LOW_IP:
            self._update_interrupts()


class Gpio(Device):
    """8 pins with one interrupt (DesignWare APB GPIO)."""

    DATA_OUTPUT, DIRECTION, INTERRUPT_ENABLE, INTERRUPT_MASK = 0x00, 0x04, 0x30, 0x34
    INTERRUPT_LEVEL, INTERRUPT_POLARITY, INTERRUPT_STATUS, INTERRUPT_STATUS_RAW = 0x38, 0x3C, 0x40, 0x44
    INTERRUPT_CLEAR, DATA_INPUT = 0x4C, 0x50

    def reset(self) -> None:
        super().reset()
        self.inputs = 0xFF
        self.edges = 0

    def inputs_changed(self) -> None:
        """Recompute the inputs from the pads."""
        value = 0
        for pin in range(8):
            value |= self.soc.fpioa.input_of(FUNC_GPIO0 + pin) << pin
        polarity = self.registers.get(self.INTERRUPT_POLARITY, 0)
        self.edges |= (value ^ self.inputs) & ~(value ^ polarity)
        self.inputs = value
        self._update_interrupt()

    def _raw(self) -> int:
        get = self.registers.get
        edge_triggered = get(self.INTERRUPT_LEVEL, 0)
        active = ~(self.inputs ^ get(self.INTERRUPT_POLARITY, 0))
        return (self.edges & edge_triggered | active & ~edge_triggered) & get(self.INTERRUPT_ENABLE, 0) & 0xFF

    def _status(self) -> int:
        return self._raw() & ~self.registers.get(self.INTERRUPT_MASK, 0)

    def _update_interrupt(self) -> None:
        self.soc.plic.set_level(plic.GPIO_IRQ, bool(self._status()))

    def read(self, offset: int) -> int:
        if offset == self.DATA_INPUT:
            direction = self.registers.get(self.DIRECTION, 0)
            return self.registers.get(self.DATA_OUTPUT, 0) & direction | self.inputs & ~direction & 0xFF
        if offset == self.INTERRUPT_STATUS:
            return self._status()
        if offset == self.INTERRUPT_STATUS_RAW:
            return self._raw()
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.INTERRUPT_CLEAR:
            self.edges &= ~value
        else:
            super().write(offset, value)
        self._update_interrupt()
