"""The K210's devices, register by register, as their data sheets and the headers of Kendryte's SDK say.

No program runs. The tests move the clock from event to event, so every time below is exact to the cycle. After reset
the CPU runs at 390 MHz and the timers at 13 MHz, so a tick is 30 cycles.
"""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from common.arrays import Numbers
from sim.k210.devices import plic
from sim.k210.devices.dmac import AI_RX_REQUEST, SHA_RX_REQUEST, SSI_RX, SSI_TX
from sim.k210.devices.kpu import ALMOST_EMPTY, CALC_DONE
from sim.k210.soc import Soc

TICK = 30  # cycles
RAM = 0x80100000


@pytest.fixture
def soc() -> Soc:
    return Soc()


def wait(soc: Soc, cycles: int) -> None:
    """Let this many cycles pass; what is due in the last of them has then happened.

    The harts are left out, because they would sleep until the next event and take the clock with them.
    """
    end = soc.now + cycles
    while soc._events and soc._events[0][0] <= end:
        when, _, action, arguments = heapq.heappop(soc._events)
        soc.hart_cycles = [when, when]
        action(*arguments)
    soc.hart_cycles = [end, end]


def lines(soc: Soc) -> list[int]:
    """The PLIC's sources that are high."""
    return [source for source in range(plic.SOURCES) if soc.plic.level >> source & 1]


# -- PLIC (riscv-plic-1.0.0: priorities, pending bits, enables of each target, threshold, claim and complete)

PENDING, ENABLES, THRESHOLD, CLAIM = 0x1000, 0x2000, 0x200000, 0x200004
HART_1 = 0x2000  # Distance to the second hart's threshold and claim; its enables are 0x100 behind the first's.


def test_the_plic_gives_the_lowest_number_among_equals_and_nothing_at_the_threshold(soc: Soc) -> None:
    """A source needs a priority above the threshold, and of two with equal priority the lower number comes first."""
    for source, priority in ((3, 2), (40, 2), (65, 7)):
        soc.plic.write(4 * source, priority)
        soc.plic.set_level(source, True)
    soc.plic.write(ENABLES, 1 << 3)
    soc.plic.write(ENABLES + 4, 1 << 8)
    assert soc.plic.best(0) == 3
    soc.plic.write(ENABLES, 0)
    assert soc.plic.best(0) == 40
    soc.plic.write(THRESHOLD, 2)
    assert soc.plic.best(0) == 0 and not soc.plic.pending(0)
    soc.plic.write(THRESHOLD, 1)
    assert soc.plic.best(0) == 40 and soc.plic.pending(0)
    soc.plic.write(ENABLES + 8, 2)
    assert soc.plic.best(0) == 65
    assert soc.plic.best(1) == 0, "the other hart has enabled nothing"
    assert soc.plic.read(THRESHOLD) == 1 and soc.plic.read(THRESHOLD + HART_1) == 0


def test_a_source_of_priority_0_never_interrupts(soc: Soc) -> None:
    """Priority 0 means "never", even with a threshold of 0. Both are 0 after reset."""
    soc.plic.write(ENABLES, 0xFFFFFFFF)
    soc.plic.set_level(5, True)
    assert soc.plic.read(THRESHOLD) == 0 and soc.plic.read(4 * 5) == 0
    assert not soc.plic.pending(0) and soc.plic.read(CLAIM) == 0


def test_a_claimed_source_waits_for_its_completion(soc: Soc) -> None:
    """A claim clears the pending bit. Only the completion of that source lets a line that is still high come back."""
    soc.plic.write(4 * 33, 1)
    soc.plic.write(ENABLES + 0x100 + 4, 1 << 1)
    soc.plic.set_level(33, True)
    assert soc.plic.read(PENDING) == 0 and soc.plic.read(PENDING + 4) == 2
    assert soc.plic.read(CLAIM) == 0, "hart 0 has not enabled it"
    assert soc.plic.read(CLAIM + HART_1) == 33
    assert soc.plic.read(PENDING + 4) == 0 and not soc.plic.pending(1)
    soc.plic.write(CLAIM + HART_1, 32)
    soc.plic.write(CLAIM + HART_1, 66)
    assert not soc.plic.pending(1)
    soc.plic.write(CLAIM + HART_1, 33)
    assert soc.plic.pending(1) and soc.plic.read(PENDING + 4) == 2


def test_plic_registers_hold_what_hardware_holds(soc: Soc) -> None:
    """Priorities have three bits and enables three words per hart; beyond the last hart and source all is zero."""
    soc.plic.write(4 * 65, 0xFF)
    soc.plic.write(4 * 66, 0xFF)
    assert [soc.plic.read(4 * source) for source in (0, 64, 65, 66)] == [0, 0, 7, 0]
    for word in range(4):
        soc.plic.write(ENABLES + 4 * word, 0xFFFFFFFF)
        soc.plic.write(ENABLES + 4 * word, 0x01020304 + word)
        soc.plic.write(ENABLES + 0x100 + 4 * word, 0x11020304 + word)
        soc.plic.write(ENABLES + 0x200 + 4 * word, 5)
    assert [soc.plic.read(ENABLES + 4 * word) for word in range(4)] == [0x01020304, 0x01020305, 0x01020306, 0]
    assert [soc.plic.read(ENABLES + 0x100 + 4 * word) for word in range(4)] == [0x11020304, 0x11020305, 0x11020306, 0]
    assert soc.plic.read(ENABLES + 0x200) == 0
    soc.plic.write(THRESHOLD + 2 * HART_1, 3)
    assert soc.plic.read(THRESHOLD + 2 * HART_1) == 0 and soc.plic.threshold == [0, 0]


def test_pending_bits_lie_in_the_right_words(soc: Soc) -> None:
    """Sources 31, 32 and 64 lie in three words, and none of these may show a bit of another."""
    for source in (31, 32, 64):
        soc.plic.set_level(source, True)
    assert [soc.plic.read(PENDING + 4 * word) for word in range(3)] == [1 << 31, 1, 1]


# -- timers (DesignWare: load, value, control, end of interrupt, status for each of four channels of 0x14 bytes)

LOAD, VALUE, CONTROL, END, STATUS = 0x00, 0x04, 0x08, 0x0C, 0x10
STATUS_ALL, END_ALL, RAW_ALL = 0xA0, 0xA4, 0xA8
ON, USER, MASKED = 1, 2, 4


def channel(number: int, register: int) -> int:
    return 0x14 * number + register


def test_a_timer_counts_down_and_interrupts_in_the_cycle_after_zero(soc: Soc) -> None:
    """With load n, n + 1 ticks pass from the start to the interrupt, and then again and again."""
    timer = soc.timers[1]
    timer.write(channel(2, LOAD), 9)
    timer.write(channel(2, CONTROL), ON | USER)
    assert timer.read(channel(2, VALUE)) == 9 and lines(soc) == []
    wait(soc, 4 * TICK)
    assert timer.read(channel(2, VALUE)) == 5
    wait(soc, 6 * TICK - 1)
    assert timer.read(channel(2, VALUE)) == 0 and timer.read(RAW_ALL) == 0
    wait(soc, 1)
    assert timer.read(RAW_ALL) == timer.read(STATUS_ALL) == 4
    assert timer.read(channel(2, STATUS)) == 1 and timer.read(channel(1, STATUS)) == 0
    assert lines(soc) == [plic.TIMER0A_IRQ + 3], "block 1, channels 2 and 3"
    assert timer.read(channel(2, END)) == 0
    assert timer.read(RAW_ALL) == 0 and lines(soc) == []
    wait(soc, 10 * TICK - 1)
    assert timer.read(RAW_ALL) == 0
    wait(soc, 1)
    assert timer.read(RAW_ALL) == 4


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_two_channels_share_an_interrupt_line(soc: Soc, block: int, number: int) -> None:
    """By the SDK's plic.h TIMER0A is source 14 and B is 15. A carries channels 0 and 1, B carries 2 and 3."""
    timer = soc.timers[block]
    timer.write(channel(number, LOAD), 1)
    timer.write(channel(number, CONTROL), ON | USER)
    wait(soc, 2 * TICK)
    assert timer.read(RAW_ALL) == 1 << number
    assert lines(soc) == [14 + 2 * block + number // 2]


def test_a_masked_timer_counts_without_interrupting(soc: Soc) -> None:
    """The mask hides status and line but not the raw bit. Without it, what happened meanwhile becomes visible."""
    timer = soc.timers[0]
    timer.write(channel(0, LOAD), 3)
    timer.write(channel(0, CONTROL), ON | USER | MASKED)
    wait(soc, 4 * TICK)
    assert timer.read(RAW_ALL) == 1
    assert timer.read(STATUS_ALL) == timer.read(channel(0, STATUS)) == 0 and lines(soc) == []
    timer.write(channel(0, CONTROL), ON | USER)
    assert timer.read(STATUS_ALL) == 1 and lines(soc) == [14]
    wait(soc, 4 * TICK)
    assert timer.read(END_ALL) == 0
    assert timer.read(RAW_ALL) == 0 and lines(soc) == []


def test_a_timer_starts_once_and_stops_when_told(soc: Soc) -> None:
    """Writing control again does not start anew, "off" means that nothing comes, and a new load starts at once."""
    timer = soc.timers[0]
    timer.write(channel(1, CONTROL), USER)
    timer.write(channel(1, LOAD), 9)
    assert timer.read(channel(1, LOAD)) == 9
    wait(soc, 20 * TICK)
    assert timer.read(RAW_ALL) == 0, "not switched on"
    timer.write(channel(1, CONTROL), ON | USER)
    wait(soc, 5 * TICK)
    timer.write(channel(1, CONTROL), ON | USER)
    wait(soc, 5 * TICK)
    assert timer.read(RAW_ALL) == 2
    timer.read(channel(1, END))
    wait(soc, 5 * TICK)
    timer.write(channel(1, CONTROL), USER)
    wait(soc, 50 * TICK)
    assert timer.read(RAW_ALL) == 0
    timer.write(channel(1, CONTROL), ON | USER)
    wait(soc, 5 * TICK)
    timer.write(channel(1, LOAD), 19)
    wait(soc, 20 * TICK - 1)
    assert timer.read(RAW_ALL) == 0
    wait(soc, 1)
    assert timer.read(RAW_ALL) == 2


def test_one_channel_does_not_disturb_another(soc: Soc) -> None:
    """Switching channel 0 off and clearing its interrupt must leave channel 3 alone."""
    timer = soc.timers[2]
    for number in (0, 3):
        timer.write(channel(number, LOAD), 4)
        timer.write(channel(number, CONTROL), ON | USER)
    wait(soc, 5 * TICK)
    assert timer.read(STATUS_ALL) == 9
    timer.read(channel(0, END))
    assert timer.read(STATUS_ALL) == 8 and lines(soc) == [19]
    timer.write(channel(0, CONTROL), 0)
    wait(soc, 5 * TICK)
    assert timer.read(RAW_ALL) == 8


def test_a_free_running_timer_takes_all_32_bits(soc: Soc) -> None:
    """Without user mode the load register is ignored, and the interrupt comes after 2^32 ticks."""
    timer = soc.timers[0]
    timer.write(channel(0, LOAD), 5)
    timer.write(channel(0, CONTROL), ON)
    wait(soc, 100 * TICK)
    assert timer.read(RAW_ALL) == 0
    wait(soc, ((1 << 32) - 100) * TICK - 1)
    assert timer.read(RAW_ALL) == 0
    wait(soc, 1)
    assert timer.read(RAW_ALL) == 1


# -- watchdogs (DesignWare: control, time-out range, counter, restart by 0x76, status, end of interrupt)

WDT_CONTROL, WDT_RANGE, WDT_RESTART, WDT_STATUS, WDT_END = 0x00, 0x04, 0x0C, 0x10, 0x14


def resets(soc: Soc) -> int:
    """How often the chip was reset, including the reset that comes with the next step."""
    return soc.resets + soc._reset_pending


@pytest.mark.parametrize(("index", "time_out", "cycles"), [(0, 0, 65536 * 30), (1, 3, 65536 * 8 * 30)])
def test_a_watchdog_resets_after_2_to_the_16_plus_range_ticks(soc: Soc, index: int, time_out: int, cycles: int) -> None:
    """This holds for both watchdogs, and only the lowest four bits of the range count."""
    dog = soc.wdts[index]
    dog.write(WDT_RANGE, 0xF0 | time_out)
    wait(soc, 2 * cycles)
    assert soc.resets == 0, "not switched on"
    dog.write(WDT_CONTROL, 1)
    wait(soc, cycles - 1)
    assert resets(soc) == 0
    wait(soc, 1)
    assert resets(soc) == 1


def test_a_watchdogs_clock_is_divided(soc: Soc) -> None:
    """Sysctl's third threshold register has 8 bits for each watchdog, whose clock is 26 MHz / (2 × (threshold + 1))."""
    soc.sysctl.write(0x50, 0x0209)
    soc.wdts[0].write(WDT_CONTROL, 1)
    wait(soc, 65536 * 30 * 10 - 1)
    assert resets(soc) == 0
    soc.wdts[0].write(WDT_CONTROL, 0)
    soc.wdts[1].write(WDT_CONTROL, 1)
    wait(soc, 65536 * 30 * 3 - 1)
    assert resets(soc) == 0
    wait(soc, 1)
    assert resets(soc) == 1


def test_only_the_right_word_feeds_a_watchdog(soc: Soc) -> None:
    """Only 0x76 in the lowest byte feeds it, and then it takes its whole time again."""
    dog = soc.wdts[0]
    dog.write(WDT_CONTROL, 1)
    wait(soc, 65536 * 20)
    dog.write(WDT_RESTART, 0x1276)
    wait(soc, 65536 * 30 - 1)
    assert resets(soc) == 0
    dog.write(WDT_RESTART, 0x75)
    wait(soc, 1)
    assert resets(soc) == 1


def test_a_watchdog_may_interrupt_before_it_resets(soc: Soc) -> None:
    """In response mode 1 the first time-out raises the line. The second resets, unless the first was cleared."""
    dog = soc.wdts[1]
    dog.write(WDT_CONTROL, 3)
    assert dog.read(WDT_STATUS) == 0
    wait(soc, 65536 * 30)
    assert dog.read(WDT_STATUS) == 1 and lines(soc) == [22] and resets(soc) == 0
    assert dog.read(WDT_END) == 0
    assert dog.read(WDT_STATUS) == 0 and lines(soc) == []
    wait(soc, 65536 * 30)
    assert dog.read(WDT_STATUS) == 1 and resets(soc) == 0
    dog.write(WDT_RESTART, 0x76)
    assert dog.read(WDT_STATUS) == 0 and lines(soc) == []
    wait(soc, 65536 * 30)
    assert resets(soc) == 0
    wait(soc, 65536 * 30)
    assert resets(soc) == 1


def test_a_watchdog_that_is_switched_off_is_off(soc: Soc) -> None:
    """Control without its lowest bit stops it, and other registers give back what was written."""
    dog = soc.wdts[0]
    dog.write(WDT_CONTROL, 1)
    wait(soc, 65536 * 20)
    dog.write(WDT_CONTROL, 2)
    wait(soc, 65536 * 60)
    assert resets(soc) == 0 and dog.read(WDT_CONTROL) == 2


# -- DMA (DesignWare AXI: channels of 0x100 bytes; channel enable register with its write-enable byte)

ENABLE_CHANNELS, INTERRUPTS, DMA_RESET = 0x18, 0x30, 0x58
SOURCE, DESTINATION, ITEMS, SHAPE, FLOW = 0x00, 0x08, 0x10, 0x18, 0x24
STATUS_ON, CHANNEL_STATUS, SIGNAL_ON, CLEAR = 0x80, 0x88, 0x90, 0x98
MEMORY, TO_PERIPHERAL, FROM_PERIPHERAL = 0, 1, 2
DONE = 3
FIXED_SOURCE = 1 << 4


def dma(number: int, register: int) -> int:
    return 0x100 * (number + 1) + register


def prepare(soc: Soc, number: int, source: int, destination: int, items: int, flow: int, shape: int = 0) -> None:
    """Set up a transfer of `items`, of 4 bytes at both ends unless `shape` says otherwise, with all interrupts on."""
    for register, value in (
        (SOURCE, source),
        (DESTINATION, destination),
        (ITEMS, items - 1),
        (SHAPE, shape or 2 << 8 | 2 << 11),
        (FLOW, flow),
        (STATUS_ON, 0xFFFFFFFF),
    ):
        soc.dmac.write(dma(number, register), value)


def start(soc: Soc, *numbers: int) -> None:
    bits = sum(1 << number for number in numbers)
    soc.dmac.write(ENABLE_CHANNELS, bits << 8 | bits)


def test_a_block_of_memory_moves_and_its_channel_says_so(soc: Soc) -> None:
    """It takes one cycle per item (a model). Then the channel is off, and its line is high until it is cleared."""
    soc.ram_slice(RAM, 80)[:] = bytes(range(80))
    prepare(soc, 4, RAM, RAM + 0x1000, 20, MEMORY)
    assert soc.dmac.read(ENABLE_CHANNELS) == 0
    start(soc, 4)
    assert bytes(soc.ram_slice(RAM + 0x1000, 81)) == bytes(range(80)) + b"\0"
    wait(soc, 19)
    assert soc.dmac.read(ENABLE_CHANNELS) == 16 and soc.dmac.read(INTERRUPTS) == 0 and lines(soc) == []
    wait(soc, 1)
    assert soc.dmac.read(ENABLE_CHANNELS) == 0 and soc.dmac.read(INTERRUPTS) == 16
    assert soc.dmac.read(dma(4, CHANNEL_STATUS)) == DONE and soc.dmac.read(dma(3, CHANNEL_STATUS)) == 0
    assert lines(soc) == [plic.DMA0_IRQ + 4]
    soc.dmac.write(dma(4, CLEAR), 1)
    assert soc.dmac.read(dma(4, CHANNEL_STATUS)) == 2 and lines(soc) == [plic.DMA0_IRQ + 4]
    soc.dmac.write(dma(4, CLEAR), 2)
    assert soc.dmac.read(dma(4, CHANNEL_STATUS)) == 0 and lines(soc) == [] and soc.dmac.read(INTERRUPTS) == 0


def test_handshakes_have_the_sdks_numbers() -> None:
    """By sysctl_dma_select_t in sysctl.h, SSI0 receives with 0 and sends with 1, SSI1 has 2 and 3, SSI3 6 and 7."""
    assert SSI_RX == {0: 0, 2: 1, 6: 3} and SSI_TX == {1: 0, 3: 1, 7: 3}
    assert (SHA_RX_REQUEST, AI_RX_REQUEST) == (21, 22)


def test_a_fixed_source_fills_memory(soc: Soc) -> None:
    """Without increment one item is written everywhere, as memset does."""
    soc.ram_slice(RAM, 4)[:] = b"\x01\x02\x03\x04"
    prepare(soc, 0, RAM, RAM + 0x100, 3, MEMORY, 1 << 8 | 1 << 11 | FIXED_SOURCE)
    start(soc, 0)
    assert bytes(soc.ram_slice(RAM + 0x100, 8)) == b"\x01\x02" * 3 + b"\0\0"
    assert bytes(soc.ram_slice(RAM, 4)) == b"\x01\x02\x03\x04"


def test_a_peripheral_is_fed_item_by_item(soc: Soc) -> None:
    """With increment it gets what lies there, without it the first item again and again, one byte per cycle."""
    soc.ram_slice(RAM, 8)[:] = bytes(range(8))
    hasher = soc.devices["sha256"]
    soc.sysctl.write(0x64, SHA_RX_REQUEST << 6)
    for fixed in (0, FIXED_SOURCE):
        prepare(soc, 1, RAM, 0x502C0100, 4, TO_PERIPHERAL, 1 << 8 | 3 << 11 | fixed)
        start(soc, 1)
        wait(soc, 7)
        assert soc.dmac.enabled == 2
        wait(soc, 1)
        assert soc.dmac.enabled == 0
    assert hasher.block == bytes(range(8)) + b"\x00\x01" * 4  # type: ignore[attr-defined]


def test_interrupts_of_a_channel_can_be_disabled(soc: Soc) -> None:
    """Status enable hides the bit from the summary.

    Signal enable, which is on after reset, only hides it from the line.
    """
    assert soc.dmac.read(dma(5, SIGNAL_ON)) == 0xFFFFFFFF
    prepare(soc, 5, RAM, RAM + 64, 1, MEMORY)
    soc.dmac.write(dma(5, SIGNAL_ON), 0)
    start(soc, 5)
    wait(soc, 1)
    assert soc.dmac.read(INTERRUPTS) == 32 and lines(soc) == []
    soc.dmac.write(dma(5, STATUS_ON), 0)
    assert soc.dmac.read(INTERRUPTS) == 0
    soc.dmac.write(dma(5, SIGNAL_ON), 2)
    assert lines(soc) == []
    soc.dmac.write(dma(5, STATUS_ON), 2)
    assert lines(soc) == [plic.DMA0_IRQ + 5]


def test_no_status_is_enabled_after_reset(soc: Soc) -> None:
    """Only the channel's own register knows that the block is done; summary and line do not."""
    soc.dmac.write(dma(1, SOURCE), RAM)
    soc.dmac.write(dma(1, DESTINATION), RAM + 64)
    start(soc, 1)
    wait(soc, 1)
    assert soc.dmac.read(dma(1, CHANNEL_STATUS)) == DONE
    assert soc.dmac.read(INTERRUPTS) == 0 and lines(soc) == []


def test_channels_start_and_stop_only_with_their_write_enable(soc: Soc) -> None:
    """The second byte of the enable register says which bits of the first one are meant."""
    for number in (0, 1, 2):
        prepare(soc, number, RAM, RAM + 0x100 * (number + 1), 64, MEMORY)
    soc.dmac.write(ENABLE_CHANNELS, 0b010 << 8 | 0b111)
    assert soc.dmac.enabled == 0b010
    start(soc, 2)
    assert soc.dmac.enabled == 0b110
    soc.dmac.write(ENABLE_CHANNELS, 0b010 << 8)
    assert soc.dmac.enabled == 0b100
    wait(soc, 64)
    assert soc.dmac.status[:3] == [0, 0, DONE], "a channel that was switched off does not report"
    assert soc.dmac.read(DMA_RESET) == 0


def test_a_peripheral_fills_memory_through_the_channel_that_waits_for_it(soc: Soc) -> None:
    """Two channels wait for different handshakes. Too little data is padded, and too much is left out."""
    for number, request, items in ((1, AI_RX_REQUEST, 4), (5, 6, 3)):
        prepare(soc, number, 0x40800030, RAM + 0x100 * number, items, FROM_PERIPHERAL, 3 << 8 | 3 << 11)
        soc.sysctl.write(0x68 if number == 5 else 0x64, request << (6 * number % 30))
    assert soc.dmac.receiver(AI_RX_REQUEST) is None, "not switched on yet"
    start(soc, 1, 5)
    assert (soc.dmac.receiver(AI_RX_REQUEST), soc.dmac.receiver(6), soc.dmac.receiver(7)) == (1, 5, None)
    assert soc.dmac.room(1) == (4, 8) and soc.dmac.room(5) == (3, 8)
    soc.dmac.deliver(1, b"\x11" * 40, 7)
    assert soc.dmac.receiver(AI_RX_REQUEST) is None
    assert bytes(soc.ram_slice(RAM + 0x100, 40)) == b"\x11" * 32 + bytes(8)
    soc.ram_slice(RAM + 0x500, 24)[:] = b"\xff" * 24
    soc.dmac.deliver(5, b"\x22" * 5, 9)
    assert bytes(soc.ram_slice(RAM + 0x500, 24)) == b"\x22" * 5 + bytes(19)
    wait(soc, 7)
    assert soc.dmac.enabled == 32 and soc.dmac.status[1] == DONE
    wait(soc, 2)
    assert soc.dmac.enabled == 0 and soc.dmac.status[5] == DONE


def test_a_waiting_channel_can_be_called_off(soc: Soc) -> None:
    """If it is switched off while it waits, the peripheral's data finds no channel."""
    prepare(soc, 0, 0, RAM, 1, FROM_PERIPHERAL)
    soc.sysctl.write(0x64, AI_RX_REQUEST)
    start(soc, 0)
    soc.dmac.write(ENABLE_CHANNELS, 1 << 8)
    assert soc.dmac.receiver(AI_RX_REQUEST) is None


@pytest.mark.parametrize(("request_number", "cycles"), [(SHA_RX_REQUEST, 16), (30, 4)])
def test_memory_goes_to_a_peripheral(soc: Soc, request_number: int, cycles: int) -> None:
    """SHA takes one byte per cycle. A peripheral without a model takes one item per cycle and keeps nothing."""
    prepare(soc, 2, RAM, 0, 4, TO_PERIPHERAL)
    soc.sysctl.write(0x64, request_number << 12)
    start(soc, 2)
    wait(soc, cycles - 1)
    assert soc.dmac.status[2] == 0
    wait(soc, 1)
    assert soc.dmac.status[2] == DONE


def polls(soc: Soc, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cycles at which a device said that the program may sleep."""
    found: list[int] = []
    monkeypatch.setattr(soc, "poll_busy", lambda: found.append(soc.now))
    return found


def test_a_program_that_polls_a_busy_dma_channel_may_sleep(soc: Soc, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for the enable register while any channel is on, and for a channel's own while it has no status."""
    asked = polls(soc, monkeypatch)
    registers = ENABLE_CHANNELS, dma(1, CHANNEL_STATUS), dma(2, CHANNEL_STATUS)

    def read() -> list[int]:
        """Polls by reading each of the registers."""
        counts = []
        for register in registers:
            before = len(asked)
            soc.dmac.read(register)
            counts.append(len(asked) - before)
        return counts

    assert read() == [0, 0, 0]
    prepare(soc, 1, RAM, RAM + 0x100, 4, MEMORY)
    start(soc, 1)
    assert read() == [1, 1, 0]
    wait(soc, 4)
    assert read() == [0, 0, 0]
    start(soc, 1)
    assert read() == [1, 0, 0], "the status of the block before still stands"


# -- KPU (SDK, kpu.h: layer FIFO of 12 words, interrupt status, raw, mask and clear, output FIFO)

FIFO, KPU_STATUS, KPU_RAW, KPU_MASK, KPU_CLEAR, EIGHT_BIT = 0x00, 0x08, 0x10, 0x18, 0x20, 0x40
LAYER_SECONDS = 100 / 390e6


def push_layer(soc: Soc, first: int) -> tuple[int, ...]:
    """Write twelve words, each in two halves."""
    words = (first, *(0x0123456700000000 + 3 * index for index in range(1, 12)))
    for word in words:
        soc.kpu.write(FIFO, word & 0xFFFFFFFF)
        soc.kpu.write(FIFO + 4, word >> 32)
    return words


def test_a_reset_forgets_half_a_word(soc: Soc) -> None:
    soc.kpu.write(FIFO, 7)
    soc.kpu.reset()
    soc.kpu.write(FIFO + 4, 5)
    assert soc.kpu.words == [5 << 32]


def attach(soc: Soc, outputs: list[bytes]) -> list[tuple[tuple[int, ...], bool]]:
    """Attach an engine that only notes what it was asked for; the real one has tests of its own.

    Each layer takes 100 cycles and gives the next of `outputs`.
    """
    asked: list[tuple[tuple[int, ...], bool]] = []

    def execute(words: tuple[int, ...], eight_bit: bool, chip: Soc) -> tuple[Numbers | None, float]:
        assert chip is soc
        asked.append((words, eight_bit))
        output = outputs[len(asked) - 1]
        return (np.frombuffer(output, np.uint8) if output else None), LAYER_SECONDS

    soc.kpu.execute = execute
    return asked


def test_layers_queue_and_only_the_last_interrupts(soc: Soc) -> None:
    """Bit 0 of a layer's first word asks for the interrupt. The raw status shows the end of the queue in any case."""
    asked = attach(soc, [b"", b"", b""])
    busy: list[bool] = []
    soc.kpu.on_busy = busy.append
    soc.kpu.write(KPU_MASK, 6)
    soc.kpu.write(EIGHT_BIT, 1)
    words = [push_layer(soc, first) for first in (0xABCD00000000, 0xABCD00000002, 0xABCD00000003)]
    assert asked == [(words[0], True)], "one at a time"
    wait(soc, 100)
    assert len(asked) == 2 and soc.kpu.read(KPU_RAW) == 0 and lines(soc) == []
    wait(soc, 100)
    assert soc.kpu.read(KPU_RAW) == 0
    wait(soc, 99)
    assert soc.kpu.read(KPU_RAW) == 0 and soc.kpu.busy
    wait(soc, 1)
    assert asked == [(word, True) for word in words]
    assert soc.kpu.read(KPU_RAW) == CALC_DONE | ALMOST_EMPTY and soc.kpu.read(KPU_STATUS) == CALC_DONE
    assert lines(soc) == [plic.KPU_IRQ] and not soc.kpu.busy
    assert (soc.kpu.layers_run, soc.kpu.busy_cycles) == (3, 300)
    assert busy == [True, False] * 3
    soc.kpu.write(KPU_CLEAR, CALC_DONE)
    assert soc.kpu.read(KPU_STATUS) == 0 and lines(soc) == []
    soc.kpu.write(KPU_MASK, 0)
    assert soc.kpu.read(KPU_STATUS) == ALMOST_EMPTY and lines(soc) == [plic.KPU_IRQ]
    soc.kpu.write(KPU_MASK, 7)
    assert lines(soc) == []


def test_everything_is_masked_after_reset(soc: Soc) -> None:
    """The end of a layer raises no line until the program opens the mask, and 8-bit mode is off."""
    asked = attach(soc, [b""])
    push_layer(soc, 1)
    wait(soc, 100)
    assert soc.kpu.read(KPU_RAW) == 3 and soc.kpu.read(KPU_STATUS) == 0 and lines(soc) == []
    assert not asked[0][1] and soc.kpu.read(KPU_MASK) == 7


def test_output_waits_for_dma_and_takes_8_bytes_a_cycle(soc: Soc) -> None:
    """The output of two layers is one stream. A DMA block takes its length of it, and nothing is left for the next."""
    attach(soc, [b"\x01" * 24, b"\x02" * 40])
    push_layer(soc, 0)
    push_layer(soc, 0)
    wait(soc, 200)
    prepare(soc, 3, 0x40800030, RAM, 6, FROM_PERIPHERAL, 3 << 8 | 3 << 11)
    soc.sysctl.write(0x64, AI_RX_REQUEST << 18)
    start(soc, 3)
    assert bytes(soc.ram_slice(RAM, 48)) == b"\x01" * 24 + b"\x02" * 24
    wait(soc, 5)
    assert soc.dmac.status[3] == 0
    wait(soc, 1)
    assert soc.dmac.status[3] == DONE
    assert soc.kpu.output == b""


def test_a_dma_channel_may_wait_first(soc: Soc) -> None:
    """The usual order is that DMA is set up before the layers run."""
    attach(soc, [b"\x07" * 16])
    prepare(soc, 0, 0x40800030, RAM, 2, FROM_PERIPHERAL, 3 << 8 | 3 << 11)
    soc.sysctl.write(0x64, AI_RX_REQUEST)
    start(soc, 0)
    push_layer(soc, 1)
    wait(soc, 102)
    assert bytes(soc.ram_slice(RAM, 16)) == b"\x07" * 16 and soc.dmac.status[0] == DONE
    assert soc.kpu.output == b""


def test_a_program_that_polls_a_busy_kpu_may_sleep(soc: Soc, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may sleep while the KPU computes and the end of no earlier layer has been noted."""
    attach(soc, [b""] * 4)
    asked = polls(soc, monkeypatch)
    for register in (KPU_STATUS, KPU_RAW):
        soc.kpu.write(KPU_CLEAR, 7)
        soc.kpu.read(register)
        assert asked == []
        push_layer(soc, 1)
        soc.kpu.read(register)
        assert asked == [soc.now]
        push_layer(soc, 1)
        wait(soc, 100)
        soc.kpu.read(register)
        assert len(asked) == 1, "the first of two layers is done"
        wait(soc, 100)
        soc.kpu.read(register)
        assert len(asked) == 1
        asked.clear()
