# MaixPy's boot and its REPL (lib/utils/pyexec.c of MicroPython 1.11, P/src/maixpy_main.c, _boot.py): friendly,
# paste and raw mode, no raw paste. Runs in MicroPython; sim/boards/simulated.py prepends the constants VERSION,
# HAS_KPU, IS_OLD and RAW. Its exit code says what follows: 74 a soft reboot into the friendly REPL, 76 one into the raw
# REPL.
import gc
import sys

import micropython
import uos
import utime

_SOFT_FRIENDLY, _SOFT_RAW = 74, 76
_CTRL_A, _CTRL_B, _CTRL_C, _CTRL_D, _CTRL_E = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
_BANNER = (
    'MicroPython v%s on 2023-01-01; Sipeed_M1 with kendryte-k210\nType "help()" for more information.\n' % VERSION  # noqa: F821
)
_DEFAULT_MAIN = "# Welcome: no program is installed on this board yet.\nprint('Hello MaixPy')\n"

_stdin = sys.stdin.buffer
_stdout = sys.stdout.buffer
_main = {"__name__": "__main__"}


def _apply_build():
    # Change whatever differs in this build of MaixPy from the one that the stand-ins imitate.
    uname = ("MaixPy", "MaixPy", "1.11.0", "v" + VERSION + " on 2023-01-01", "Sipeed_M1 with kendryte-k210")  # noqa: F821
    uos.uname = lambda: uname
    if not HAS_KPU:  # noqa: F821
        sys.modules.pop("KPU", None)
    if IS_OLD:  # noqa: F821
        import Maix

        utils = Maix.utils

        class Utils:
            gc_heap_size = getattr(utils, "gc_heap_size", None)
            heap_free = getattr(utils, "heap_free", None)

        Maix.utils = Utils


def _put(text):
    _stdout.write(text if isinstance(text, bytes) else text.encode())


def _get():
    # One byte from the host. A Ctrl-C that meets the end of a program may also come as a signal.
    while True:
        try:
            byte = _stdin.read(1)
        except KeyboardInterrupt:
            return _CTRL_C
        if not byte:
            sys.exit(0)
        return byte


def _interruptible(on):
    try:
        micropython.kbd_intr(3 if on else -1)
    except KeyboardInterrupt:
        micropython.kbd_intr(3 if on else -1)
        if on:
            raise


def _run(source, name, mode, eof=False):
    # Execute as pyexec does; returns True if the code asks for a soft reboot (SystemExit).
    leave = False
    error = None
    try:
        try:
            _interruptible(True)
            exec(compile(source, name, mode), _main)
        finally:
            _interruptible(False)
    except SystemExit:
        leave = True
    except BaseException as caught:
        error = caught
    if eof:
        _put(_CTRL_D)
    if error is not None:
        sys.print_exception(error)
    if eof:
        _put(_CTRL_D)
    return leave


def _run_file(name):
    try:
        with open(name) as file:
            source = file.read()
    except OSError:
        return False
    return _run(source, name, "exec")


def _boot_files():
    # Run _boot.py, boot.py, main.py; the latter two only from the current folder, and not after a Ctrl-C.
    print("[MaixPy] gc heap=0x80148a90-0x801c8a90(524288)")
    print("[MaixPy] init end")
    try:
        _interruptible(True)
        utime.sleep_ms(200)
        _interruptible(False)
    except KeyboardInterrupt:
        _interruptible(False)
        print('Traceback (most recent call last):\n  File "_boot.py", line 18, in <module>\nKeyboardInterrupt: ')
        return False
    if "main.py" not in uos.listdir():
        try:
            with open("main.py", "w") as file:
                file.write(_DEFAULT_MAIN)
        except OSError:
            pass
    print("\n M A I X P Y   (simulated)\n")
    return _run_file("boot.py") or (not RAW and _run_file("main.py"))  # noqa: F821


def _continues(source):
    # Whether the friendly REPL asks for another line.
    depth = 0
    for char in source:
        depth += (char in "([{") - (char in ")]}")
    lines = source.rstrip("\n").split("\n")
    if depth > 0 or lines[-1].endswith("\\"):
        return True
    return (lines[0].rstrip().endswith(":") or lines[0][:1] == "@") and not source.endswith("\n\n")


def _read_line(prompt):
    # Read and echo a line; returns (control character at its beginning, or b""; the line).
    _put(prompt)
    line = b""
    last = b""
    while True:
        byte = _get()
        if byte == _CTRL_C or (not line and byte in (_CTRL_A, _CTRL_B, _CTRL_D, _CTRL_E)):
            return byte, ""
        if byte == b"\n" and last == b"\r":
            last = byte
            continue
        last = byte
        if byte in b"\r\n":
            _put("\n")
            try:
                return b"", line.decode()
            except UnicodeError:
                return b"", ""
        if byte in b"\x08\x7f":
            if line:
                line = line[:-1]
                _put("\x08 \x08")
        elif byte >= b" " or byte == b"\t":
            line += byte
            _put(byte)


def _friendly():
    _put(_BANNER)
    while True:
        control, source = _read_line(">>> ")
        if control == _CTRL_A:
            return _raw
        if control == _CTRL_B:
            _put("\n" + _BANNER)
            continue
        if control == _CTRL_C:
            _put("\n")
            continue
        if control == _CTRL_D:
            _put("\n")
            sys.exit(_soft(_SOFT_FRIENDLY))
        if control == _CTRL_E:
            source = _paste()
            if source and _run(source, "<stdin>", "exec"):
                sys.exit(_soft(_SOFT_FRIENDLY))
            continue
        source += "\n"
        while source.strip() and _continues(source):
            control, line = _read_line("... ")
            if control == _CTRL_C:
                source = ""
                _put("\n")
                break
            source += line + "\n"
        if source.strip() and _run(source, "<stdin>", "single"):
            sys.exit(_soft(_SOFT_FRIENDLY))


def _paste():
    _put("\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\n=== ")
    source = b""
    while True:
        byte = _get()
        if byte == _CTRL_C:
            _put("\n")
            return ""
        if byte == _CTRL_D:
            _put("\n")
            return source.decode()
        source += b"\n" if byte == b"\r" else byte
        _put("\n=== " if byte == b"\r" else byte)


def _raw():
    _put("raw REPL; CTRL-B to exit\n")
    _put(">")
    parts = []
    while True:
        byte = _get()
        if byte == _CTRL_A:
            _put("raw REPL; CTRL-B to exit\n>")
            parts = []
        elif byte == _CTRL_B:
            _put("\n")
            return _friendly
        elif byte == _CTRL_C:
            parts = []
        elif byte == _CTRL_D:
            if not parts:
                _put("\n")
                sys.exit(_soft(_SOFT_RAW))
            source = b"".join(parts)
            parts = None
            _put("OK")
            try:
                source = source.decode().replace("\r", "\n")
            except UnicodeError:
                source = "raise ValueError('bytes that are no UTF-8')"
            gc.collect()
            leave = _run(source, "<stdin>", "exec", True)
            source = None
            if leave:
                sys.exit(_soft(_SOFT_RAW))
            parts = []
            _put(">")
        else:
            parts.append(byte)
            if len(parts) >= 256:
                parts = [b"".join(parts)]


def _soft(code):
    print("[MaixPy]: soft reboot")
    return code


_apply_build()
_interruptible(False)
if _boot_files():
    sys.exit(_soft(_SOFT_RAW if RAW else _SOFT_FRIENDLY))  # noqa: F821
_mode = _raw if RAW else _friendly  # noqa: F821
while True:
    _mode = _mode()
