"""How DTR and RTS reach the reset and boot pins: one class per wiring.

The sequences are those of kflash.py 1.1.6, (DTR, RTS) pairs with 0.1 s after each; True is asserted, that is
the pin is low. IO16 low while reset is released starts the mask ROM's serial loader, high starts the flash.
"""

from __future__ import annotations

from common.transport import Transport

STEP_S = 0.1
"""Time that each line state is held; long enough for the reset capacitor of every known board."""

Sequence = tuple[tuple[bool, bool], ...]


class ResetStrategy:
    """One wiring of DTR and RTS; `to_isp` and `to_boot` are sequences of (DTR, RTS)."""

    name = ""
    to_isp: Sequence = ()
    to_boot: Sequence = ()

    def enter_isp(self, transport: Transport) -> None:
        """Reset into the mask ROM's serial loader."""
        self._play(transport, self.to_isp)

    def boot(self, transport: Transport) -> None:
        """Reset into what is in flash."""
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
    """Go with the old CMSIS-DAP firmware: idle is both asserted, RTS released pulls IO16."""

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
"""Tried in this order when the board is not known."""
