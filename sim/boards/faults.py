"""Faults on demand for the simulated board: bad cables, refused requests, power cuts, awkward boards.

On the command line a fault is one word, for example::

    drop@5000          the 5000th byte to the board is lost        dup@N, flip@N or flip@N:MASK likewise
    drop@30<           the 30th byte from the board is lost        (a trailing < reverses the direction)
    noise=1e-5         every byte, both ways, is flipped with this probability
    nak=E2@3           the third request is refused with reason E2 (E1…E7)
    nak=E6@D4:2        the second FLASH_WRITE is refused with reason E6
    silent@D4:2        the second FLASH_WRITE is carried out but not answered
    slow=4@D4:1        the answer to the first FLASH_WRITE comes 4 s late
    baud-limit=750000  above this rate the line turns bytes into garbage
    baud-stuck         the board does not follow a change of baud rate
    power-cut@100      the power fails after 100 more flash pages; power-back=S: it returns after S seconds
    wrong-chip         the flash is the one inside the package
    dead               the board never answers
    full-flash         /flash is full
    old-maixpy         MaixPy 0.3.2, without Maix.utils.flash_read
    no-kpu             a MaixPy built without the KPU module
    busy-main          main.py never ends and ignores Ctrl-C
    ide-mode           the board starts in MaixPy IDE mode
    banner-noise       garbage before the boot messages
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError

BYTE_KINDS = ("drop", "dup", "flip")
FLAGS = (
    "baud-stuck", "wrong-chip", "dead", "full-flash", "old-maixpy", "no-kpu", "busy-main", "ide-mode", "banner-noise",
)  # fmt: skip


@dataclass(frozen=True)
class ByteFault:
    """One byte of a stream lost, doubled or changed; `position` counts from 1 since the board was made."""

    kind: str
    position: int
    to_host: bool = False
    mask: int = 0x20


@dataclass(frozen=True)
class RequestFault:
    """What happens to the `nth` request (counted from 1) of operation `op` (None: of any operation).

    `effect`: an int refuses it with this reason; a float answers it this many seconds late (inf: never).
    """

    effect: int | float
    nth: int
    op: int | None = None


class Stream:
    """One direction of the line with its byte faults."""

    def __init__(self, faults: Iterable[ByteFault], noise: float, rng: random.Random):
        self._faults = {fault.position: fault for fault in faults}
        self._noise = noise
        self._rng = rng
        self._count = 0
        self._next_noise = self._draw()

    def _draw(self) -> float:
        """The distance in bytes to the next noisy byte."""
        if self._noise <= 0:
            return math.inf
        return 1 + int(math.log(1.0 - self._rng.random()) / math.log(1.0 - self._noise))

    def __call__(self, data: bytes) -> bytes:
        """The bytes that come out at the other end of the line."""
        start, end = self._count, self._count + len(data)
        self._count = end
        hit = sorted(position for position in self._faults if start < position <= end)
        if not hit and self._next_noise > len(data):
            self._next_noise -= len(data)
            return data
        out = bytearray(data)
        while self._next_noise <= len(out):
            out[int(self._next_noise) - 1] ^= 1 << self._rng.randrange(8)
            self._next_noise += self._draw()
        self._next_noise -= len(out)
        for position in reversed(hit):
            fault = self._faults.pop(position)
            index = position - start - 1
            if fault.kind == "drop":
                del out[index]
            elif fault.kind == "dup":
                out.insert(index, out[index])
            else:
                out[index] ^= fault.mask
        return bytes(out)


@dataclass
class Faults:
    """All faults of one board; without any it is a good board on a good cable."""

    bytes_: list[ByteFault] = field(default_factory=list)
    requests: list[RequestFault] = field(default_factory=list)
    flags: frozenset[str] = frozenset()
    noise: float = 0.0
    baud_limit: int | None = None
    power_cut_pages: int | None = None
    power_back_s: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.to_board = Stream([f for f in self.bytes_ if not f.to_host], self.noise, rng)
        self.to_host = Stream([f for f in self.bytes_ if f.to_host], self.noise, rng)
        self._seen: dict[int | None, int] = {}

    def __contains__(self, flag: str) -> bool:
        return flag in self.flags

    def request_hook(self, op: int) -> int | float | None:
        """For IspEndpoint: count this request and return its fault, if any."""
        for key in (op, None):
            self._seen[key] = self._seen.get(key, 0) + 1
        for fault in self.requests:
            if fault.op in (op, None) and self._seen[fault.op] == fault.nth:
                return fault.effect
        return None

    @classmethod
    def parse(cls, words: Iterable[str], seed: int = 0) -> Faults:
        """Faults from command-line words; UserError if one is not understood."""
        result: dict[str, Any] = {"bytes_": [], "requests": [], "seed": seed}
        flags = set()
        for word in words:
            try:
                if word in FLAGS:
                    flags.add(word)
                else:
                    _parse_word(word, result)
            except (ValueError, IndexError, KeyError):
                raise UserError(
                    f"no fault is called {word!r}; known faults: {', '.join(BYTE_KINDS)}@N, noise=P, "
                    f"nak=REASON@[OP:]N, silent@[OP:]N, slow=S@[OP:]N, baud-limit=B, power-cut@PAGES, "
                    f"power-back=S, {', '.join(FLAGS)}",
                    exit_code=2,
                ) from None
        return cls(flags=frozenset(flags), **result)


def _parse_word(word: str, result: dict[str, Any]) -> None:
    head, _, at = word.partition("@")
    name, _, value = head.partition("=")
    if name in BYTE_KINDS:
        to_host = at.endswith("<")
        position, _, mask = at.rstrip("<").partition(":")
        result["bytes_"].append(ByteFault(name, int(position), to_host, int(mask, 0) if mask else 0x20))
    elif name in ("nak", "silent", "slow"):
        op, _, nth = at.rpartition(":")
        effect = int(value, 16) if name == "nak" else math.inf if name == "silent" else float(value)
        result["requests"].append(RequestFault(effect, int(nth), int(op, 16) if op else None))
    elif name == "noise":
        result["noise"] = float(value)
    elif name == "baud-limit":
        result["baud_limit"] = int(value)
    elif name == "power-cut":
        result["power_cut_pages"] = int(at)
    elif name == "power-back":
        result["power_back_s"] = float(value)
    else:
        raise ValueError(word)
