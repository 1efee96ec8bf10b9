"""Faults of the line, the loader and the power supply, drawn at random."""

from __future__ import annotations

import math
import random

from sim.boards.faults import BYTE_KINDS, ByteFault, Faults, RequestFault


def random_faults(rng: random.Random, flash_pages: int) -> Faults:
    """A few faults at random moments of a flashing run that programs about `flash_pages` pages."""
    to_board_bytes = 20_000 + flash_pages * 256
    bytes_ = []
    requests = []
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        to_host = rng.random() < 0.3
        position = rng.randint(1, 200 if to_host else to_board_bytes)
        bytes_.append(ByteFault(rng.choice(BYTE_KINDS), position, to_host, 1 << rng.randrange(8)))
    for _ in range(rng.choice((0, 0, 1, 2))):
        effect: int | float = rng.choice((0xE1, 0xE2, 0xE4, 0xE5, 0xE6, 0xE7, math.inf, 0.5, 3.0, 20.0))
        requests.append(RequestFault(effect, rng.randint(1, 40)))
    return Faults(
        bytes_=bytes_,
        requests=requests,
        flags=frozenset({"baud-stuck"} if rng.random() < 0.05 else ()),
        noise=rng.choice((0.0, 0.0, 0.0, 1e-6, 1e-5)),
        baud_limit=rng.choice((None, None, None, 1_000_000, 500_000)),
        power_cut_pages=rng.randint(0, flash_pages) if rng.random() < 0.25 else None,
        power_back_s=rng.choice((0.5, 3.0, math.inf)),
        seed=rng.randrange(1 << 30),
    )
