"""The MicroPython programs that host_tools/repl.py runs on a board, as text; each may run twice without harm."""

from __future__ import annotations

BOOT = "boot.py"
BOOT_MARK = "# Finishes an interrupted update of maix-posenet"
"""First line of our boot.py, by which a later run tells it from the user's."""

# _f: (length in bytes, CRC-32) of a file on the board, or None if it does not exist. If the removal of a file was cut
# off, SPIFFS can open but not read it: its CRC-32 is then -1, which no file has. If two files are already open, SPIFFS
# answers ENOENT for every file; that does not mean that the file does not exist.
FILE_STATE = """
def _f(name):
    c = 0
    n = 0
    try:
        f = open(name, 'rb')
    except OSError:
        if name in uos.listdir():
            raise
        return None
    try:
        while 1:
            d = f.read(1024)
            if not d:
                break
            c = _u.crc32(d, c)
            n += len(d)
    except OSError:
        return (n, -1)
    finally:
        f.close()
    return (n, c & 0xffffffff)
"""

# Runs before everything else and again after each soft reboot. `_q` checks and executes code; the answer is the repr of
# `_r`, framed with its length and checksum. A watchdog that a program left running would reset the board in the middle
# of a job, and the only way to stop it is to make a new one (MaixPy's machine_wdt.c). `_w` is the file that an earlier
# run was writing when it was cut off.
PRELUDE = (
    """
import ubinascii as _u
import uos
try:
    _w.close()
    del _w
except Exception:
    pass
try:
    import Maix
except ImportError:
    try:
        import maix as Maix
    except ImportError:
        Maix = None
try:
    import machine
    for _i in (0, 1):
        machine.WDT(id=_i, timeout=5000).stop()
except Exception:
    pass
def _q(n, c, s):
    global _r
    if _u.crc32(s) & 0xffffffff != c:
        print('<#', n, 0, 0, '?#>')
        return
    _r = None
    exec(s, globals())
    a = repr(_r)
    print('<#', n, len(a), _u.crc32(a.encode()) & 0xffffffff, a, '#>')
"""
    + FILE_STATE
)

# _c copies a file and compares; OSError if the copy is wrong. _x removes a file if it exists. _k gives a kept boot.py
# its name back. Renaming by SPIFFS is not safe: if it is cut off, it leaves two names for the same pages, and removing
# one empties the other (seen in the emulator).
COPY = """
def _c(old, new):
    s = _f(old)
    if s == _f(new):
        return
    with open(old, 'rb') as f:
        with open(new, 'wb') as g:
            while 1:
                d = f.read(1024)
                if not d:
                    break
                g.write(d)
    if _f(new) != s:
        raise OSError(5)
def _x(name):
    if name in uos.listdir():
        uos.remove(name)
def _k():
    for k in uos.listdir():
        if k[:8] == 'boot.py.' and len(k) == 16:
            s = _f(k)
            if '%08x' % (s[1] & 0xffffffff) == k[8:]:
                _c(k, 'boot.py')
            _x(k)
"""

# The board's boot.py while new files replace the old ones. The host `exec`s it too, so there is only one piece of code
# for this. The power may fail after any step: the new files are kept until all of them are copied, and nothing is
# copied unless every file exists in its new version.
BOOT_CODE = (
    BOOT_MARK
    + """, then removes itself.
import micropython
import ubinascii as _u
import uos
"""
    + FILE_STATE
    + COPY
    + """
def _go(files):
    if all([_f(n + '@NEW') == s for n, s in files]):
        for n, s in files:
            _c(n + '@NEW', n)
    uos.remove('@BOOT')
    for n, s in files:
        _x(n + '@NEW')
    _k()
try:
    micropython.kbd_intr(-1)
    _go(@FILES)
finally:
    micropython.kbd_intr(3)
if globals().get('__name__') == '__main__' and '@BOOT' in uos.listdir():
    with open('@BOOT') as f:
        f = f.read()
    exec(f)
"""
)

# Whether two files can be open at once, as copying needs. SPIFFS allows no more than two, including files that a
# stopped program left open. The garbage collector closes files that nothing refers to any more.
CAN_COPY = """
import gc, uos
gc.collect()
l = []
try:
    for n in uos.listdir()[:1] * 2:
        l.append(open(n, 'rb'))
    _r = 1
except OSError:
    _r = 0
for n in l:
    n.close()
l = n = None
"""

# Cleans up after a run that was cut off: our boot.py finishes or removes itself, and the user's gets its name back.
FINISH = f"""
import uos
{COPY}
m = ''
s = _f({BOOT!r})
if s and s[1] == -1:
    uos.remove({BOOT!r})
elif s:
    f = open({BOOT!r})
    m = f.read({len(BOOT_MARK)})
    if m == {BOOT_MARK!r}:
        m += f.read()
    f.close()
if m[:{len(BOOT_MARK)}] == {BOOT_MARK!r}:
    exec(m, {{}})
    _r = 1
m = None
_k()
"""
