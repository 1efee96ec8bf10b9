"""W25Q128: 16 MiB NOR flash (Winbond data sheet). Programs only clear bits; an erase sets them."""

from __future__ import annotations

from common.flash_map import BLOCK_BYTES, FLASH_BYTES, PAGE_BYTES, SECTOR_BYTES, erased_flash

MANUFACTURER, DEVICE, JEDEC = 0xEF, 0x17, bytes([0xEF, 0x40, 0x18])
WRITE_ENABLE_LATCH = 2
QUAD_ENABLE = 2  # in status register 2

READ_OPCODES = {0x03: 3, 0x0B: 4, 0x3B: 4, 0x6B: 4, 0xBB: 4, 0xEB: 6}  # opcode → bytes before data in plain frames
PROGRAM_OPCODES = (0x02, 0x32)
ERASE_BYTES = {0x20: SECTOR_BYTES, 0x52: 32 << 10, 0xD8: BLOCK_BYTES}
CHIP_ERASE = (0xC7, 0x60)


class W25q128:
    """The chip; `memory` is the flash image, shared with the host."""

    host_side = ("memory",)

    def __init__(self, memory: bytearray | None = None):
        self.memory = memory if memory is not None else erased_flash()
        if len(self.memory) != FLASH_BYTES:
            raise ValueError(f"flash image has {len(self.memory)} bytes, but the chip has {FLASH_BYTES}")
        self.status = [0, QUAD_ENABLE, 0x60]
        self.opcode: int | None = None
        self.received = bytearray()  # bytes after the opcode
        self.address = 0
        self.address_known = False
        self.erases = 0
        self.programs = 0

    def select(self) -> None:
        self.opcode = None
        self.received = bytearray()
        self.address_known = False

    def transfer(self, data: bytes) -> bytes:
        answer = bytearray(b"\xff" * len(data))
        start = 0
        if self.opcode is None and data:
            self.opcode = data[0]
            start = 1
        rest = data[start:]
        needed = READ_OPCODES.get(self.opcode or 0)
        if needed is None or self.address_known:
            before = len(self.received)
            self.received += rest
            if needed is None and self.opcode not in PROGRAM_OPCODES:
                for i in range(len(rest)):
                    answer[start + i] = self._reply_byte(before + i)
            elif self.address_known and needed is not None:
                answer[start:] = self._read(len(rest))
            return bytes(answer)
        take = max(0, min(len(rest), needed - len(self.received)))
        self.received += rest[:take]
        if len(self.received) == needed:
            self.address = int.from_bytes(self.received[:3], "big")
            self.address_known = True
            tail = len(rest) - take
            answer[start + take :] = self._read(tail)
        return bytes(answer)

    def receive(self, length: int) -> bytes:
        if self.opcode in READ_OPCODES:
            return self._read(length)
        return self.transfer(b"\xff" * length)

    def enhanced(self, instruction: int, address: int, address_bits: int) -> None:
        self.opcode = instruction & 0xFF
        self.address = address >> (address_bits - 24) if address_bits > 24 else address
        self.address &= 0xFFFFFF
        self.address_known = True
        if self.opcode in PROGRAM_OPCODES:
            self.received = bytearray(self.address.to_bytes(3, "big"))

    def deselect(self) -> None:
        opcode, data = self.opcode, bytes(self.received)
        self.opcode = None
        enabled = self.status[0] & WRITE_ENABLE_LATCH
        if opcode == 0x06:
            self.status[0] |= WRITE_ENABLE_LATCH
        elif opcode == 0x04:
            self.status[0] &= ~WRITE_ENABLE_LATCH
        elif opcode == 0x01 and data and enabled:
            self.status[0] = data[0] & 0xFC
            if len(data) > 1:
                self.status[1] = data[1]
        elif opcode == 0x31 and data and enabled:
            self.status[1] = data[0]
            self.status[0] &= ~WRITE_ENABLE_LATCH
        elif opcode == 0x11 and data and enabled:
            self.status[2] = data[0]
            self.status[0] &= ~WRITE_ENABLE_LATCH
        elif opcode in PROGRAM_OPCODES and len(data) > 3 and enabled:
            self._program(int.from_bytes(data[:3], "big"), data[3:])
        elif opcode in ERASE_BYTES and len(data) >= 3 and enabled:
            size = ERASE_BYTES[opcode]
            self._erase(int.from_bytes(data[:3], "big") & ~(size - 1), size)
        elif opcode in CHIP_ERASE and enabled:
            self._erase(0, FLASH_BYTES)

    def _reply_byte(self, index: int) -> int:
        """Byte `index` after the opcode, for the commands that answer from registers."""
        if self.opcode == 0x05:
            return self.status[0]
        if self.opcode == 0x35:
            return self.status[1]
        if self.opcode == 0x15:
            return self.status[2]
        if self.opcode == 0x9F:
            return JEDEC[index % 3]
        if self.opcode == 0x90 and index >= 3:
            return (MANUFACTURER, DEVICE)[(index - 3) & 1]
        if self.opcode == 0xAB and index >= 3:
            return DEVICE
        if self.opcode == 0x4B and index >= 4:
            return (0xD1, 0x66, 0xB4, 0x17, 0x08, 0x42, 0x21, 0x30)[(index - 4) & 7]
        return 0xFF

    def _read(self, length: int) -> bytes:
        end = self.address + length
        if end <= FLASH_BYTES:
            data = bytes(self.memory[self.address : end])
        else:
            data = bytes(self.memory[self.address :]) + bytes(self.memory[: end - FLASH_BYTES])
        self.address = end % FLASH_BYTES
        return data

    def _program(self, address: int, data: bytes) -> None:
        """Program up to a page: addresses wrap within it, and bits are only cleared."""
        self.programs += 1
        page, offset = address & ~(PAGE_BYTES - 1), address & (PAGE_BYTES - 1)
        for i, byte in enumerate(data[-PAGE_BYTES:] if len(data) > PAGE_BYTES else data):
            self.memory[page + (offset + i) % PAGE_BYTES] &= byte
        self.status[0] &= ~WRITE_ENABLE_LATCH

    def _erase(self, address: int, size: int) -> None:
        self.erases += 1
        self.memory[address : address + size] = b"\xff" * size
        self.status[0] &= ~WRITE_ENABLE_LATCH
