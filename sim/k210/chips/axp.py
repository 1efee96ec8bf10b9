"""Power management chips of X-Powers (AXP173, AXP192, AXP202): registers that store what is written, and ids."""

from __future__ import annotations

ID_REGISTER = 0x03
AXP202_ID = 0x41


class Axp:
    """A register file behind I2C. The first byte of a message is the register; reads continue from there."""

    def __init__(self, name: str, address: int, at_reset: dict[int, int] | None = None):
        self.name = name
        self.address = address
        self.registers = dict(at_reset or {})
        self.pointer = 0

    def i2c_write(self, data: bytes) -> None:
        """Take a finished write message."""
        if not data:
            return
        self.pointer = data[0]
        for value in data[1:]:
            self.registers[self.pointer] = value
            self.pointer = self.pointer + 1 & 0xFF

    def i2c_read(self) -> int:
        """The next byte of a read message."""
        value = self.registers.get(self.pointer, 0)
        self.pointer = self.pointer + 1 & 0xFF
        return value


def axp173() -> Axp:
    """The power management chip of the Maix Amigo."""
    return Axp("AXP173", 0x34)


def axp192() -> Axp:
    """The power management chip of the M5StickV."""
    return Axp("AXP192", 0x34)


def axp202() -> Axp:
    """The power management chip of the T-Watch, whose driver reads the id first."""
    return Axp("AXP202", 0x35, {ID_REGISTER: AXP202_ID})
