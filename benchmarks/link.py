"""Compares the serial link with the line's own limit, and with copying through the REPL.

    uv run python -m benchmarks.link [--maixpy]

There are three parts, and with --maixpy a fourth:

1. In virtual time: both ends, a line of exactly the rate, and a board that needs a given time per frame (assumed).
2. In real time: a real MicroPython behind a line paced to the rate, with a receive ring of 2,048 bytes that drops what
is too much. This depends on this computer's speed, so run it on an idle one.
3. The same bytes through the raw REPL, 256 bytes per command as `mpremote cp` sends them, counted in bytes on the line.
This is the time that they would take if the board answered at once.
4. --maixpy: stock MaixPy in the K210 emulator, in its virtual time of one cycle an instruction (the real core needs
somewhat more). This takes minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

from benchmarks.firmware_py_mpy import compiled, installed, with_imports
from benchmarks.serial_line import End, Wire, run
from benchmarks.synthetic_kmodel import write_build
from common import rgb565
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from common.transport import BITS_PER_BYTE
from host_tools.board_link import HOST_RING_BYTES, LARGEST_MESSAGE_BYTES, TARGET, BoardLink, start_target
from model_build import catalog
from sim.boards.devices import Devices
from sim.boards.vm import MicroPythonVm
from sim.k210.k210_board import K210Board
from sim.parts.camera_source import scene_camera

link = firmware_module("link")

FRAME_BYTES = 320 * 240 * 2
HEADS_BYTES = 20 * 15 * (17 + 34 + 32 + 32)
RATES = (115_200, 1_500_000)
MPREMOTE_CHUNK_BYTES = 256


def virtual(baud: int, size: int, to_board: bool, frame_s: float) -> float:
    """Seconds for `size` random bytes in virtual time."""
    up, down = Wire(baud, 0.001), Wire(baud, 0.001)
    host, board = link.Link(HOST_RING_BYTES, LARGEST_MESSAGE_BYTES), link.Link()
    ends = [End(host, down, up, frame_s=2e-5), End(board, up, down, link.RING_BYTES, frame_s)]
    source, sink = (host, board) if to_board else (board, host)
    data = random.Random(1).randbytes(size)
    got, sent, started = bytearray(), 0, -1.0
    host.open(1)

    def until(now_s: float) -> bool:
        nonlocal sent, started
        if not (host.up and board.up):
            return False
        started = now_s if started < 0 else started
        while sent < size and source.room():
            piece = data[sent : sent + source.chunk_bytes() - 6]
            source.send(link.PART, bytes(5) + piece)
            sent += len(piece)
        for _, message in sink.inbox:
            got.extend(message[5:])
        sink.inbox.clear()
        return len(got) >= size

    ended = run(ends, until, 600)
    assert got == data
    return ended - started


class PacedLine:
    """A MicroPython's console behind a line of a given rate, in real time: bytes pass no faster than they could."""

    name = "paced line"

    def __init__(self, vm: MicroPythonVm, baud: int):
        self.vm = vm
        self.baud = baud
        self.dropped = 0
        self._to_board: deque[bytes] = deque()
        self._free_s = time.perf_counter()
        self._from_board = bytearray()
        self._ready = threading.Condition()
        self._running = True
        threading.Thread(target=self._carry, daemon=True).start()
        threading.Thread(target=self._fetch, daemon=True).start()

    def write(self, data: bytes) -> None:
        # Blocking, as a serial port that is drained after each write.
        self._free_s = max(self._free_s, time.perf_counter()) + len(data) * BITS_PER_BYTE / self.baud
        with self._ready:
            self._to_board.append(data)
            self._ready.notify_all()
        time.sleep(max(0.0, self._free_s - time.perf_counter()))

    def _carry(self) -> None:
        at_s = time.perf_counter()
        while self._running:
            with self._ready:
                if not self._to_board:
                    self._ready.wait(0.05)
                    continue
                data = self._to_board.popleft()
            at_s = max(at_s, time.perf_counter()) + len(data) * BITS_PER_BYTE / self.baud
            time.sleep(max(0.0, at_s - time.perf_counter()))
            room = max(link.RING_BYTES - self.vm._console_waiting(), 0)
            self.dropped += len(data[room:])
            self.vm.write(data[:room])

    def _fetch(self) -> None:
        at_s = time.perf_counter()
        while self._running:
            data = self.vm.read(0.05)
            for start in range(0, len(data), 256):
                piece = data[start : start + 256]
                at_s = max(at_s, time.perf_counter()) + len(piece) * BITS_PER_BYTE / self.baud
                time.sleep(max(0.0, at_s - time.perf_counter()))
                with self._ready:
                    self._from_board += piece
                    self._ready.notify_all()

    def read(self, timeout_s: float) -> bytes:
        with self._ready:
            if not self._from_board:
                self._ready.wait_for(lambda: bool(self._from_board), timeout_s)
            data = bytes(self._from_board)
            self._from_board.clear()
        return data

    def discard_input(self) -> None:
        with self._ready:
            self._from_board.clear()

    def set_baud(self, baud: int) -> None:
        self.baud = baud

    def set_lines(self, dtr: bool, rts: bool) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.perf_counter()

    def close(self) -> None:
        self._running = False


MEMORY_TARGET = """
import sys
sys.path.insert(0, "/flash")
import target
class Memory:
    def __init__(self):
        self.bytes = bytearray(%d)
    def info(self):
        return {}
    def buffer(self, name):
        return self.bytes
    writable = buffer
    def run(self, stages):
        return {}
target.Parts = Memory
target.serve()
"""
"""The board's end as it is, over a plain buffer in place of the picture."""


def real(baud: int, size: int) -> tuple[float, float, int]:
    """Seconds to the board, seconds back, and bytes that its ring dropped, with a real MicroPython and a paced line."""
    folder = Path(tempfile.mkdtemp(prefix="bench-link-"))
    try:
        for name in TARGET.files:
            shutil.copy(FIRMWARE_DIR / name, folder)
        script = folder / "run.txt"
        script.write_text(MEMORY_TARGET % size, encoding="utf-8")
        data = random.Random(2).randbytes(size)
        with MicroPythonVm(folder, Devices(), script=str(script)) as vm:
            line = PacedLine(vm, baud)
            board = BoardLink(line)
            board.connect()
            board.get(link.PICTURE, 60_000 if size > 60_000 else size)  # messages have grown to their length
            start_s = time.perf_counter()
            board.put(link.PICTURE, data)
            middle_s = time.perf_counter()
            back = board.get(link.PICTURE, size)
            end_s = time.perf_counter()
            assert back == data
            board.close()
            line.close()
        return middle_s - start_s, end_s - middle_s, line.dropped
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def repl_copy_bytes(size: int) -> int:
    r"""Bytes on the line for `size` bytes as mpremote's fs_writefile sends them: w(b'…') with \xNN, 256 at a time."""
    data = random.Random(3).randbytes(size)
    total = 0
    for at in range(0, size, MPREMOTE_CHUNK_BYTES):
        total += len("w(" + repr(data[at : at + MPREMOTE_CHUNK_BYTES]) + ")") + 1 + len("OK\x04\x04>")
    return total


def on_maixpy() -> None:
    """Send a QVGA frame to stock MaixPy and get its planes back at 1.5 Mbaud, emulated."""
    import numpy as np

    entry = catalog.find("maixpy-minimum", "firmware")
    assert entry is not None
    folder = Path(tempfile.mkdtemp(prefix="bench-link-"))
    try:
        board = K210Board(catalog.obtain(entry).read_bytes(), source=scene_camera().frame)
        build = write_build(folder / "qvga", 320, 240)
        transport = installed(board, build, compiled(with_imports("posenet", "boards", "drawing"))).transport
        maixpy = start_target(transport)
        maixpy.speed_up()
        pixels = rgb565.to_memory(np.random.default_rng(9).integers(0, 256, (240, 320, 3)).astype(np.uint8))
        begin_s = transport.now()
        maixpy.put(link.PICTURE, pixels)
        there_s = transport.now() - begin_s
        maixpy.run(["picture", "poses"])
        begin_s = transport.now()
        maixpy.get(link.PLANES, 320 * 240 * 3)
        for head, channels in enumerate(maixpy.board["channels"]):
            maixpy.get(link.HEATMAP + head, 20 * 15 * channels)
        back_s = transport.now() - begin_s
        byte_s = BITS_PER_BYTE / maixpy.baud
        print(f"\nstock MaixPy {maixpy.board['system']} in the K210 emulator, {maixpy.baud} baud")
        size = 320 * 240 * 3 + HEADS_BYTES
        for what, count, seconds in (("frame to board", len(pixels), there_s), ("planes, heads back", size, back_s)):
            print(f"{'':9} {what:20} {count} B, {seconds:.3f} s = {count * byte_s / seconds:.1%} of the line's limit")
        maixpy.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maixpy", action="store_true", help="the fourth part too")
    args = parser.parse_args()
    print("virtual time: part of the line's limit (10 bits a byte), 1 ms latency each way")
    print(f"{'':34}" + "".join(f"{ms:>9.2f} ms" for ms in (0.2, 0.5, 1.0, 2.0)) + "   of board time a frame")
    for baud in RATES:
        for what, size, to_board in (
            ("QVGA frame to the board", FRAME_BYTES, True),
            ("frame and heads to host", FRAME_BYTES + HEADS_BYTES, False),
            ("four heads to the host", HEADS_BYTES, False),
        ):
            limit_s = size * BITS_PER_BYTE / baud
            part = [limit_s / virtual(baud, size, to_board, ms / 1000) for ms in (0.2, 0.5, 1.0, 2.0)]
            print(f"{baud:>9} {what:24}" + "".join(f"{value:>11.1%} " for value in part))
    print("\nreal time: a real MicroPython on this computer behind a paced line, QVGA frame")
    print(f"(load before: {os.getloadavg()[0]:.1f})")
    for baud in RATES:
        limit_s = FRAME_BYTES * BITS_PER_BYTE / baud
        there_s, back_s, dropped = real(baud, FRAME_BYTES)
        print(
            f"{baud:>9} to the board {there_s:7.3f} s = {limit_s / there_s:.1%}, to the host {back_s:7.3f} s = "
            f"{limit_s / back_s:.1%} of the line's limit {limit_s:.3f} s; dropped by the ring: {dropped}"
        )
        if baud == 115_200:
            slow_s = repl_copy_bytes(FRAME_BYTES) * BITS_PER_BYTE / baud
            print(f"{'':9} through the REPL as mpremote copies: at least {slow_s:.1f} s; the link is "
                  f"{slow_s / there_s:.1f} times as fast")  # fmt: skip
    if args.maixpy:
        on_maixpy()


if __name__ == "__main__":
    main()
