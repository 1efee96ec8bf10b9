"""Client for MaixPy's raw REPL: runs code on the board, and copies files so that an interruption does no harm.

mpremote cannot be used for this: it begins with a soft reset that waits for boot.py, asserts DTR and RTS when it opens
the port (which resets some boards), sends no checksum, and copies 256 bytes a round trip straight over the old file.

The board checks the CRC-32 of all code before executing it, and this client checks every answer. Both are repeated
until they are right, so all code that is sent must be safe to run twice.
"""

from __future__ import annotations

import ast
import binascii
import contextlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from common import rom_image, spiffs
from common.errors import UserError
from common.firmware_modules import FIRMWARE_DIR
from common.transport import Transport
from host_tools.repl_programs import BOOT, BOOT_CODE, CAN_COPY, FINISH, PRELUDE

BANNER = b"raw REPL; CTRL-B to exit\r\n>"
BANNER_TIMEOUT_S = 0.6
"""Time from Ctrl-A to the banner: a prompt answers at once, a running program after its next byte code."""
ENTER_TRIES = 6
SILENCE_S = 1.5
"""If no byte arrives for this long after a reset, there is no MaixPy: its first message comes within 0.5 s."""
BOOT_INTERRUPT_S = 4.0
"""Ctrl-C is repeated for this long after a reset; _boot.py looks for it about 0.5 s after the reset."""
PROMPT_WAIT_S, PROMPT_WAITS = 0.1, 120
"""How often, and how many times, the prompt is looked for after a soft reset."""
INTERRUPT_AFTER_WAITS = 30
STARTS = b"posenet: starts in"
"""firmware/main.py says this when it begins to wait for Ctrl-C."""
ANSWER_TIMEOUT_S = 5.0
ASK_TRIES = 6
SEGMENT_BYTES = 16384
"""Files are compressed in segments of this size, because the board must hold one in memory twice."""
CHUNK_BYTES = 1024
"""Bytes of a segment per round trip; in base64 with its code this fits the board's 2048-byte receive ring."""
PACE_BYTES, PACE_S = 1024, 0.005
"""Code is sent in pieces of this size with pauses between them, because the ring overflows without a sign."""
FLASH_DIR = "/flash"
ASIDE = ".new"
"""Suffix of a new file's name until the file replaces the old one."""
KEPT_BOOT = "boot.py.{:08x}"
"""Name, with its CRC-32, under which the user's boot.py is kept while ours is in its place."""

Note = Callable[[str], None]
Answer = TypeVar("Answer")


class ReplError(Exception):
    """The board does not answer as a REPL does."""


class BoardRestartedError(ReplError):
    """The board was reset and has lost its variables."""


class BoardRaisedError(Exception):
    """Code on the board ended in an exception; the text is its traceback's last line."""


@dataclass(frozen=True)
class BoardInfo:
    """What a running MaixPy tells about itself."""

    version: str
    machine: str
    has_kpu: bool
    has_flash_read: bool
    run_dir: str
    files: tuple[str, ...]
    free_bytes: int
    firmware_end_bytes: int
    is_m5stickv: bool = False
    """Whether it is M5Stack's build, which starts only boot.py."""
    is_canmv: bool = False
    """Whether it is CanMV, which comes with some other makers' boards."""
    is_twatch: bool = False
    """Whether it is LilyGO's build for the T-Watch K210 or the M1."""
    board_type: str = ""
    """The board's type from its config.json in lower case, for example amigo_ips; empty if it has none."""

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """(0, 6, 3) for v0.6.3-…; empty if the version has no number."""
        match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", self.version)
        return tuple(int(part) for part in match.groups()) if match else ()


class RawRepl:
    """A board at its raw REPL. `note` gets a line of text whenever something is repeated."""

    def __init__(self, transport: Transport, note: Note = lambda text: None):
        self.transport = transport
        self.note = note
        self._buffer = b""
        self._serial = 0
        self.heard = False

    # -- getting in and out ------------------------------------------------------------------------------

    def read_until(self, wanted: bytes, timeout_s: float) -> bytes | None:
        """Everything up to and including `wanted`; None if it does not arrive in time."""
        deadline = self.transport.now() + timeout_s
        while wanted not in self._buffer:
            left_s = deadline - self.transport.now()
            if left_s <= 0:
                return None
            data = self.transport.read(min(left_s, 0.05))
            self.heard = self.heard or bool(data)
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(wanted)
        return head + wanted

    def _forget(self) -> None:
        self._buffer = b""
        self.transport.discard_input()

    def try_enter(self, tries: int = ENTER_TRIES) -> bool:
        """Interrupt whatever runs and enter the raw REPL; False if no REPL answers."""
        for _ in range(tries):
            # With a pause between: two Ctrl-C that arrive together do not stop a program (seen in the emulator).
            for interrupt in (b"\r\x03", b"\x03"):
                self.transport.write(interrupt)
                self.transport.sleep(0.05)
            self._forget()
            self.transport.write(b"\x01")
            if self.read_until(BANNER, BANNER_TIMEOUT_S) is not None:
                self.transport.sleep(0.02)
                self._forget()
                return self._prepare()
        return False

    def enter_after_reset(self) -> bool:
        """After a reset, send Ctrl-C while MaixPy starts, so that neither boot.py nor main.py runs.

        Afterwards `heard` tells whether the board has sent anything at all.
        """
        started_s = self.transport.now()
        self.heard = False
        while self.transport.now() < started_s + BOOT_INTERRUPT_S:
            self.transport.write(b"\x03")
            if self.read_until(b">>> ", 0.1) is not None:
                break
            if not self.heard and self.transport.now() > started_s + SILENCE_S:
                return False
        return self.try_enter(tries=3)

    def _prepare(self) -> bool:
        for _ in range(ASK_TRIES):
            try:
                self._execute(PRELUDE, ANSWER_TIMEOUT_S)
                if self.ask("_r = 6 * 7") == 42:
                    return True
            except (ReplError, BoardRaisedError):
                self._recover()
        return False

    def _recover(self) -> None:
        """Return to an empty raw prompt, whatever state the line is in."""
        self.transport.write(b"\r\x03\x02\x03\x01")
        self.read_until(BANNER, BANNER_TIMEOUT_S)
        self.transport.sleep(0.05)
        self._forget()

    def start_main(self) -> None:
        """Leave the raw REPL and soft-reboot, so that boot.py and main.py run."""
        for _ in range(3):
            self._forget()
            self.transport.write(b"\x02")
            self.read_until(b">>> ", 1.0)
            self.transport.write(b"\x04")
            if self.read_until(b"soft reboot", 3.0) is not None:
                return
        raise ReplError("no answer to Ctrl-D")

    def soft_reset(self) -> None:
        """Soft-reset from the raw prompt: it empties the heap and closes files. boot.py runs, main.py does not.

        If boot.py starts main.py (M5Stack's builds), main.py would run on. Ours prints a line when it waits for Ctrl-C,
        before it has loaded anything; another program is stopped after a while.
        """
        self._forget()
        self.transport.write(b"\x04")
        if self.read_until(b"soft reboot", 5.0) is not None:
            for wait in range(1, PROMPT_WAITS):
                if self.read_until(BANNER, PROMPT_WAIT_S) is not None:
                    return
                if STARTS in self._buffer or wait % INTERRUPT_AFTER_WAITS == 0:
                    # Nothing else is forgotten: the prompt may be arriving at this moment.
                    self._buffer = self._buffer.replace(STARTS, b"")
                    self.transport.write(b"\x03")
        raise ReplError("no prompt after the soft reset")

    def restart(self) -> None:
        """Reset the chip from its prompt and come back to the prompt."""
        self._execute_quietly("import machine\nmachine.reset()", 0.3)
        if not self.enter_after_reset():
            raise ReplError("no prompt after a restart")

    # -- running code ------------------------------------------------------------------------------------

    def _execute(self, source: str, timeout_s: float) -> str:
        """Run code and return what it printed; BoardRaisedError, or ReplError if the line is out of step."""
        data = source.encode()
        for at in range(0, len(data), PACE_BYTES):
            if at:
                self.transport.sleep(PACE_S)
            self.transport.write(data[at : at + PACE_BYTES])
        self.transport.write(b"\x04")
        if self.read_until(b"OK", ANSWER_TIMEOUT_S) is None:
            raise ReplError("no OK")
        out = self.read_until(b"\x04", timeout_s)
        error = self.read_until(b"\x04>", 2.0) if out is not None else None
        if out is None or error is None:
            raise ReplError("no end of output")
        text = error[:-2].decode("utf-8", "replace").strip()
        if text:
            raise BoardRaisedError(text.splitlines()[-1])
        return out[:-1].decode("utf-8", "replace")

    def ask(self, source: str, timeout_s: float = ANSWER_TIMEOUT_S) -> object:
        """Run code that sets `_r` and return its value (numbers, text, bytes, and tuples, lists, dicts of those).

        Repeats it if question or answer is damaged. BoardRaisedError if the code itself fails twice in the same way.
        """
        data = source.encode()
        raised = ""
        for _ in range(ASK_TRIES):
            self._serial += 1
            call = f"_q({self._serial},{zlib.crc32(data)},{data!r})"
            try:
                out = self._execute(call, timeout_s)
            except BoardRaisedError as error:
                if raised == str(error):
                    raise
                raised = str(error)
                self.note(f"the board says {raised}, trying again")
                if raised.startswith("NameError") and "_q" in raised:
                    # The board restarted, or the prelude was lost.
                    self._execute_quietly(PRELUDE)
                continue
            except ReplError as trouble:
                self.note(f"line out of step ({trouble}), trying again")
                self._recover()
                continue
            match = re.search(rf"<# {self._serial} (\d+) (\d+) (.*) #>", out, re.DOTALL)
            if match is not None:
                answer = match.group(3)
                if len(answer) == int(match.group(1)) and zlib.crc32(answer.encode()) == int(match.group(2)):
                    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                        return ast.literal_eval(answer)
            self.note("garbled on the line, trying again")
        raise ReplError(raised or f"no good answer in {ASK_TRIES} tries")

    def _execute_quietly(self, source: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        try:
            self._execute(source, timeout_s)
        except (ReplError, BoardRaisedError):
            self._recover()

    def ask_for(self, kind: type[Answer], source: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """`ask`, where an answer of another kind means that the board is out of step (ReplError)."""
        answer = self.ask(source, timeout_s)
        if not isinstance(answer, kind):
            raise ReplError("an answer of another kind than asked for")
        return answer

    # -- questions ---------------------------------------------------------------------------------------

    def info(self) -> BoardInfo:
        """What runs on the board and how much room it has."""
        answer: tuple[Any, ...] = self.ask_for(
            tuple,
            "import uos\n"
            "try:\n import KPU\n k = 1\nexcept ImportError:\n k = hasattr(Maix, 'KPU')\n"
            "try:\n m = hasattr(Maix.utils, 'flash_read')\n"
            "except AttributeError:\n m = 0\n"
            "h = Maix.utils.flash_read(0, 5) if m else b'\\xff' * 5\n"
            "d = uos.getcwd()\ns = uos.statvfs(d)\n"
            "try:\n from pmu import axp192\n p = 1\nexcept ImportError:\n p = 0\n"
            "c = uos.uname()[0] == 'CanMV'\n"
            "try:\n import axp202\n t = 1\nexcept ImportError:\n t = 0\n"
            "try:\n import ujson\n f = open('/flash/config.json')\n y = str(ujson.load(f).get('type', ''))[:20]\n"
            " f.close()\nexcept (ImportError, OSError, ValueError, AttributeError):\n y = ''\n"
            "_r = (uos.uname()[3], uos.uname()[4], k, m, d, uos.listdir(d), s[0] * s[3], bytes(h), p, c, t, y)",
        )
        version, machine, has_kpu, has_flash_read, run_dir, files, free_bytes, head, *kind = answer
        is_m5stickv, is_canmv, is_twatch, board_type = kind
        return BoardInfo(
            version, machine, bool(has_kpu), bool(has_flash_read), run_dir, tuple(files), free_bytes,
            rom_image.stored_bytes(head), bool(is_m5stickv), bool(is_canmv), bool(is_twatch), board_type.lower(),
        )  # fmt: skip

    def flash_crc32(self, address_bytes: int, length_bytes: int) -> int:
        """CRC-32 of a flash range, read by the board itself."""
        return self.ask_for(
            int,
            "c = 0\n"
            f"for a in range({address_bytes}, {address_bytes + length_bytes}, 8192):\n"
            f" c = _u.crc32(Maix.utils.flash_read(a, min(8192, {address_bytes + length_bytes} - a)), c)\n"
            "_r = c & 0xffffffff",
            timeout_s=20 + length_bytes / 100_000,
        )

    def loaded_crc32(self, address_bytes: int) -> tuple[int, int] | None:
        """(length, CRC-32) of the kmodel at a flash address as the KPU library loads it; None if there is none.

        For builds that cannot read their flash; it uses the board's own check in firmware/maixpy_api.py.
        """
        source = (FIRMWARE_DIR / "maixpy_api.py").read_text(encoding="utf-8")
        answer = self.ask(
            f"_m = {{}}\nexec({source!r}, _m)\n_r = None\n"
            f"try:\n k = _m['Model']({address_bytes})\nexcept ValueError:\n k = None\n"
            "if k:\n b = k.loaded()\n"
            " if b is not None: _r = (len(b), _u.crc32(b) & 0xffffffff)\n"
            " b = None\n k.deinit()\n"
            "k = _m = None\nimport gc\ngc.collect()",
            timeout_s=30,
        )
        if answer is not None and not isinstance(answer, tuple):
            raise ReplError("an answer of another kind than asked for")
        return answer

    def file_states(self, names: Sequence[str]) -> dict[str, tuple[int, int] | None]:
        """Name → (length in bytes, CRC-32) of files in the board's run folder; None for a file that does not exist."""
        states: list[Any] = self.ask_for(list, f"_r = [_f(n) for n in {list(names)!r}]", timeout_s=20)
        return dict(zip(names, states, strict=True))

    # -- files -------------------------------------------------------------------------------------------

    def write_file(self, name: str, data: bytes, progress: Callable[[int], None] = lambda count: None) -> None:
        """Write a file in the run folder and read it back; UserError if the board has no room."""
        try:
            # Compressed, because the line is slow; most builds of MicroPython have uzlib to inflate it.
            inflates = self.ask("try:\n import uzlib\n _r = 1\nexcept ImportError:\n _r = 0")
            # If this runs twice, it closes the file that it opened the first time.
            self.ask(f"try:\n _w.close()\nexcept (NameError, OSError):\n pass\n_w = open({name!r}, 'wb')\nk = 0")
            for step, start in enumerate(range(0, len(data), SEGMENT_BYTES)):
                segment = data[start : start + SEGMENT_BYTES]
                packed = zlib.compress(segment, 9) if inflates else segment
                packed = packed if len(packed) < len(segment) else segment
                self.ask("z = bytearray()")
                for at in range(0, len(packed), CHUNK_BYTES):
                    piece = packed[at : at + CHUNK_BYTES]
                    text = binascii.b2a_base64(piece, newline=False).decode()
                    # If only the answer was lost, the length here and `k` below make repeating the code harmless.
                    self.ask(f"if len(z) == {at}: z += _u.a2b_base64('{text}')")
                    progress(len(piece) * len(segment) // len(packed))
                inflate = "uzlib.decompress(z)" if packed is not segment else "z"
                self.ask(
                    f"if k == {step}:\n if _w.write({inflate}) != {len(segment)}: raise OSError(28)\n k += 1\nz = None",
                    timeout_s=20,
                )
            self.ask("_w.close()")
        except BoardRaisedError as error:
            if str(error).startswith("NameError"):
                raise BoardRestartedError(f"the board was reset while {name} was written") from None
            self.ask("try:\n _w.close()\nexcept (NameError, OSError):\n pass")
            self.remove_files([name])
            raise UserError(
                f"the board's file system does not take {name} ({len(data)} bytes): {error}; "
                f"remove files from it, or clear it with `flash.py --erase files`"
            ) from None
        if self.file_states([name])[name] != (len(data), zlib.crc32(data)):
            self.remove_files([name])
            raise UserError(
                f"{name} reads back wrong from the board's file system; clear it with `flash.py --erase files`"
            )

    def remove_files(self, names: Sequence[str]) -> None:
        """Remove those of the files that exist."""
        self.ask(f"import uos\nfor n in {list(names)!r}:\n if n in uos.listdir(): uos.remove(n)")

    def install(
        self, files: Mapping[str, bytes], info: BoardInfo, progress: Callable[[int], None] = lambda count: None
    ) -> list[str]:
        """Make the run folder hold `files`; returns the names that had to be written.

        All changed files are first written under another name and read back. Then a boot.py of ours copies them over
        the old ones and removes itself; if the power fails meanwhile, it finishes the job at the next start. A boot.py
        of the user's has another name during that time. What an earlier run left unfinished is finished first.
        """
        for name in files:
            spiffs.rooted(name + ASIDE)
        if info.run_dir == FLASH_DIR:
            self._make_room_to_copy()
        if self.ask(FINISH, timeout_s=60):
            self.note("an update that was cut off is finished first")
        states = self.file_states(list(files))
        wanted = {name: (len(data), zlib.crc32(data)) for name, data in files.items()}
        changed = [name for name in files if states[name] != wanted[name]]
        stale = [name for name in self._listdir() if name.endswith(ASIDE) and name[: -len(ASIDE)] not in changed]
        if stale:
            self.remove_files(stale)
            # If another program's renaming was cut off, removing one name may have emptied the other.
            states = self.file_states(list(files))
            changed = [name for name in files if states[name] != wanted[name]]
        if not changed:
            return []
        aside = self.file_states([name + ASIDE for name in changed])
        missing = [name for name in changed if aside[name + ASIDE] != wanted[name]]
        self._check_room(files, missing, {name: states[name] for name in changed}, aside, info)
        for name in missing:
            self.write_file(name + ASIDE, files[name], progress)
        self._swap({name: wanted[name] for name in changed})
        states = self.file_states(changed)
        wrong = [name for name in changed if states[name] != wanted[name]]
        if wrong:
            raise UserError(f"{', '.join(wrong)} read back wrong from the board; run the same command again")
        return changed

    def _check_room(
        self,
        files: Mapping[str, bytes],
        missing: Sequence[str],
        replaced: Mapping[str, tuple[int, int] | None],
        aside: Mapping[str, tuple[int, int] | None],
        info: BoardInfo,
    ) -> None:
        """UserError unless the `missing` new versions fit beside the old ones and those that lie aside already."""
        need_bytes = sum(spiffs.taken_bytes(len(files[name])) for name in missing) + 2 * spiffs.PAGE_BYTES
        # New and old files exist together, and a new one may be longer than the old one that it replaces.
        grown = [max(len(files[name]) - (old[0] if old else 0), 0) for name, old in replaced.items()]
        need_bytes += sum(grown) + 2 * spiffs.PAGE_BYTES * len(grown)
        present = sum(spiffs.taken_bytes(state[0]) for state in aside.values() if state)
        if need_bytes > info.free_bytes + present:
            raise UserError(
                f"{info.run_dir} has {info.free_bytes} bytes free, but {need_bytes} are needed; "
                f"remove files from it, or clear it with `flash.py --erase files`"
            )

    def _make_room_to_copy(self) -> None:
        """Close the files that a stopped program left open; UserError if that does not help."""
        if self.ask(CAN_COPY):
            return
        self.note("a program left files open; a soft reset closes them")
        self.soft_reset()
        if not self._prepare():
            raise ReplError("no answer after the soft reset")
        self.ask(f"uos.chdir({FLASH_DIR!r})")
        if not self.ask(CAN_COPY):
            raise UserError(
                "boot.py on the board leaves files open, but copying needs both of the two that can be open; "
                "remove it from the board, or clear it with `flash.py --erase files`"
            )

    def _listdir(self) -> list[str]:
        return self.ask_for(list, "import uos\n_r = uos.listdir()")

    def _swap(self, files: Mapping[str, tuple[int, int]]) -> None:
        """Replace `files`, name → (length, CRC-32), by their new versions, which have been written under ASIDE
        names."""
        staged = "boot" + ASIDE
        code = BOOT_CODE.replace("@NEW", ASIDE).replace("@BOOT", BOOT)
        code = code.replace("@FILES", repr(tuple((name, state) for name, state in files.items() if name != BOOT)))
        self.write_file(staged, code.encode())
        after = self.file_states([BOOT])[BOOT]
        if BOOT in files:
            kept = KEPT_BOOT.format(files[BOOT][1])
            self.ask(f"if {BOOT + ASIDE!r} in uos.listdir():\n _c({BOOT + ASIDE!r}, {kept!r})\n _x({BOOT + ASIDE!r})")
        elif after is not None:
            self.ask(f"_c({BOOT!r}, {KEPT_BOOT.format(after[1])!r})", timeout_s=20)
        # Safe to repeat: each half first looks whether it has been done.
        self.ask(f"if {staged!r} in uos.listdir():\n _x({BOOT!r})\n uos.rename({staged!r}, {BOOT!r})")
        self.ask(FINISH, timeout_s=60)
