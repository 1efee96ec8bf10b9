"""SHA-256 block: the program pads the message itself and feeds 32-bit words."""

from __future__ import annotations

import struct

from sim.k210.device import Device

RESULT, DATA_IN, NUMBER, FUNCTION_0, FUNCTION_1 = 0x00, 0x20, 0x28, 0x2C, 0x34
_PRIMES = [p for p in range(2, 312) if all(p % q for q in range(2, int(p**0.5) + 1))][:64]


def _root_bits(prime: int, power: int) -> int:
    """The first 32 bits of the fraction of prime^(1/power), computed in integers."""
    low, high = 0, prime << 32
    target = prime << (32 * power)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**power <= target:
            low = middle
        else:
            high = middle - 1
    return low & 0xFFFFFFFF


_K = [_root_bits(p, 3) for p in _PRIMES]
_H = [_root_bits(p, 2) for p in _PRIMES[:8]]


def compress(state: list[int], block: bytes) -> list[int]:
    """One 64-byte block (FIPS 180-4, 6.2.2)."""
    w = list(struct.unpack(">16I", block))

    def rotate(x: int, n: int) -> int:
        return (x >> n | x << (32 - n)) & 0xFFFFFFFF

    for i in range(16, 64):
        s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3
        s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10
        w.append((w[i - 16] + s0 + w[i - 7] + s1) & 0xFFFFFFFF)
    a, b, c, d, e, f, g, h = state
    for i in range(64):
        t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (e & f ^ ~e & g) + _K[i] + w[i]
        t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (t1 + t2) & 0xFFFFFFFF, a, b, c, (d + t1) & 0xFFFFFFFF, e, f, g
    return [(x + y) & 0xFFFFFFFF for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


class Sha256(Device):
    """Result words appear in reverse order (the SDK reads sha_result[7 − i])."""

    def reset(self) -> None:
        super().reset()
        self.state = list(_H)
        self.block = bytearray()

    def read(self, offset: int) -> int:
        if offset < 0x20:
            word = self.state[7 - (offset >> 2)]
            return int.from_bytes(word.to_bytes(4, "big"), "little")
        if offset == FUNCTION_0:
            return super().read(offset) | 1  # sha_en reads 1 again when the result is ready
        if offset == FUNCTION_1:
            return super().read(offset) & 1  # fifo_in_full is never set.
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == NUMBER:
            self.state = list(_H)
            self.block.clear()
        elif offset == DATA_IN:
            self.feed(value.to_bytes(4, "little"))

    def feed(self, data: bytes) -> None:
        """Take bytes of the message, which may come by DMA."""
        self.block += data
        while len(self.block) >= 64:
            self.state = compress(self.state, bytes(self.block[:64]))
            del self.block[:64]
