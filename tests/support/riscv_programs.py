"""Small RISC-V programs for the K210 emulator, which are assembled here and run on the emulated harts.

Their machine code is stored too (riscv_programs.json, by the SHA-256 of the text), so the tests also run without the
cross assembler. Where the assembler is installed, every program is assembled and compared with what is stored. After a
change of a program, run `STORE_RISCV_PROGRAMS=1 uv run pytest -n 0 tests/sim`.

`run_script` executes a list of register accesses by a real program, an interpreter in assembly. A device is thus tested
by the loads and stores of an emulated hart, which takes and claims its interrupts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from sim.k210.soc import Soc
from tests.conftest import absent

TOOLS = "riscv64-unknown-elf-"
SCRIPT_ADDRESS, RESULTS_ADDRESS, DONE_ADDRESS = 0x80010000, 0x80020000, 0x8001FFF8
END, STORE, LOAD, POLL, STORE64, LOAD64, ENABLE, WAIT_IRQ = range(8)

# s0: script; s1: results; s3: number of interrupts so far. An external interrupt's source is appended to the results.
INTERPRETER = """
    la t0, trap
    csrw mtvec, t0
    csrr a0, mhartid
    bnez a0, park
    li s0, 0x80010000
    li s1, 0x80020000
    li s3, 0
next:
    lwu t0, 0(s0)
    lwu t1, 4(s0)
    ld t2, 8(s0)
    addi s0, s0, 16
    beqz t0, finish
    addi t0, t0, -1
    beqz t0, do_store
    addi t0, t0, -1
    beqz t0, do_load
    addi t0, t0, -1
    beqz t0, do_poll
    addi t0, t0, -1
    beqz t0, do_store64
    addi t0, t0, -1
    beqz t0, do_load64
    addi t0, t0, -1
    beqz t0, do_enable
    j do_wait
do_store:
    sw t2, 0(t1)
    j next
do_store64:
    sd t2, 0(t1)
    j next
do_load:
    lwu t3, 0(t1)
    sd t3, 0(s1)
    addi s1, s1, 8
    j next
do_load64:
    ld t3, 0(t1)
    sd t3, 0(s1)
    addi s1, s1, 8
    j next
do_poll:                       # until (word & high half) == low half
    srli t4, t2, 32
    slli t5, t2, 32
    srli t5, t5, 32
1:  lwu t3, 0(t1)
    and t3, t3, t4
    bne t3, t5, 1b
    j next
do_enable:                     # mie = value, interrupts on
    csrw mie, t2
    csrsi mstatus, 8
    j next
do_wait:                       # until `value` interrupts were taken
1:  bgeu s3, t2, next
    wfi
    j 1b
finish:
    li t0, 0x8001fff8
    li t1, 1
    sd t1, 0(t0)
park:
    wfi
    j park
.align 4
trap:
    csrr t5, mcause
    andi t6, t5, 31
    addi s3, s3, 1
    li a1, 7
    beq t6, a1, timer
    li a1, 3
    beq t6, a1, software
    li a1, 0x0c200004
    lwu a2, 0(a1)              # claim
    sd a2, 0(s1)
    addi s1, s1, 8
    li a3, 0x0c002000          # one shot: disable the sources again
    sw zero, 0(a3)
    sw zero, 4(a3)
    sw a2, 0(a1)               # complete
    mret
timer:
    li a1, 0x02004000
    li a2, -1
    sd a2, 0(a1)
    mret
software:
    li a1, 0x02000000
    sw zero, 0(a1)
    mret
"""


STORED = Path(__file__).with_suffix(".json")


@cache
def assemble(source: str) -> bytes:
    """The machine code of an assembly text for address 0x80000000.

    It comes from the assembler if there is one, and must then equal what is stored. Otherwise the stored code is used.
    """
    key = hashlib.sha256(source.encode()).hexdigest()
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    if shutil.which(TOOLS + "as") is None:
        if key not in stored:
            absent("riscv", f"the assembler {TOOLS}as, which this changed program needs,")
        return bytes.fromhex(stored[key])
    code = _assembled(source)
    if os.environ.get("STORE_RISCV_PROGRAMS"):
        stored[key] = code.hex()
        STORED.write_text(json.dumps(stored, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    assert stored.get(key) == code.hex(), f"{STORED.name} is not up to date: see {Path(__file__).name}"
    return code


def _assembled(source: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        text, objects, image = (Path(folder) / name for name in ("a.s", "a.o", "a.bin"))
        text.write_text(".globl _start\n_start:\n" + source)
        subprocess.run([TOOLS + "as", "-march=rv64imafdc", "-o", objects, text], check=True)
        subprocess.run([TOOLS + "ld", "-Ttext=0x80000000", "-o", f"{objects}.elf", objects], check=True)
        subprocess.run([TOOLS + "objcopy", "-O", "binary", f"{objects}.elf", image], check=True)
        return image.read_bytes()


def run(soc: Soc, source: str, done: Callable[[], bool], max_instructions: int = 20_000_000) -> None:
    """Assemble and load the program, start both harts and run until `done()`; the devices keep their state."""
    soc.load_program(assemble(source))
    for hart in soc.harts:
        hart.reset(0x80000000)
    assert soc.run_until(done, max_instructions), f"not done after {soc.instructions} instructions"


def run_script(soc: Soc, script: Sequence[tuple[int, int, int]], max_instructions: int = 20_000_000) -> list[int]:
    """Execute (operation, address, value) entries; return the loaded words and claimed interrupt sources in order."""
    data = b"".join(struct.pack("<IIQ", *entry) for entry in [*script, (END, 0, 0)])
    soc.ram_slice(SCRIPT_ADDRESS, len(data))[:] = data
    soc.ram_slice(DONE_ADDRESS, 8)[:] = bytes(8)
    soc.ram_slice(RESULTS_ADDRESS, 8192)[:] = b"\xee" * 8192
    run(soc, INTERPRETER, lambda: soc.ram_slice(DONE_ADDRESS, 1)[0] == 1, max_instructions)
    raw = bytes(soc.ram_slice(RESULTS_ADDRESS, 8192))
    words = [word for (word,) in struct.iter_unpack("<Q", raw)]
    return words[: words.index(0xEEEEEEEEEEEEEEEE)]


def poll(address: int, mask: int, value: int) -> tuple[int, int, int]:
    """An entry that waits until (word at `address` & mask) == value."""
    return POLL, address, mask << 32 | value
