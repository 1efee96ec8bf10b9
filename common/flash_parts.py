"""Parts of a board's flash: what goes where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.flash_map import FLASH_BYTES, SECTOR_BYTES


@dataclass(frozen=True)
class FlashPart:
    """`data` belongs at `address_bytes` in the flash; `name` is shown to people."""

    name: str
    address_bytes: int
    data: bytes

    @property
    def end_bytes(self) -> int:
        return self.address_bytes + len(self.data)

    @property
    def sectors(self) -> range:
        """The sectors that are erased when this part is written."""
        return range(self.address_bytes // SECTOR_BYTES, -(-self.end_bytes // SECTOR_BYTES))


def check_parts(parts: Sequence[FlashPart]) -> None:
    """UserError unless all parts lie in the flash, on sector boundaries, and share no sector."""
    for index, part in enumerate(parts):
        if not part.data:
            raise UserError(f"{part.name} is empty; nothing to write at 0x{part.address_bytes:06X}")
        if part.address_bytes % SECTOR_BYTES:
            raise UserError(
                f"{part.name}: address 0x{part.address_bytes:06X} is not a multiple of 0x{SECTOR_BYTES:X}; "
                f"writing there would also erase the bytes before it"
            )
        if part.end_bytes > FLASH_BYTES:
            raise UserError(
                f"{part.name}: 0x{part.address_bytes:06X}…0x{part.end_bytes:06X} goes beyond the flash's "
                f"0x{FLASH_BYTES:X} bytes; use a lower address or a smaller file"
            )
        for other in parts[:index]:
            if part.sectors.start < other.sectors.stop and other.sectors.start < part.sectors.stop:
                raise UserError(
                    f"{part.name} (0x{part.address_bytes:06X}…0x{part.end_bytes:06X}) and {other.name} "
                    f"(0x{other.address_bytes:06X}…0x{other.end_bytes:06X}) overlap; move one of them"
                )
