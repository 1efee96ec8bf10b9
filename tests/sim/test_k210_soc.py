"""The K210 emulator's harts, memory and devices, exercised by RISC-V programs of our own."""

from __future__ import annotations

import ctypes
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic_kmodel import make_model
from common import rgb565, rom_image
from common.arrays import Picture
from common.errors import FormatError
from common.flash_map import FLASH_BYTES
from model_build.engines.kpu_layer import execute_layer
from model_build.kpu import ram, registers
from sim.k210 import firmware_image, hart, idle_rounds, kpu_engine
from sim.k210.chips.axp import axp202
from sim.k210.chips.sd_card import SdCard
from sim.k210.chips.st7789 import BGR, MV, MX, MY, St7789
from sim.k210.chips.w25q128 import W25q128
from sim.k210.devices.i2c import Wired
from sim.k210.profiles import PROFILES
from sim.k210.soc import ChipFaultError, Soc
from sim.parts.camera_sensors import Gc0328, Gc2145, Ov2640, Ov3660, Ov5640, Ov7740
from tests.support.riscv_programs import (
    ENABLE,
    LOAD,
    LOAD64,
    STORE,
    STORE64,
    WAIT_IRQ,
    assemble,
    poll,
    run,
    run_script,
)

RESULT = 0x80030000
PLIC, SPI3, SPI0, DMAC, SYSCTL = 0x0C000000, 0x54000000, 0x52000000, 0x50000000, 0x50440000
MEIE, MTIE, MSIE = 1 << 11, 1 << 7, 1 << 3


def words(soc: Soc, count: int) -> list[int]:
    return [word for (word,) in struct.iter_unpack("<Q", bytes(soc.ram_slice(RESULT, 8 * count)))]


def irq(source: int) -> list[tuple[int, int, int]]:
    """The script entries that let one PLIC source through to hart 0."""
    enable = PLIC + 0x2000 + 4 * (source // 32)
    return [(STORE, PLIC + 4 * source, 1), (STORE, enable, 1 << source % 32)]


# -- harts


def test_both_harts_run_and_signal_each_other() -> None:
    """Hart 1 waits in wfi. Hart 0's software interrupt must wake it, and it must have its own mhartid."""
    soc = Soc()
    source = """
        csrr a0, mhartid
        li s0, 0x80030000
        bnez a0, one
        li t0, 0x02000000
        li t1, 1
        sw t1, 4(t0)
    1:  ld t2, 0(s0)
        beqz t2, 1b
        li t3, 7
        sd t3, 8(s0)
    2:  j 2b
    one:
        li t0, 8
        csrw mie, t0
        wfi
        csrr t1, mip
        addi t2, a0, 100
        sd t1, 16(s0)
        sd t2, 0(s0)
    3:  j 3b
    """
    run(soc, source, lambda: words(soc, 2)[1] == 7)
    assert words(soc, 3) == [101, 7, 8]


def test_a_pending_interrupt_is_taken_on_the_instruction_that_unmasks_it() -> None:
    """A scheduler's yield relies on it: mepc is the instruction directly after the csrsi."""
    soc = Soc()
    source = """
        csrr a0, mhartid
        bnez a0, park
        la t0, trap
        csrw mtvec, t0
        li t0, 8
        csrw mie, t0
        li t1, 0x02000000
        li t2, 1
        sw t2, 0(t1)
        li a0, 0
        addi a0, a0, 1
        csrsi mstatus, 8
    here:
        addi a0, a0, 1
    park: j park
    .align 4
    trap:
        li s0, 0x80030000
        csrr t3, mepc
        la t4, here
        sub t3, t3, t4
        sd t3, 8(s0)
        sd a0, 16(s0)
        csrr t5, mcause
        sd t5, 24(s0)
        sw zero, 0(t1)
        li t6, 1
        sd t6, 0(s0)
        mret
    """
    run(soc, source, lambda: words(soc, 1) == [1])
    assert words(soc, 4) == [1, 0, 1, 1 << 63 | 3]


def test_ecall_returns_behind_itself() -> None:
    """newlib's system calls use ecall, with cause 11 and mepc at the instruction itself."""
    soc = Soc()
    source = """
        la t0, trap
        csrw mtvec, t0
        li s0, 0x80030000
        ecall
        sd a1, 8(s0)
        li t0, 1
        sd t0, 0(s0)
    1:  j 1b
    .align 4
    trap:
        csrr a1, mcause
        csrr t1, mepc
        addi t1, t1, 4
        csrw mepc, t1
        mret
    """
    run(soc, source, lambda: words(soc, 1) == [1])
    assert words(soc, 2) == [1, 11]


def test_cached_and_uncached_memory_are_the_same() -> None:
    """Programs build frames at one address, and DMA reads them at the other.

    The KPU's RAM has two addresses as well.
    """
    soc = Soc()
    assert run_script(
        soc,
        [
            (STORE64, 0x80100000, 0x1122334455667788),
            (LOAD64, 0x40100000, 0),
            (STORE64, 0x40600000, 5),
            (LOAD64, 0x80600000, 0),
            (LOAD, 0, 0),
        ],
    ) == [0x1122334455667788, 5, 0]
    assert soc.kpu_ram[0] == 5


def test_an_access_to_nothing_says_where() -> None:
    """A program that runs wild must end the run with an address and a pc and must not crash the host."""
    soc = Soc()
    with pytest.raises(ChipFaultError, match=r"read of 0x60000000 .*pc 0x8000"):
        run_script(soc, [(LOAD, 0x60000000, 0)])


# -- time


DELAY = """
    csrr a0, mhartid
    bnez a0, park
    li s0, 0x80030000
    csrr s1, mcycle
    li t0, 40000000
1:  csrr t1, mcycle
    sub t1, t1, s1
    bltu t1, t0, 1b
    sd t1, 8(s0)
    li t2, 1
    sd t2, 0(s0)
park: j park
"""


def test_delay_loops_cost_virtual_time_and_hardly_any_work() -> None:
    """usleep waits for mcycle in a loop, which would cost this computer much time for nothing.

    40 million cycles must pass, within 4 %, in far fewer instructions and always in the same number.
    """
    seen = []
    for _ in range(2):
        soc = Soc()
        run(soc, DELAY, lambda soc=soc: words(soc, 1) == [1], 400_000)  # type: ignore[misc]
        seen.append((words(soc, 2), soc.hart_cycles[0], tuple(soc.instructions)))
    assert 40_000_000 <= seen[0][0][1] < 41_600_000
    assert seen[0] == seen[1]


def test_cycle_reads_are_rewritten_only_where_they_are_reads() -> None:
    """`csrr rd, mcycle` is rewritten for every rd, but neither csrw mcycle nor csrr of another register."""
    code = assemble("csrr a5, mcycle\ncsrr t6, mcycle\nrdcycle s0\ncsrw mcycle, a0\ncsrr a0, mcause\n")
    changed = firmware_image.rewrite_cycle_reads(code)
    assert [code[i : i + 4] != changed[i : i + 4] for i in range(0, 20, 4)] == [True, True, True, False, False]
    assert changed[:4] == assemble("ld a5, 0x7f8(x0)")[:4]


def test_timer_interrupt_wakes_wfi_at_its_cycle() -> None:
    """mtimecmp is 10000 ticks of 50 cycles, and idle time is skipped."""
    soc = Soc()
    script = [(STORE64, 0x02004000, 10_000), (ENABLE, 0, MTIE), (WAIT_IRQ, 0, 1), (LOAD64, 0x0200BFF8, 0)]
    (ticks,) = run_script(soc, script, 50_000)
    assert 10_000 <= ticks < 10_010
    assert soc.instructions[0] < 10_000


def test_a_loop_with_effects_is_not_skipped() -> None:
    """A counter in memory leaves all registers as they were. Such a loop must run in full, unlike a real idle loop."""
    soc = Soc()
    source = """
        csrr a0, mhartid
        bnez a0, park
        li s0, 0x80030000
    1:  ld t0, 8(s0)
        addi t0, t0, 1
        sd t0, 8(s0)
        li t0, 0
        j 1b
    park: j park
    """
    soc.load_program(assemble(source))
    soc.run_until(lambda: soc.hart_cycles[0] > 2_000_000)
    assert words(soc, 2)[1] >= 2_000_000 // 6
    assert soc.instructions[1] < soc.instructions[0] // 10


def test_the_register_file_is_sought_in_the_cpus_own_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one of six processes an object lay close before the CPU's, and the emulator crashed (SIGSEGV).

    That happened with the second engine, in which the object was elsewhere.
    """
    before, cpu, state, pointer = 64, 2048, 8192, 296
    memory = (ctypes.c_uint64 * 2048)()
    base = ctypes.addressof(memory)
    memory[(cpu + pointer) // 8] = base + state
    memory[state // 8 + 1] = 0x1122334455667788
    memory[(state + hart.PC_OFFSET_BYTES) // 8] = 0x0123456789ABCDE0
    engine = (ctypes.c_uint64 * hart.ENGINE_WORDS)()
    engine[2], engine[55] = base + before, base + cpu
    monkeypatch.setattr(hart, "_engine_address", lambda _: ctypes.addressof(engine))
    assert hart._Layout._find_state(object()) == (8 * 55, pointer)  # type: ignore[arg-type]


def test_soft_reset_starts_again_and_says_so() -> None:
    """A write to sysctl.soft_reset ends everything after that instruction, and reset_status tells the cause."""
    soc = Soc()
    soc.load_program(assemble("li t0, 0x50440000\nli t1, 1\nsw t1, 0x30(t0)\nli s0, 0x80030000\nsd t1, 0(s0)\n1: j 1b"))
    soc.run_until(lambda: soc.resets == 1, 100_000)
    assert words(soc, 1) == [0] and soc.sysctl.read(0x60) == 1 << 4
    assert soc.harts[0].pc == 0x80000000


# -- interrupt controller and serial lines


def test_uarths_receives_by_interrupt() -> None:
    """A byte from the host raises source 33 through the PLIC, and the answer takes a byte's time on the line."""
    soc = Soc()
    out: list[bytes] = []
    soc.uarths.on_output = out.append
    soc.uarths.send(b"Q")
    seen = run_script(
        soc,
        [
            (STORE, 0x38000018, 3471),
            (STORE, 0x38000010, 2),
            *irq(33),
            (ENABLE, 0, MEIE),
            (WAIT_IRQ, 0, 1),
            (LOAD, 0x38000004, 0),
            (LOAD, 0x38000004, 0),
            (STORE, 0x38000000, ord("Z")),
        ],
    )
    assert seen == [33, ord("Q"), 1 << 31]
    assert b"".join(out) == b"Z"
    assert soc.now >= 10 / 115200 * soc.sysctl.cpu_hz


def test_plic_serves_the_higher_priority_first_and_respects_the_threshold() -> None:
    """Of two sources, the one with priority 5 comes before the one with 2, and nothing passes threshold 7."""
    soc = Soc()
    soc.plic.write(4 * 33, 2)
    soc.plic.write(4 * 24, 5)
    soc.plic.write(0x2000, 1 << 24)
    soc.plic.write(0x2004, 1 << 1)
    soc.plic.set_level(33, True)
    soc.plic.set_level(24, True)
    assert soc.plic.read(0x200004) == 24
    assert soc.plic.read(0x200004) == 33
    assert soc.plic.read(0x200004) == 0
    soc.plic.write(0x200004, 24)
    assert soc.plic.pending(0)
    soc.plic.write(0x200000, 7)
    assert not soc.plic.pending(0)


def test_uart3_status_bit_5_means_full_with_programmable_threshold() -> None:
    """kflash's stub waits while LSR bit 5 is set with IER bit 7 on. Without that bit it means "empty"."""
    soc = Soc()
    seen = run_script(soc, [(LOAD, 0x50230014, 0), (STORE, 0x50230004, 0x80), (LOAD, 0x50230014, 0)])
    assert seen == [0x60, 0x40]


# -- flash, DMA, SPI


def spi3_read(command: list[int], count: int) -> list[tuple[int, int, int]]:
    """An EEPROM-mode message on SPI3: the command's bytes are sent and `count` frames are received."""
    return [
        (STORE, SPI3 + 0x08, 0),
        (STORE, SPI3 + 0x00, 7 | 3 << 10),
        (STORE, SPI3 + 0x04, count - 1),
        (STORE, SPI3 + 0x08, 1),
        *[(STORE, SPI3 + 0x60, byte) for byte in command],
        (STORE, SPI3 + 0x10, 1),
        *[(LOAD, SPI3 + 0x60, 0)] * count,
        (STORE, SPI3 + 0x10, 0),
    ]


def spi3_write(command: list[int]) -> list[tuple[int, int, int]]:
    """A message on SPI3 that only sends."""
    return [
        (STORE, SPI3 + 0x08, 0),
        (STORE, SPI3 + 0x00, 7 | 1 << 10),
        (STORE, SPI3 + 0x08, 1),
        (STORE, SPI3 + 0x10, 1),
        *[(STORE, SPI3 + 0x60, byte) for byte in command],
        poll(SPI3 + 0x28, 5, 4),
        (STORE, SPI3 + 0x10, 0),
    ]


def flash_soc() -> tuple[Soc, W25q128]:
    soc = Soc()
    flash = W25q128()
    soc.spi[3].slaves[0] = flash
    return soc, flash


def test_flash_identifies_itself_and_programs_only_after_write_enable() -> None:
    """Programs ask for the JEDEC and 0x90 ids. A page program only clears bits, and only after a write enable."""
    soc, flash = flash_soc()
    program = [0x02, 0x12, 0x34, 0x56, 0xF0, 0x0F]
    seen = run_script(
        soc,
        [
            *spi3_read([0x9F], 3),
            *spi3_read([0x90, 0, 0, 0], 2),
            *spi3_write(program),
            *spi3_read([0x03, 0x12, 0x34, 0x56], 2),
            *spi3_write([0x06]),
            *spi3_read([0x05], 1),
            *spi3_write(program),
            *spi3_read([0x03, 0x12, 0x34, 0x56], 2),
            *spi3_read([0x05], 1),
        ],
    )
    assert seen == [0xEF, 0x40, 0x18, 0xEF, 0x17, 0xFF, 0xFF, 2, 0xF0, 0x0F, 0]
    assert flash.memory[0x123456] == 0xF0


def test_flash_page_program_wraps_and_sector_erase_is_aligned() -> None:
    """By Winbond's data sheet an address beyond the page wraps to its start, and 0x20 erases the 4 KiB around it."""
    soc, flash = flash_soc()
    flash.memory[0x1000:0x3000] = bytes(0x2000)
    run_script(soc, [*spi3_write([0x06]), *spi3_write([0x20, 0, 0x1F, 0xFF])])
    assert flash.memory[0x1000:0x2000] == b"\xff" * 4096 and flash.memory[0x2000] == 0
    run_script(soc, [*spi3_write([0x06]), *spi3_write([0x02, 0, 0x10, 0xFE, 1, 2, 3, 4])])
    assert flash.memory[0x10FE:0x1100] == b"\x01\x02" and flash.memory[0x1000:0x1002] == b"\x03\x04"


def test_quad_read_by_dma_takes_the_time_of_its_clocks() -> None:
    """The firmware reads like this: 0xEB frames, DMA channel 1 from SPI3 to memory, and a status at the end."""
    soc, flash = flash_soc()
    flash.memory[0x20000 : 0x20000 + 256] = bytes(range(256))
    channel, target = DMAC + 0x200, 0x80100000
    run_script(
        soc,
        [
            (STORE, SYSCTL + 0x20, 1 | 1 << 12),
            (STORE, SPI3 + 0x14, 16),
            (STORE, SPI3 + 0x00, 7 | 3 << 10 | 2 << 22),
            (STORE, SPI3 + 0xF4, 2 << 8 | 8 << 2 | 4 << 11 | 1),
            (STORE, SPI3 + 0x04, 255),
            (STORE, SPI3 + 0x08, 1),
            (STORE, SYSCTL + 0x64, 6 << 6),
            (STORE64, channel + 0x00, SPI3 + 0x60),
            (STORE64, channel + 0x08, target),
            (STORE64, channel + 0x10, 255),
            (STORE64, channel + 0x18, 1 << 4 | 2 << 8 | 2 << 11),
            (STORE64, channel + 0x20, 2 << 32),
            (STORE64, channel + 0x80, 2),
            (STORE64, DMAC + 0x18, 0x202),
            (STORE, SPI3 + 0x60, 0xEB),
            (STORE, SPI3 + 0x60, 0x20000 << 8),
            (STORE, SPI3 + 0x10, 1),
            poll(DMAC + 0x18, 2, 0),
        ],
    )
    received = np.frombuffer(bytes(soc.ram_slice(target, 1024)), "<u4")
    assert list(received) == list(range(256))
    cycles_per_byte = 2 * 16 * soc.sysctl.cpu_hz / soc.sysctl.spi_hz(3)
    assert soc.now >= 256 * cycles_per_byte


def test_dma_memory_to_memory_raises_its_interrupt() -> None:
    """Channel 2 copies 64 words, and interrupt source 29 follows."""
    soc = Soc()
    soc.ram_slice(0x80100000, 256)[:] = bytes(range(256))
    channel = DMAC + 0x300
    seen = run_script(
        soc,
        [
            *irq(29),
            (STORE64, channel + 0x00, 0x80100000),
            (STORE64, channel + 0x08, 0x40200000),
            (STORE64, channel + 0x10, 63),
            (STORE64, channel + 0x18, 2 << 8 | 2 << 11),
            (STORE64, channel + 0x20, 0),
            (STORE64, channel + 0x80, 2),
            (ENABLE, 0, MEIE),
            (STORE64, DMAC + 0x18, 0x404),
            (WAIT_IRQ, 0, 1),
            (LOAD64, channel + 0x88, 0),
        ],
    )
    assert seen == [29, 3]
    assert bytes(soc.ram_slice(0x80200000, 256)) == bytes(range(256))


def test_the_display_has_the_right_window_orientation_and_colours() -> None:
    """Commands and pixels go through SPI0 and the D/C pin as the firmware sends them, with 32-bit frames for pixels.
    Nothing is seen of them while the display is off."""
    soc = Soc()
    lcd = St7789(lambda: soc.gpiohs.level(31))
    soc.spi[0].slaves[3] = lcd
    frames = []
    lcd.on_frame(lambda shown: frames.append(shown.image()))

    def send(values: list[int], data: bool, bits: int) -> list[tuple[int, int, int]]:
        return [
            (STORE, 0x3800100C, 1 << 31 if data else 0),
            (STORE, SPI0 + 0x08, 0),
            (STORE, SPI0 + 0x00, (bits - 1) << 16 | 1 << 8),
            (STORE, SPI0 + 0x08, 1),
            (STORE, SPI0 + 0x10, 8),
            *[(STORE, SPI0 + 0x60, value) for value in values],
            poll(SPI0 + 0x28, 5, 4),
            (STORE, SPI0 + 0x10, 0),
        ]

    script = []
    for command, parameters in ((0x36, [MY | MV]), (0x2A, [0, 10, 0, 11]), (0x2B, [0, 20, 0, 21])):
        script += send([command], False, 8) + send(parameters, True, 8)
    script += send([0x2C], False, 8) + send([0xF80007E0, 0x001FFFFF], True, 32)
    run_script(soc, script)
    assert not lcd.image().any() and len(frames) == 1
    run_script(soc, send([0x29], False, 8))
    picture = lcd.image()
    assert picture.shape == (240, 320, 3)
    assert picture[20, 10].tolist() == [255, 0, 0] and picture[20, 11].tolist() == [0, 255, 0]
    assert picture[21, 10].tolist() == [0, 0, 255] and picture[21, 11].tolist() == [255, 255, 255]
    assert picture.sum() == 255 * 6


# -- pins, timers, small devices


def test_pins_follow_the_multiplexer() -> None:
    """A button on pad 16 is seen through GPIOHS 0, with an interrupt on its falling edge."""
    soc = Soc()
    run_script(soc, [(STORE, 0x502B0000 + 4 * 16, 24), (STORE, 0x38001020, 1)])
    soc.fpioa.set_input(16, 1)
    assert run_script(soc, [(STORE, 0x502B0000 + 4 * 16, 24), (LOAD, 0x38001000, 0)])[0] & 1 == 1
    soc.fpioa.set_input(16, 0)
    seen = run_script(
        soc, [(LOAD, 0x38001000, 0), (LOAD, 0x38001024, 0)] + [(STORE, 0x38001024, 1), (LOAD, 0x38001024, 0)]
    )
    assert (seen[0] & 1, seen[1] & 1, seen[2] & 1) == (0, 1, 0)


def test_a_timer_interrupts_a_program_twice() -> None:
    """Timer 1, channel 0, counts 1300 ticks at 26 MHz / 2 and raises source 16 each time."""
    soc = Soc()
    base = 0x502E0000
    seen = run_script(
        soc,
        [
            *irq(16),
            (STORE, base + 0x00, 1299),
            (ENABLE, 0, MEIE),
            (STORE, base + 0x08, 3),
            (WAIT_IRQ, 0, 1),
            (LOAD, base + 0x0C, 0),
            *irq(16),
            (WAIT_IRQ, 0, 2),
        ],
    )
    assert seen == [16, 0, 16]
    assert soc.now >= 2 * 1300 / 13e6 * soc.sysctl.cpu_hz


def test_watchdog_resets_unless_fed() -> None:
    """2^16 ticks at 13 MHz are 5 ms."""
    soc = Soc()
    soc.load_program(assemble("li t0, 0x50400000\nli t1, 1\nsw zero, 4(t0)\nsw t1, 0(t0)\n1: j 1b"))
    assert soc.run_until(lambda: soc.resets == 1, 10_000_000)
    assert abs(soc.now / soc.sysctl.cpu_hz - 65536 / 13e6) < 0.001


def test_sha256_block_agrees_with_hashlib() -> None:
    """The program pads and feeds words, and the result registers hold the digest in reverse order of words."""
    soc = Soc()
    message = b"emulated" * 9
    padded = message + b"\x80" + bytes(128 - len(message) - 9) + (8 * len(message)).to_bytes(8, "big")
    base = 0x502C0000
    script = [(STORE, base + 0x28, 2), (STORE, base + 0x2C, 1)]
    script += [(STORE, base + 0x20, word) for (word,) in struct.iter_unpack("<I", padded)]
    script += [(LOAD, base + 4 * (7 - i), 0) for i in range(8)]
    seen = run_script(soc, script)
    assert b"".join(word.to_bytes(4, "little") for word in seen) == hashlib.sha256(message).digest()


def test_clock_registers_give_the_frequencies_that_the_sdk_computes() -> None:
    """With PLL0 at 806 MHz, as MaixPy sets it, the CPU runs at 403 MHz."""
    soc = Soc()
    run_script(soc, [(STORE, SYSCTL + 0x08, 0 << 0 | 30 << 4 | 0 << 10), (STORE, SYSCTL + 0x20, 1)])
    assert soc.sysctl.cpu_hz == 403_000_000


def test_calendar_runs_on_virtual_time() -> None:
    """Set to 23:59:59, it is on the next day two seconds later."""
    soc = Soc()
    base = 0x50460000
    run_script(
        soc,
        [
            (STORE, base + 0x00, 28 << 8 | 2 << 16 | 24 << 20),
            (STORE, base + 0x04, 59 << 10 | 59 << 16 | 23 << 24),
            (STORE64, 0x02004000, int(2.2 * soc.sysctl.cpu_hz / 50)),
            (ENABLE, 0, MTIE),
            (WAIT_IRQ, 0, 1),
        ],
    )
    date, clock = run_script(soc, [(LOAD, base, 0), (LOAD, base + 4, 0)])
    assert (date >> 20, date >> 16 & 15, date >> 8 & 31) == (24, 2, 29)
    assert clock >> 24 == 0


# -- camera


@pytest.mark.parametrize(
    ("sensor", "where"),
    [
        (Ov2640, {0x0A: 0x26, 0x0B: 0x42}),
        (Gc0328, {0xF0: 0x9D}),
        (Ov7740, {0x0A: 0x77, 0x0B: 0x42}),
        (Gc2145, {0xF0: 0x21, 0xF1: 0x45}),
    ],
)
def test_cameras_identify_themselves_on_the_bus(sensor: Any, where: dict[int, int]) -> None:
    """MaixPy reads these registers over I2C2 to find the sensor. Other addresses must not be acknowledged."""
    soc = Soc()
    soc.i2c[2].slaves[sensor.address] = Wired(sensor())
    base = 0x502A0000
    for register, expected in where.items():
        script = [(STORE, base + 4, sensor.address), (STORE, base + 0x6C, 1), (STORE, base + 0x10, register)]
        script += [poll(base + 0x70, 4, 4), (STORE, base + 0x10, 0x100), (LOAD, base + 0x10, 0), (LOAD, base + 0x80, 0)]
        assert run_script(soc, script) == [expected, 0]
    absent_chip = [(STORE, base + 4, 0x55), (STORE, base + 0x10, 0), (LOAD, base + 0x80, 0), (LOAD, base + 0x54, 0)]
    assert run_script(soc, [*absent_chip, (LOAD, base + 0x80, 0)]) == [1, 0, 0]


@pytest.mark.parametrize(("sensor", "chip"), [(Ov5640, 0x5640), (Ov3660, 0x3660)])
def test_sensors_with_long_addresses_hide_from_short_ones(sensor: type, chip: int) -> None:
    """MaixPy first looks with 8-bit register addresses, which must find nothing, and then with 16-bit ones."""
    camera = sensor()
    for register in (0x0A, 0x0B):
        camera.i2c_write(bytes([register]))
        assert camera.i2c_read() == 0
    for register, value in ((0x300A, chip >> 8), (0x300B, chip & 0xFF)):
        camera.i2c_write(register.to_bytes(2, "big"))
        assert camera.i2c_read() == value
    for register, value in ((0x3808, 1), (0x3809, 0x40), (0x380A, 0), (0x380B, 0xF0)):  # MaixPy's QVGA.
        camera.i2c_write(register.to_bytes(2, "big") + bytes([value]))
    assert camera.view().size == (320, 240) and camera.orientation() == (False, False)


def test_gc2145_shows_the_middle_of_its_field() -> None:
    """MaixPy's QVGA halves and subsamples by 2, which gives 320x240 of 400x300, at (40, 30)."""
    camera = Gc2145()
    camera.i2c_write(bytes([0xFE, 0]))
    camera.i2c_write(bytes([0xFD, 1]))
    camera.i2c_write(bytes([0x99, 0x22]))
    camera.i2c_write(bytes([0x90, 1, 0, 0x1E, 0, 0x28, 0, 0xF0, 1, 0x40]))
    view = camera.view()
    assert (view.field, view.x, view.y, view.size) == ((400, 300), 40, 30, (320, 240))


def test_a_chip_answers_only_on_the_pads_it_is_wired_to() -> None:
    """MaixPy scans the camera's bus and must not find the power chip there, which is connected to other pads."""
    soc = Soc()
    for bus in soc.i2c:
        bus.slaves[0x35] = Wired(axp202(), clock_pad=30, data_pad=31)
    base, fpioa = 0x50280000, 0x502B0000
    ask = [(STORE, base + 4, 0x35), (STORE, base + 0x6C, 1), (STORE, base + 0x10, 0x03), poll(base + 0x70, 4, 4)]
    ask += [(STORE, base + 0x10, 0x100), (LOAD, base + 0x10, 0), (LOAD, base + 0x80, 0), (LOAD, base + 0x54, 0)]
    assert run_script(soc, ask) == [0, 1, 0]
    wired = [(STORE, fpioa + 4 * 30, 126), (STORE, fpioa + 4 * 31, 127)]  # I2C0_SCLK, I2C0_SDA
    assert run_script(soc, [*wired, *ask]) == [0x41, 0, 0]


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.panel])
def test_each_boards_picture_is_upright_in_its_own_shape(name: str) -> None:
    """A picture sent in the orientation in which the panel is upright must be what a person sees, in true colours."""
    panel = PROFILES[name].panel
    assert panel is not None
    level = [0]
    lcd = St7789(lambda: level[0], panel)

    def send(command: int, data: bytes = b"") -> None:
        for level[0], part in ((0, bytes([command])), (1, data)):
            lcd.transfer(part)

    wide = bool(panel.upright & MV)
    width, height = (panel.rows, panel.columns) if wide else (panel.columns, panel.rows)
    columns, rows = panel.memory
    # Where the glass begins, seen from the corner at which this orientation starts.
    column = columns - panel.first_column - panel.columns if panel.upright & MX else panel.first_column
    row = rows - panel.first_row - panel.rows if panel.upright & MY else panel.first_row
    x, y = (row, column) if wide else (column, row)
    send(0x36, bytes([panel.upright | (BGR if panel.bgr else 0)]))
    if panel.inverted:
        send(0x21)
    send(0x2A, struct.pack(">HH", x, x + width - 1))
    send(0x2B, struct.pack(">HH", y, y + height - 1))
    words = np.random.default_rng(2).integers(0, 65536, (height, width)).astype(np.uint16)
    send(0x2C, words.astype(">u2").tobytes())
    send(0x29)
    assert np.array_equal(lcd.image(), rgb565.expand(words))


def test_frames_reach_both_planes_exactly() -> None:
    """At the camera's rate the display gets RGB565 words (first pixel in the high half) and the KPU three planes."""
    soc = Soc()
    picture = np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)
    camera = Ov2640(lambda width, height: picture)
    camera.sccb_write(Ov2640.ZMOW, 32 // 4)
    camera.sccb_write(Ov2640.ZMOH, 24 // 4)
    soc.dvp.sensors[camera.address] = camera
    base, display, planes = 0x50430000, 0x80200000, 0x80300000
    seen = run_script(
        soc,
        [
            (STORE, base + 0x28, display),
            *[(STORE, base + 4 * (1 + i), planes + 512 * i) for i in range(3)],
            (STORE, base + 0x00, 0x0E | 4 << 12 | 16 << 20),
            (STORE, base + 0x10, 0x100 | 7),
            poll(base + 0x20, 1, 1),
            *irq(24),
            (STORE, base + 0x20, 0x30003),
            (ENABLE, 0, MEIE),
            (WAIT_IRQ, 0, 1),
        ],
    )
    assert seen == [24]
    for i in range(3):
        plane = np.frombuffer(bytes(soc.ram_slice(planes + 512 * i, 512)), np.uint8).reshape(16, 32)
        assert np.array_equal(plane, picture[:16, :, i])
    words16 = np.frombuffer(bytes(soc.ram_slice(display, 1024)), "<u2").reshape(16, 16, 2)[..., ::-1].reshape(16, 32)
    assert np.array_equal(words16, rgb565.truncate(picture[:16]))


def test_mirror_and_flip_follow_the_sensor_registers() -> None:
    """The bits of REG04 are compared with their value on an upright board."""
    picture = np.random.default_rng(4).integers(0, 256, (12, 16, 3), np.uint8)
    camera = Ov2640(lambda width, height: picture)
    camera.sccb_write(Ov2640.ZMOW, 16 // 4)
    camera.sccb_write(Ov2640.ZMOH, 12 // 4)
    camera.sccb_write(0xFF, 1)
    for value, expected in ((0x80, picture), (0x00, picture[:, ::-1]), (0xC0, picture[::-1])):
        camera.sccb_write(0x04, value)
        taken = camera.capture()
        assert taken is not None and np.array_equal(taken, expected)


def test_ov2640_scales_width_and_height_apart() -> None:
    """All of SVGA becomes 256x240: it is asked for at the larger scale and then squeezed to 0.8 of its width."""

    def source(width: int, height: int) -> Picture:
        assert (width, height) == (320, 240)
        return np.broadcast_to((np.arange(width) // 5 * 4)[:, None].astype(np.uint8), (height, width, 3))

    camera = Ov2640(source)
    camera.sccb_write(Ov2640.ZMOW, 256 // 4)
    camera.sccb_write(Ov2640.ZMOH, 240 // 4)
    frame = camera.capture()
    assert frame is not None and frame.shape == (240, 256, 3)
    # Every 5 columns become 4, and the average over an area of equal columns is their value.
    assert np.array_equal(frame[7, :, 1], np.arange(256) // 4 * 4)


def test_the_ov2640_follows_its_window_and_zoom_registers() -> None:
    """HSIZE x VSIZE at XOFFL, YOFFL is scaled to ZMOW x ZMOH; their high bits are in VHYX, TEST and ZMHH."""
    asked = []

    def source(width: int, height: int) -> Picture:
        asked.append((width, height))
        return np.stack(np.broadcast_arrays(np.arange(width) >> 3, np.arange(height)[:, None] >> 3, 0), -1)

    camera = Ov2640(source)
    camera.sccb_write(0xFF, 1)
    camera.sccb_write(Ov2640.COM7, 0)  # UXGA
    camera.sccb_write(0xFF, 0)
    for register, value in (
        (Ov2640.HSIZE, 1200 // 4 & 0xFF), (Ov2640.VSIZE, 600 // 4),
        (Ov2640.XOFFL, 400 & 0xFF), (Ov2640.YOFFL, 520 & 0xFF), (Ov2640.VHYX, 520 >> 8 << 4 | 1 << 3 | 400 >> 8),
        (Ov2640.ZMOW, 1200 // 4 & 0xFF), (Ov2640.ZMOH, 600 // 4), (Ov2640.ZMHH, 1),
    ):  # fmt: skip
        camera.sccb_write(register, value)
    frame = camera.capture()
    assert frame is not None and frame.shape == (600, 1200, 3) and asked == [(1600, 1200)]
    assert frame[0, 0].tolist() == [400 >> 3, 520 >> 3, 0]
    camera.sccb_write(Ov2640.XOFFL, 404 & 0xFF)  # This is beyond the array.
    assert camera.capture() is None


def test_dvp_takes_the_top_left_and_waits_for_all_of_it() -> None:
    """Of a larger picture it takes the first pixels of the first lines, and a smaller one never finishes."""
    soc = Soc()
    camera = Gc0328(lambda width, height: np.arange(width * height * 3, dtype=np.uint32).astype(np.uint8).reshape(
        height, width, 3))  # fmt: skip
    soc.dvp.sensors[camera.address] = camera
    whole = camera.capture()
    assert whole is not None and whole.shape == (480, 640, 3)
    dvp, plane = soc.dvp, 0x80300000
    dvp.write(0x04, plane)
    for width, height, taken in ((32, 16, True), (640, 488, False)):
        dvp.write(0x00, 0x04 | width // 8 << 12 | height << 20)
        assert dvp._write_frame(camera) is taken
    got = np.frombuffer(bytes(soc.ram_slice(plane, 512)), np.uint8).reshape(16, 32)
    assert np.array_equal(got, whole[:16, :32, 0])


# -- KPU


def test_kpu_runs_a_layer_from_its_registers() -> None:
    """Twelve words go into the FIFO, the interrupt comes at the end, and the bytes are the engine's, also by DMA."""
    model = make_model()
    layer = model.kpu_layers[0]
    rng = np.random.default_rng(8)
    planes = rng.integers(0, 256, (layer.in_channels, layer.in_height, layer.in_width), np.uint8)
    expected_ram = np.zeros(ram.RAM_BYTES, np.uint8)
    ram.write(expected_ram, layer.source_line, planes)
    execute_layer(layer, expected_ram)
    expected = ram.read(expected_ram, layer.target_line, layer.out_channels, layer.out_height, layer.out_width)

    soc = Soc()
    soc.kpu.execute = kpu_engine.execute
    ram.write(np.frombuffer(soc.kpu_ram, np.uint8), layer.source_line, planes)
    weights, norm, table, target = 0x80100000, 0x80110000, 0x80120000, 0x80130000
    for address, data in ((weights, layer.weights.tobytes()), (norm, layer.batch_norm.pack()),
                          (table, layer.activation.pack())):  # fmt: skip
        soc.ram_slice(address, len(data))[:] = data
    patched = layer.with_registers(
        para_start_addr=weights, bwsx_base_addr=norm, active_addr=table, int_en=1, send_data_out=1
    )
    fifo = struct.unpack("<12Q", registers.pack(patched.registers))
    base, channel = 0x40800000, DMAC + 0x600
    seen = run_script(
        soc,
        [
            (STORE64, base + 0x40, 1),
            (STORE64, base + 0x18, 6),
            *irq(25),
            (STORE, SYSCTL + 0x68, 22),
            (STORE64, channel + 0x00, base + 0x30),
            (STORE64, channel + 0x08, target),
            (STORE64, channel + 0x10, expected.size // 8 - 1),
            (STORE64, channel + 0x18, 1 << 4 | 3 << 8 | 3 << 11),
            (STORE64, channel + 0x20, 2 << 32),
            (STORE64, DMAC + 0x18, 0x2020),
            *[(STORE64, base, word) for word in fifo],
            (ENABLE, 0, MEIE),
            (WAIT_IRQ, 0, 1),
            (LOAD64, base + 0x10, 0),
            (STORE64, base + 0x20, 7),
            (LOAD64, base + 0x10, 0),
            poll(DMAC + 0x18, 0x20, 0),
        ],
    )
    assert seen[0] == 25 and seen[1] & 1 == 1 and seen[2] & 1 == 0
    assert np.array_equal(np.frombuffer(soc.kpu_ram, np.uint8), expected_ram)
    assert bytes(soc.ram_slice(target, expected.size)) == expected.tobytes()
    assert soc.kpu.busy_cycles > 30e-6 * soc.sysctl.cpu_hz


# A loop of 343 instructions that makes calls, stores what is there already, and waits for the timer's handler. The
# handler notes where in the loop it came, and sets the timer 40,000 ticks (5 ms) further.
ROUNDS = """
    csrr a0, mhartid
    bnez a0, park
    la t0, trap
    csrw mtvec, t0
    li s0, 0x80030000          # results
    li s1, 0x02004000          # mtimecmp
    li s2, 0x80040000          # stack
    li s3, 40000
    sd s3, 0(s1)
    li t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
    li s4, 8                   # ticks wanted
    addi s5, s0, 8
1:  li t0, 110
2:  addi t0, t0, -1
    sd t0, 0(s2)
    bnez t0, 2b
    jal task
    jal task
    bnez s4, 1b
    li t0, 1
    sd t0, 0(s0)
park:
    wfi
    j park
task:
    ld t1, 8(s2)
    sd t1, 8(s2)
    ret
.align 4
trap:
    csrr t2, mepc
    sd t2, 0(s5)
    sd t0, 8(s5)
    addi s5, s5, 16
    addi s4, s4, -1
    li t3, 40000
    add s3, s3, t3
    sd s3, 0(s1)
    mret
"""


def test_skipping_idle_rounds_of_a_scheduler_changes_nothing() -> None:
    """With and without skipping, each interrupt comes at the same instruction of the same round.

    Registers and memory must end the same, and most of the work is saved.
    """
    ends, executed = [], []
    for skipping in (True, False):
        soc = Soc()
        if not skipping:
            soc.idle_rounds.next_try = [1 << 60, 1 << 60]
        run(soc, ROUNDS, lambda soc=soc: words(soc, 1) == [1], 40_000_000)  # type: ignore[misc]
        ends.append((words(soc, 20), bytes(soc.ram), soc.harts[0].state(), soc.hart_cycles[0]))
        executed.append(soc.instructions[0])
    assert ends[0] == ends[1]
    assert len(set(ends[0][0][1:17:2])) > 2  # Interrupts came at different places.
    assert executed[0] < executed[1] / 3


# The same idle rounds until eight ticks have come. Then hart 0 wakes hart 1 and waits for its answer in memory, in a
# loop whose registers are the same again after as many instructions as a round has.
ANSWERED = """
    csrr a0, mhartid
    li s1, 0x80030000          # results: done, hart 1's answer, mtime when it was seen
    bnez a0, other
    la t0, trap
    csrw mtvec, t0
    li s0, 0x02004000          # mtimecmp
    li s2, 0x80040000
    li s3, 40000
    sd s3, 0(s0)
    li t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
    li s4, 8                   # ticks wanted
1:  li t0, 110
2:  addi t0, t0, -1
    sd t0, 0(s2)
    bnez t0, 2b
    bnez s4, 1b
    li t1, 350
3:  addi t1, t1, -1
    bnez t1, 3b
    li t0, 0x02000004
    li t1, 1
    sw t1, 0(t0)
4:  ld t2, 8(s1)
    beqz t2, 4b
    li t0, 0x0200BFF8
    lw t3, 0(t0)
    sd t3, 16(s1)
    li t0, 1
    sd t0, 0(s1)
5:  wfi
    j 5b
other:
    la t0, woken
    csrw mtvec, t0
    li t0, 8
    csrw mie, t0
    csrsi mstatus, 8
6:  wfi
    j 6b
.align 4
woken:
    li t0, 0x02000004
    sw zero, 0(t0)
    li t1, 1
    sd t1, 8(s1)
    mret
.align 4
trap:
    addi s4, s4, -1
    li t3, 40000
    add s3, s3, t3
    sd s3, 0(s0)
    mret
"""


def test_idle_rounds_end_when_the_other_hart_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hart that waits for an answer must not be carried past it to the next tick, 40,000 later."""
    monkeypatch.setattr(idle_rounds, "TRY_INSTRUCTIONS", 0)
    soc = Soc()
    run(soc, ANSWERED, lambda: words(soc, 1) == [1], 40_000_000)
    assert soc.idle_rounds.lengths == [332]
    assert 8 * 40_000 < words(soc, 3)[2] < 8 * 40_000 + 1_000


# -- card, images, snapshots


def test_sd_card_reads_and_writes_blocks(tmp_path: Path) -> None:
    """MaixPy's driver sends these commands: reset, ready, capacity, then single and multiple blocks."""
    path = tmp_path / "card.img"
    path.write_bytes(bytes(1024 * 512 * 2))
    selected = [0]
    card = SdCard(path, lambda: selected[0])

    def command(number: int, argument: int, length: int) -> bytes:
        selected[0] = 0
        return card.transfer(bytes([0x40 | number]) + argument.to_bytes(4, "big") + b"\x95" + b"\xff" * length)[6:]

    assert command(0, 0, 2)[1] == 1
    assert command(8, 0x1AA, 6)[1:] == bytes([1, 0, 0, 1, 0xAA])
    assert command(55, 0, 2)[1] == 1 and command(41, 0x40000000, 2)[1] == 0
    assert command(58, 0, 6)[2] & 0x40
    csd = command(9, 0, 22)[3:]
    assert csd[0] == 0xFE and (int.from_bytes(csd[8:11], "big") & 0x3FFFFF) + 1 == 2
    data = bytes(range(256)) * 2
    assert command(24, 5, 2)[1] == 0
    answer = card.transfer(b"\xff\xfe" + data + b"\0\0" + b"\xff" * 3)
    assert answer[-3] & 0x1F == 5
    assert path.read_bytes()[5 * 512 : 6 * 512] == data
    assert command(25, 9, 2)[1] == 0
    for block in (b"first".ljust(512), b"second".ljust(512)):
        assert card.transfer(b"\xff\xfc" + block + b"\0\0" + b"\xff" * 3)[-3] & 0x1F == 5
    card.transfer(b"\xfd\xff\xff")
    assert path.read_bytes()[9 * 512 : 11 * 512] == b"first".ljust(512) + b"second".ljust(512)
    read = command(18, 4, 2 + 2 * (2 + 512 + 2))
    assert data in read and read.count(b"\xfe") >= 1
    selected[0] = 1
    assert card.transfer(b"\x40\0\0\0\0\x95\xff\xff") == b"\xff" * 8


def test_images_are_checked_as_the_rom_does() -> None:
    """Flag, length and SHA-256 are checked, and each fault is one line that says what to do."""
    payload = bytes(range(256)) * 4
    flash = bytearray(b"\xff" * FLASH_BYTES)
    with pytest.raises(FormatError, match="no firmware at flash address 0"):
        rom_image.unwrap(flash)
    wrapped = rom_image.wrap(payload)
    flash[: len(wrapped)] = wrapped
    assert rom_image.unwrap(flash) == payload
    assert firmware_image.check_raw(wrapped, "x") == payload
    flash[100] ^= 1
    with pytest.raises(FormatError, match="damaged"):
        rom_image.unwrap(flash)
    with pytest.raises(FormatError, match="not a K210 firmware"):
        firmware_image.check_raw(b"short", "x")


def test_a_snapshot_continues_exactly_where_it_was() -> None:
    """It is saved in the middle of a delay with an event pending, and both continuations must end in the same state."""
    soc = Soc()
    soc.load_program(assemble(DELAY))
    soc.run_until(lambda: soc.hart_cycles[0] > 10_000_000)
    saved = soc.save({})
    ends = []
    for machine in (soc, Soc()):
        machine.restore(saved, {})
        machine.run_until(lambda machine=machine: words(machine, 1) == [1])  # type: ignore[misc]
        ends.append((words(machine, 2), machine.hart_cycles, machine.instructions, bytes(machine.ram)))
        machine.restore(saved, {})
        assert words(machine, 1) == [0]
    assert ends[0] == ends[1]
