"""The board's modules, for the simulators (see host_tools.firmware_modules)."""

from host_tools.firmware_modules import FIRMWARE_DIR, firmware_module

__all__ = ["FIRMWARE_DIR", "firmware_module"]
