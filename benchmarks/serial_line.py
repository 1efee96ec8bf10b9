"""A serial line in virtual time: line rate, latency, noise, and a receive ring that overflows without a word.

For the link's tests and benchmarks: two `Link` ends run against each other much faster than the clock on the
wall, with the same result every time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.transport import BITS_PER_BYTE


@dataclass
class Noise:
    """The chance of each byte to be changed into another, and to be dropped."""

    error: float = 0.0
    drop: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def spoil(self, data: bytes) -> bytes:
        """The bytes that arrive when `data` is sent."""
        if not self.error and not self.drop:
            return data
        out = bytearray()
        for byte in data:
            chance = self._random.random()
            if chance < self.drop:
                continue
            if chance < self.drop + self.error:
                byte ^= self._random.randrange(1, 256)
            out.append(byte)
        return bytes(out)


class Wire:
    """One direction: bytes handed over at a time arrive one after the other at the line's rate."""

    def __init__(self, baud: int, latency_s: float = 0.0, noise: Noise | None = None):
        self.byte_s = BITS_PER_BYTE / baud
        self.latency_s = latency_s
        self.noise = noise or Noise()
        self.carried_bytes = 0
        self._free_s = 0.0
        self._segments: deque[tuple[float, bytes]] = deque()

    def write(self, data: bytes, now_s: float) -> float:
        """Put bytes on the wire, and return the time at which the last of them has left."""
        start_s = max(now_s, self._free_s)
        self._free_s = start_s + len(data) * self.byte_s
        self.carried_bytes += len(data)
        self._segments.append((start_s + self.latency_s, data))
        return self._free_s

    def take(self, now_s: float) -> bytes:
        """The bytes that have arrived by now and have not been taken yet."""
        out = []
        while self._segments:
            start_s, data = self._segments[0]
            count = min(len(data), int((now_s - start_s) / self.byte_s + 1e-9))
            if count <= 0:
                break
            out.append(data[:count])
            if count < len(data):
                self._segments[0] = (start_s + count * self.byte_s, data[count:])
                break
            self._segments.popleft()
        return self.noise.spoil(b"".join(out)) if out else b""


class End:
    """One `Link` on the line: it takes time for its work, waits while it writes, and loses what its ring cannot hold.

    `frame_s` is the time that this end's processor needs for one frame in or out (an assumption of the model;
    benchmarks/link.py measures it for MicroPython on this machine).
    """

    def __init__(
        self,
        link: Any,
        incoming: Wire,
        outgoing: Wire,
        ring_bytes: int | None = None,
        frame_s: float = 0.0,
        poll_s: float = 0.0005,
    ):
        self.link = link
        self.incoming = incoming
        self.outgoing = outgoing
        self.ring_bytes = ring_bytes
        self.frame_s = frame_s
        self.poll_s = poll_s
        self.busy_until_s = 0.0
        self.overflowed_bytes = 0
        self._ring = b""

    def step(self, now_s: float) -> None:
        """Let this end do whatever it would do at the time `now_s`."""
        self._ring += self.incoming.take(now_s)
        if self.ring_bytes is not None and len(self._ring) > self.ring_bytes:
            self.overflowed_bytes += len(self._ring) - self.ring_bytes
            self._ring = self._ring[: self.ring_bytes]
        if now_s < self.busy_until_s:
            return
        data, self._ring = self._ring, b""
        now_ms = int(now_s * 1000)
        frames = self.link.frames
        if data:
            self.link.feed(data, now_ms)
        work_s = (self.link.frames - frames) * self.frame_s
        out = self.link.output(now_ms, not data)
        if out:
            work_s += self.frame_s
            self.busy_until_s = self.outgoing.write(out, now_s + work_s)
        else:
            self.busy_until_s = now_s + max(work_s, self.poll_s)


def run(ends: list[End], until: Callable[[float], bool], limit_s: float, step_s: float = 0.00005) -> float:
    """Run all ends until `until(now_s)` is true, and return the virtual seconds.

    After `limit_s` it raises TimeoutError.
    """
    now_s = 0.0
    while not until(now_s):
        for end in ends:
            end.step(now_s)
        now_s += step_s
        if now_s > limit_s:
            raise TimeoutError(f"not done after {limit_s} s of virtual time")
    return now_s
