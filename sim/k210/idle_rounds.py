"""Skips rounds of a scheduler's idle loop.

If tasks take turns while all of them wait (FreeRTOS), a hart executes a loop of some hundred instructions until the
next interrupt. Every skip is proven to be correct: one more round leaves all registers and all of memory unchanged and
touches no device, so every round until the next event does the same. Afterwards the machine is, to the bit and to the
cycle, where it would be had it executed them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.k210.soc import Soc

WORTH_CYCLES = 400_000  # a proof takes some 3 ms of host time
TRY_INSTRUCTIONS = 200_000  # between two tries with lengths that were seen before, 0.1 ms each
LONGEST_ROUND = 1_000  # instructions; a search for an unknown length steps through as many, some 6 ms
FIRST_SEARCH, RAREST_SEARCH = 2_000_000, 16_000_000  # instructions between searches that find nothing
LENGTHS_KEPT = 4


@dataclass
class IdleRounds:
    """Per hart: when to try next, in instructions executed."""

    lengths: list[int] = field(default_factory=list)
    next_try: list[int] = field(default_factory=lambda: [0, 0])
    next_search: list[int] = field(default_factory=lambda: [0, 0])
    search_gap: list[int] = field(default_factory=lambda: [FIRST_SEARCH, FIRST_SEARCH])

    def skip(self, soc: Soc, index: int, limit: int) -> None:
        """Advance the hart by whole rounds, not beyond cycle `limit`; the other hart must be waiting until then."""
        executed = soc.instructions[index]
        if executed < self.next_try[index] or limit - soc.hart_cycles[index] < WORTH_CYCLES:
            return
        self.next_try[index] = executed + TRY_INSTRUCTIONS
        hart = soc.harts[index]
        touched = hart.device_accesses
        length = self._known_length(soc, index) or self._search(soc, index)
        # What happened before may have set a nearer event, or woken the other hart.
        if length and hart.device_accesses == touched and self._has_no_effect(soc, index, length):
            soc.hart_cycles[index] += (limit - soc.hart_cycles[index]) // length * length
            self.search_gap[index] = FIRST_SEARCH

    def _known_length(self, soc: Soc, index: int) -> int:
        for length in self.lengths:
            mark = soc.harts[index].fingerprint()
            if soc.run_exactly(index, length) and soc.harts[index].fingerprint() == mark:
                return length
        return 0

    def _search(self, soc: Soc, index: int) -> int:
        """The number of instructions after which the registers are the same again; 0 if that does not happen."""
        executed = soc.instructions[index]
        if executed < self.next_search[index]:
            return 0
        self.next_search[index] = executed + self.search_gap[index]
        self.search_gap[index] = min(2 * self.search_gap[index], RAREST_SEARCH)
        hart = soc.harts[index]
        mark, touched = hart.fingerprint(), hart.device_accesses
        for length in range(1, LONGEST_ROUND):
            if not soc.run_exactly(index, 1) or hart.device_accesses != touched:
                break
            if hart.fingerprint() == mark:
                self.lengths = [length, *self.lengths][:LENGTHS_KEPT]
                return length
        return 0

    @staticmethod
    def _has_no_effect(soc: Soc, index: int, length: int) -> bool:
        hart = soc.harts[index]
        soc.keep_memory()
        state, touched = hart.state(), hart.device_accesses
        return (
            soc.run_exactly(index, length)
            and hart.state() == state
            and hart.device_accesses == touched
            and soc.memory_is_as_kept()
        )
