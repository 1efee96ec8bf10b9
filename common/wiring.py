"""How DTR and RTS reach the reset and boot pins: the sequences that a host sends, and how a board reacts.

The sequences are those of kflash.py 1.1.6, (DTR, RTS) pairs with 0.1 s after each; True means asserted, that is
the pin is low. IO16 low while reset is released starts the mask ROM's serial loader, high starts the flash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from common.transport import Transport

RESET_RELEASE_S = 0.02
"""The time from releasing the reset line until the ROM reads IO16. The RC element at the reset pin on the boards'
schematics is of this order; the exact value is an assumption."""
STEP_S = 0.1
"""Each state of the lines is held this long, which is enough for the reset capacitor of every known board."""

Sequence = tuple[tuple[bool, bool], ...]


class ResetStrategy:
    """One wiring of DTR and RTS; `to_isp` and `to_boot` are sequences of (DTR, RTS)."""

    name = ""
    to_isp: Sequence = ()
    to_boot: Sequence = ()

    def enter_isp(self, transport: Transport) -> None:
        """Reset the chip into the mask ROM's serial loader."""
        self._play(transport, self.to_isp)

    def boot(self, transport: Transport) -> None:
        """Reset the chip into the program in its flash."""
        self._play(transport, self.to_boot)

    @staticmethod
    def _play(transport: Transport, sequence: Sequence) -> None:
        for dtr, rts in sequence:
            transport.set_lines(dtr, rts)
            transport.sleep(STEP_S)


class DanReset(ResetStrategy):
    """RTS is reset, DTR is IO16: Maix Dock (dan), Bit, trainer."""

    name = "dan"
    to_isp = ((False, False), (False, True), (True, False))
    to_boot = ((False, False), (False, True), (False, False))


class Kd233Reset(ResetStrategy):
    """DTR is reset, RTS is IO16: KD233, Bit with microphone, Maixduino, Go with open-ec (goE), M5StickV."""

    name = "kd233"
    to_isp = ((False, False), (True, False), (False, True))
    to_boot = ((False, False), (True, False), (False, False))


class GoDReset(ResetStrategy):
    """Go with the old CMSIS-DAP firmware: when idle, both lines are asserted; releasing RTS pulls IO16 low."""

    name = "goD"
    to_isp = ((True, True), (True, False), (True, False))
    to_boot = ((False, False), (True, False), (True, True))


class ManualReset(ResetStrategy):
    """No modem lines (pseudo-terminal, bare UART): a person holds BOOT and presses RESET."""

    name = "manual"


WIRINGS: dict[str, ResetStrategy] = {
    strategy.name: strategy for strategy in (DanReset(), Kd233Reset(), GoDReset(), ManualReset())
}
AUTOMATIC = ("dan", "kd233", "goD")
"""If the board is not known, the wirings are tried in this order."""


class PinEvent(Enum):
    """What happens to the reset pin when the lines change."""

    NOTHING = "nothing"
    HELD = "pulled low"
    RELEASED = "let go, or not pulled"
    PULSE = "pulled low and let go"


@dataclass
class ResetPins:
    """A board's side of a wiring: DTR and RTS as the host set them last, True = asserted = low."""

    wiring: str
    dtr: bool = False
    rts: bool = False

    @property
    def boot_low(self) -> bool:
        """Whether IO16 is pulled low, which makes the ROM start its serial loader."""
        if self.wiring == GoDReset.name:
            return self.dtr and not self.rts
        reset_line, boot_line = self._lines()
        # Two cross-coupled transistors: a pin is pulled only while the other line is released.
        return boot_line and not reset_line

    def _lines(self) -> tuple[bool, bool]:
        """(reset, boot) if the wiring is a plain one."""
        return (self.rts, self.dtr) if self.wiring == DanReset.name else (self.dtr, self.rts)

    def set(self, dtr: bool, rts: bool) -> PinEvent:
        """Set the lines, and return what that does to the reset pin."""
        before = (self.dtr, self.rts)
        self.dtr, self.rts = dtr, rts
        if self.wiring == GoDReset.name:
            # The debugger's firmware turns an edge of RTS, while DTR is asserted, into a reset pulse.
            return PinEvent.PULSE if dtr and before[0] and rts != before[1] else PinEvent.NOTHING
        reset_line, boot_line = self._lines()
        return PinEvent.HELD if reset_line and not boot_line else PinEvent.RELEASED
