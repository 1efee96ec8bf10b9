"""From a line to a board that shows poses: look, write what differs, verify on the board, start.

The steps keep no state of their own: what must be done is read back from the board each time, so an interrupted run
is simply run again. Nothing counts as written until the board has confirmed it with a CRC-32.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from common.errors import UserError
from common.flash_parts import FlashPart, check_parts
from common.pose_lines import LineSplitter
from common.transport import LineLostError, Transport
from common.wiring import AUTOMATIC, WIRINGS
from host_tools import m5stickv
from host_tools.isp_client import BAUD_FALLBACK, IspClient
from host_tools.known_boards import ANY_BOARD, ANY_MAIXPY_REMEDY, BOARDS, BoardKind
from host_tools.repl import BoardInfo, BoardRaisedError, RawRepl, ReplError
from host_tools.repl_programs import BOOT
from model_build import catalog
from model_build.kpu import kmodel_v3
from model_build.manifest import FILE_NAME as MANIFEST
from sim.boards.devices import GC_HEAP_BYTES

MIN_MAIXPY = (0, 4, 0)
"""The oldest release that was seen to run our programs (docs/boards.md)."""
CANMV_REMEDY = "put CanMV's lite build (1.0.5 or later) on it: --firmware "
CANMV_BUILDS = {"alientek": catalog.DNK210_CANMV, "01studio": catalog.CANMV}
"""Boards that come with CanMV differ in display and camera: "type" in config.json → the build that runs there."""
LILYGO_REMEDY = (
    f"put LilyGO's build for this board on it: on a T-Watch --firmware {catalog.TWATCH_MAIXPY}, on an M1 --firmware "
    f"{catalog.LILYGO_M1_MAIXPY}"
)
FIRST_POSE_TIMEOUT_S = 60.0
SMALLEST_GC_HEAP_BYTES = 200_000
"""When ready for frames our programs hold 104 KB; loading the decoder briefly takes 69 KB (docs/firmware.md)."""
STEP_TRIES = 3
VERIFY_TRIES = 3

T = TypeVar("T")


@dataclass
class Ui:
    """Callbacks by which the steps show their progress; by default they do nothing."""

    step: Callable[[str], None] = lambda text: None
    detail: Callable[[str], None] = lambda text: None
    progress: Callable[[str, int, int], None] = lambda what, done, total: None


@dataclass(frozen=True)
class Wanted:
    """What the board is to hold. `firmware` is a wrapped image for flash address 0, or None to leave MaixPy
    unchanged."""

    parts: Sequence[FlashPart] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    firmware: FlashPart | None = None

    @property
    def flash_parts(self) -> list[FlashPart]:
        return ([self.firmware] if self.firmware else []) + list(self.parts)


@dataclass
class Result:
    """What a run has done."""

    written_parts: list[str] = field(default_factory=list)
    written_files: list[str] = field(default_factory=list)
    retries: int = 0
    wiring: str = ""
    baud: int = 0
    info: BoardInfo | None = None


class Flasher:
    """The steps on one line. `wirings` are tried in this order."""

    def __init__(
        self,
        transport: Transport,
        wirings: Sequence[str] = AUTOMATIC,
        bauds: Sequence[int] = BAUD_FALLBACK,
        ui: Ui | None = None,
        manual_wait_s: float = 60.0,
        board: BoardKind = ANY_BOARD,
    ):
        """`board` is the kind that the user has named."""
        self.transport = transport
        self.board = board
        self.ui = ui or Ui()
        self.isp = IspClient(transport, wirings, bauds, note=self.ui.detail, manual_wait_s=manual_wait_s)
        self.repl = RawRepl(transport, note=self.ui.detail)
        self.result = Result()

    # -- looking -----------------------------------------------------------------------------------------

    def reach_repl(self, reset_first: bool = False) -> bool:
        """Get to MaixPy's raw REPL, by interrupting what runs or otherwise by resets; False if there is no MaixPy."""
        if not reset_first and self.repl.try_enter(tries=2):
            return True
        if getattr(self.transport, "has_lines", True) is False:
            return self.repl.enter_after_reset()
        strategies = [self.isp.wiring] if self.isp.wiring else self.isp.strategies
        # This is done twice, because a board in MaixPy IDE mode leaves it only at the second start.
        heard = True
        for _ in range(2):
            if not heard:
                break
            heard = False
            for strategy in strategies:
                self.ui.detail(f"resetting the board ({strategy.name} wiring)")
                strategy.boot(self.transport)
                if self.repl.enter_after_reset():
                    return True
                heard = heard or self.repl.heard
        return False

    def _steadily(self, what: str, body: Callable[[], T]) -> T:
        """Run a REPL step; if the board leaves the REPL, enter it again and repeat the step."""
        cause = ""
        for attempt in range(STEP_TRIES):
            if attempt and not self.reach_repl():
                break
            try:
                return body()
            except (ReplError, BoardRaisedError) as trouble:
                cause = str(trouble)
                self.result.retries += 1
                self.ui.detail(f"{what}: {cause}; reconnecting")
        raise UserError(
            f"{self.transport.name}: the board stopped answering while {what} ({cause}); "
            f"check cable and power supply and run the same command again: it continues where it stopped"
        )

    def look(self) -> BoardInfo | None:
        """MaixPy's facts about the board; None if MaixPy does not answer."""
        if not self.reach_repl():
            return None
        return self._steadily("looking at it", self.repl.info)

    def differing(self, parts: Sequence[FlashPart], info: BoardInfo, written: bool = False) -> list[FlashPart]:
        """The parts that the flash does not hold, by the board's own reading.

        A build that cannot read its flash can check only kmodels, by loading them. Other parts count as different, and
        as right once they are `written`: the loader has confirmed every block, and the ROM starts a MaixPy only if its
        SHA-256 is right.
        """

        def holds(part: FlashPart) -> bool:
            length, crc32 = len(part.data), zlib.crc32(part.data)
            if info.has_flash_read:
                return self.repl.flash_crc32(part.address_bytes, length) == crc32
            if is_kmodel(part):
                return self.repl.loaded_crc32(part.address_bytes) == (length, crc32)
            return written

        return self._steadily("reading its flash", lambda: [part for part in parts if not holds(part)])

    # -- doing -------------------------------------------------------------------------------------------

    def run(self, wanted: Wanted) -> Result:
        """Make the board hold what is wanted, and verify it; UserError tells in one line why that is impossible."""
        check_parts(wanted.flash_parts)
        self.ui.step("looking at the board")
        info = self.look()
        if info is None:
            wanted = self._for_build(wanted, False, False)
            todo = self._without_maixpy(wanted)
        else:
            self._show(info)
            self._check_build(info, wanted)
            wanted = self._for_build(wanted, info.is_m5stickv, info.is_twatch)
            self._check_overlap(info, wanted)
            self.ui.step("comparing what it holds")
            todo = self.differing(wanted.flash_parts, info)
            for part in wanted.flash_parts:
                if part not in todo:
                    self.ui.detail(f"{part.name} at 0x{part.address_bytes:06X}: unchanged, skipped")
        self._write_and_verify(todo, wanted)
        if wanted.files:
            self.ui.step("copying scripts")
            if BOOT in wanted.files and self._steadily("setting boot.py aside", lambda: m5stickv.set_aside(self.repl)):
                self.ui.detail(f"the program in boot.py waits as {m5stickv.FACTORY_BOOT}; back with --restore")
            self._copy_files(wanted.files)
        self.result.wiring = self.isp.wiring.name if self.isp.wiring else ""
        self.result.retries += self.isp.retries
        return self.result

    def _for_build(self, wanted: Wanted, is_m5stickv: bool, is_lilygo: bool) -> Wanted:
        """What is wanted, in the form that this MaixPy build, or the one that will be written, needs."""
        if wanted.firmware is not None:
            data = wanted.firmware.data
            is_m5stickv, is_lilygo = m5stickv.is_image(data), m5stickv.is_lilygo_image(data)
        if MANIFEST not in wanted.files:
            return wanted
        if is_lilygo:
            return replace(wanted, files={**wanted.files, BOOT: m5stickv.boot_program("lilygo")})
        if not is_m5stickv:
            return wanted
        parts, files = m5stickv.relocated(wanted.parts, dict(wanted.files))
        return replace(wanted, parts=parts, files=files)

    def restore(self, ours: Sequence[str]) -> None:
        """Restore what was on the board before: remove our files, and give a kept boot.py its name back."""
        self.ui.step("looking at the board")
        info = self.look()
        if info is None:
            raise UserError("MaixPy does not answer, so its files cannot be reached; press RESET and try again")
        self.ui.step("restoring")
        waiting = self._steadily("restoring", lambda: m5stickv.restore(self.repl, ours))
        if waiting:
            self.ui.detail("boot.py is what it was before; our files are gone")
        else:
            self.ui.detail("our files are gone; no program of before waited on this board")

    def _without_maixpy(self, wanted: Wanted) -> list[FlashPart]:
        """If MaixPy does not answer: the parts to write, provided that a chip answers and a MaixPy is among them."""
        self.ui.detail("MaixPy does not answer, trying the chip's own loader")
        self.isp.enter_rom()
        if wanted.firmware is None:
            self.isp.boot_by_lines()
            raise UserError(f"the K210 is there but no MaixPy runs on it; {self._remedy(None)}")
        return wanted.flash_parts

    def _show(self, info: BoardInfo) -> None:
        self.result.info = info
        kpu = "KPU" if info.has_kpu else "no KPU"
        self.ui.detail(f"MaixPy {info.version}, {kpu}, {info.free_bytes // 1024} KiB free in {info.run_dir}")
        if info.has_kpu and not info.has_flash_read:
            self.ui.detail(
                "this build cannot read its flash: the kmodel is compared where the KPU library loads it, and MaixPy "
                "itself is not read back; a later build can"
            )

    def _check_build(self, info: BoardInfo, wanted: Wanted) -> None:
        remedy = self._remedy(info)
        if wanted.firmware is not None:
            data = wanted.firmware.data
            is_foreign = info.is_m5stickv and not m5stickv.is_image(data)
            if is_foreign or (info.is_twatch and not m5stickv.is_lilygo_image(data)):
                self.ui.detail(f"{wanted.firmware.name} is not a build for this board: its LCD may stay dark; {remedy}")
            return
        if info.version_numbers and info.version_numbers < MIN_MAIXPY:
            needed = ".".join(str(part) for part in MIN_MAIXPY)
            raise UserError(f"MaixPy {info.version} is too old; {needed} or newer is needed: {remedy}")
        if not info.has_kpu:
            raise UserError(f"this MaixPy ({info.version}) was built without the KPU module; {remedy}")

    def _remedy(self, info: BoardInfo | None) -> str:
        """How this board gets a suitable build; `info`: what runs on it now, None if nothing does."""
        if info is None:
            return self.board.maixpy_remedy
        if info.is_m5stickv:
            return m5stickv.REMEDY
        if info.is_twatch:
            return LILYGO_REMEDY
        if info.is_canmv:
            return CANMV_REMEDY + CANMV_BUILDS.get(info.board_type, "FILE")
        named = (kind for kind in BOARDS.values() if kind.own_maixpy and info.board_type.startswith(kind.name))
        board = next(named, self.board)
        # A board that nobody has named runs a build for several boards, so it can run the current one too.
        return ANY_MAIXPY_REMEDY if board is ANY_BOARD else board.maixpy_remedy

    def _check_overlap(self, info: BoardInfo, wanted: Wanted) -> None:
        end = wanted.firmware.end_bytes if wanted.firmware else info.firmware_end_bytes
        for part in wanted.parts:
            if part.address_bytes < end:
                raise UserError(
                    f"{part.name} at 0x{part.address_bytes:06X} would overwrite MaixPy, which reaches to 0x{end:06X}; "
                    f"{self._remedy(info)}"
                )

    def _write_and_verify(self, todo: list[FlashPart], wanted: Wanted) -> None:
        bauds = list(self.isp.bauds)
        for attempt in range(VERIFY_TRIES):
            if todo:
                self._write(todo)
            if not todo and attempt == 0:
                return
            self.ui.step("verifying on the board")
            if not self.reach_repl():
                raise UserError(
                    "the flash is written but MaixPy does not start; press RESET and run the same command again, "
                    f"or {self._remedy(self.result.info)}"
                )
            info = self._steadily("looking at it", self.repl.info)
            if self.result.info is None:
                self._show(info)
                self._check_build(info, Wanted())
            self.result.info = info
            todo = self.differing(wanted.flash_parts, info, written=True)
            if not todo:
                told = [part for part in wanted.flash_parts if info.has_flash_read or is_kmodel(part)]
                self.ui.detail(f"{len(told)} part(s) read back right, length and CRC-32")
                return
            self.ui.detail(f"{', '.join(part.name for part in todo)} reads back wrong, writing again")
            self.result.retries += 1
            # Damage that went unnoticed once may do so again, so the line is slower the next time.
            self.isp.bauds = tuple(bauds[min(attempt + 1, len(bauds) - 1) :])
        raise UserError(
            f"{', '.join(part.name for part in todo)}: what the board reads back is not what was written, "
            f"{VERIFY_TRIES} times; use another cable or port; if that does not help, the board's flash is "
            f"worn, so use another board"
        )

    def _write(self, todo: Sequence[FlashPart]) -> None:
        names = ", ".join(f"{part.name} ({len(part.data)} bytes at 0x{part.address_bytes:06X})" for part in todo)
        self.ui.step(f"writing {names}")
        try:
            self.isp.write(todo, lambda done, total: self.ui.progress("writing", done, total))
        except UserError:
            # However far this got, the chip is left running what it holds.
            with contextlib.suppress(LineLostError):
                self.isp.boot_by_lines()
            raise
        self.result.baud = self.isp.baud
        self.result.written_parts += [part.name for part in todo]
        self.ui.detail(f"written at {self.isp.baud} baud, {self.isp.retries} repeats")
        self.isp.reboot()
        self.repl.enter_after_reset()

    def _copy_files(self, files: Mapping[str, bytes]) -> None:
        total = sum(len(data) for data in files.values())
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self.ui.progress("copying", min(done, total), total)

        def copy() -> list[str]:
            return self.repl.install(files, self.repl.info(), progress)

        written = self._steadily("copying scripts", copy)
        self.result.written_files += written
        same = [name for name in files if name not in written]
        if same:
            listed = f"{len(same)} files" if len(same) > 3 else ", ".join(same)
            self.ui.detail(f"{listed}: unchanged, skipped")
        if written:
            self.ui.detail(f"{', '.join(written)}: copied, read back right")

    # -- after -------------------------------------------------------------------------------------------

    def reset_heap(self) -> None:
        """Set the heap of MaixPy's programs back to MaixPy's default; a restart makes it take effect."""

        def reset() -> None:
            set_bytes = self.repl.ask("_r = Maix.utils.gc_heap_size()")
            if set_bytes == GC_HEAP_BYTES:
                self.ui.detail(f"it has the usual {GC_HEAP_BYTES} bytes")
                return
            self.repl.ask(f"Maix.utils.gc_heap_size({GC_HEAP_BYTES})")
            self.ui.detail(f"set from {set_bytes} to the usual {GC_HEAP_BYTES} bytes, restarting")
            self.repl.restart()

        self._steadily("setting MaixPy's heap", reset)

    def check_heap(self, network_bytes: int) -> None:
        """UserError if a heap that another project has set leaves no room for our programs or for the network.

        The board itself reports any other cause.
        """

        def ask() -> tuple[int, int]:
            return self.repl.ask_for(
                tuple,
                "import gc\ngc.collect()\nh = getattr(getattr(Maix, 'utils', None), 'heap_free', None)\n"
                "_r = (gc.mem_free() + gc.mem_alloc(), h() if h else -1)",
            )

        gc_bytes, free_bytes = self._steadily("looking at its heap", ask)
        remedy = f"set it to the usual {GC_HEAP_BYTES}: `flash.py --reset-heap`"
        if gc_bytes < SMALLEST_GC_HEAP_BYTES:
            raise UserError(
                f"MaixPy's heap on this board has {gc_bytes} bytes, too small for our programs, which need "
                f"{SMALLEST_GC_HEAP_BYTES}; {remedy}"
            )
        if gc_bytes > GC_HEAP_BYTES and 0 <= free_bytes < network_bytes:
            raise UserError(
                f"another project has set MaixPy's heap on this board to {gc_bytes} bytes, which leaves {free_bytes} "
                f"where the network needs {network_bytes}; {remedy}"
            )

    def start(self, on_line: Callable[[str], bool], timeout_s: float = FIRST_POSE_TIMEOUT_S) -> None:
        """Start main.py and give every line it prints to `on_line` until that returns True.

        UserError if main.py ends in an exception or no such line comes within `timeout_s`; it contains the board's
        own message if there is one.
        """
        self._steadily("starting main.py", self.repl.start_main)
        splitter = LineSplitter()
        last: list[str] = []
        told = ""
        is_ours = False
        deadline = self.transport.now() + timeout_s
        while self.transport.now() < deadline:
            for line in splitter.lines(self.transport.read(0.05)):
                is_ours = is_ours or line.startswith("posenet: ")
                if line.startswith("posenet: ") and line.count(": ") >= 2:
                    told = line[9:]
                    # The application repeats a failed start; main.py tries only once.
                    if line in last or told.startswith("did not start: "):
                        raise UserError(f"the board says: {told}; see more with `flash.py --terminal`")
                last = [*last[-30:], line]
                if on_line(line):
                    return
                is_raised = re.match(r"\w*(Error|Exception|Interrupt)\b", line) and any("Traceback" in s for s in last)
                if is_raised and not told:
                    raise UserError(f"main.py stopped on the board: {line}; see it with `flash.py --terminal`")
        said = told or next((line for line in reversed(last) if line.strip()), "nothing")
        info = self.result.info
        if info is not None and BOOT in info.files and not is_ours:
            raise UserError(
                f"boot.py on the board does not end, so main.py never starts (its last text: {said!r}); it is not "
                f"ours: stop it or rename it, for example after `flash.py --terminal` and Ctrl-C"
            )
        raise UserError(
            f"no pose came within {timeout_s:.0f} s; the last text from the board: {said!r}; look with "
            f"`flash.py --terminal`"
        )


def is_kmodel(part: FlashPart) -> bool:
    """Whether a part of the flash is a kmodel V3."""
    return part.data[:4] == kmodel_v3.BEGINNING


def release(transport: Transport, wiring: str) -> None:
    """Set the modem lines so that the board keeps running."""
    sequence = WIRINGS[wiring].to_boot if wiring in WIRINGS else ()
    if sequence:
        transport.set_lines(*sequence[-1])
