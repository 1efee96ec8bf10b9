"""Runs MicroPython in a sandbox that the kernel enforces before the board's first line of Python runs.

It is started as a program of its own. MicroPython's Unix port does not restrict a board's program: `uctypes` reads and
writes any address. So the process gives up everything that could reach the computer: a seccomp filter allows only the
system calls named here (reading and writing what is open already, memory, time). The program cannot open, list or map
a file, start a program or a thread, use the network, or look at another process. The host serves the files of /flash
and /sd over the bridge (sim/boards/board_files.py).

Arguments: the folder of the module micropython_run, the shared memory's size and descriptor, the GC heap's bytes, the
program for `-c`, the descriptors that stay open beside the console's (as `5,6`), then the program's own arguments;
@ADDRESS stands for the shared memory's address.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys

# System call numbers of x86-64, the only machine for which there is a MicroPython wheel.
ALLOWED = {
    "read": 0, "write": 1, "close": 3, "poll": 7, "lseek": 8, "munmap": 11, "brk": 12, "rt_sigaction": 13,
    "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28, "select": 23,
    "nanosleep": 35, "exit": 60, "gettimeofday": 96, "sigaltstack": 131, "time": 201, "futex": 202,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "pselect6": 270,
    "restart_syscall": 219, "getrandom": 318,
}  # fmt: skip
MMAP, MPROTECT, IOCTL = 9, 10, 16

_AUDIT_ARCH_X86_64 = 0xC000003E
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_PR_SET_NO_NEW_PRIVS, _PR_GET_SECCOMP, _PR_SET_SECCOMP, _MODE_FILTER = 38, 21, 22, 2


def seccomp_program() -> bytes:
    """The filter as the kernel's struct sock_filter[]: classic BPF over struct seccomp_data."""
    lines: list[tuple[int, int, int, int]] = []

    def add(code: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        lines.append((code, if_true, if_false, value))

    add(_LOAD, _ARCH_AT)
    add(_EQUAL, _AUDIT_ARCH_X86_64, 1, 0)
    add(_RETURN, _KILL)
    add(_LOAD, _NUMBER_AT)
    for number in sorted(ALLOWED.values()):
        add(_EQUAL, number, 0, 1)
        add(_RETURN, _ALLOW)
    # MicroPython asks for terminal settings; the answer is that this is not a terminal.
    add(_EQUAL, IOCTL, 0, 1)
    add(_RETURN, _ERRNO | errno.ENOTTY)
    # New memory must not be executable.
    add(_EQUAL, MMAP, 0, 5)
    add(_LOAD, _ARGUMENTS_AT + 8 * 3)
    add(_ANY_BIT, mmap.MAP_ANONYMOUS, 0, 4)
    add(_LOAD, _ARGUMENTS_AT + 8 * 2)
    add(_ANY_BIT, mmap.PROT_EXEC, 2, 0)
    add(_RETURN, _ALLOW)
    add(_EQUAL, MPROTECT, 1, 0)
    add(_RETURN, _ERRNO | errno.EPERM)
    add(_LOAD, _ARGUMENTS_AT + 8 * 2)
    add(_ANY_BIT, mmap.PROT_EXEC, 0, 1)
    add(_RETURN, _ERRNO | errno.EPERM)
    add(_RETURN, _ALLOW)
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def lock_in() -> None:
    """Allow only the system calls of the filter from here on; OSError if the kernel refuses."""
    program = ctypes.create_string_buffer(seccomp_program())
    header = struct.pack("HL", (len(program) - 1) // 8, ctypes.addressof(program))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
    for option, value, pointer in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _MODE_FILTER, header)):
        if prctl(option, value, pointer, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def is_offered() -> bool:
    """Whether this kernel can filter system calls with the numbers above."""
    return (
        sys.platform == "linux"
        and os.uname().machine == "x86_64"
        and ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0
    )


def main() -> None:
    site, size, descriptor, heap, program, kept, *arguments = sys.argv[1:]
    sys.path.append(site)
    from micropython_run import run_main

    memory = mmap.mmap(int(descriptor), int(size))
    # mmap keeps a copy of its descriptor, and writing through it could move the file's end.
    before = 2
    for number in [*sorted(int(text) for text in kept.split(",")), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(before + 1, number)
        before = number
    address = str(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    words = ["micropython", "-X", f"heapsize={heap}", "-c", program]
    words += [address if word == "@ADDRESS" else word for word in arguments]
    lock_in()
    os._exit(run_main(words))


if __name__ == "__main__":
    main()
