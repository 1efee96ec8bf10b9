"""The wall time of flashing 1.3 MB to an empty board at 1.5 Mbaud, compared with the limit of the line.

    python -m benchmarks.flash_time [--real-flash-times]

The simulated board is served on an RFC 2217 port in real time with the line's rate modelled; flash.py's own ISP
client writes the kmodel. The limit is the time of the bytes on the wire: the stub at 115200 baud, the rest at
1.5 Mbaud, ten bits a byte. kflash writes the same board in the same run for comparison (not with --no-peer).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import kfpkg
from common.cli import guarded
from common.flash_map import KMODEL_ADDRESS
from common.flash_parts import FlashPart
from common.isp_protocol import FLASH_FRAME_BYTES, SRAM_FRAME_BYTES, stub_program
from common.transport import SerialTransport
from host_tools.isp_client import IspClient
from sim.boards.simulated import SimulatedBoard
from sim.live.line_server import LiveBoard, Rfc2217Line
from sim.parts.isp_endpoint import FlashTiming, NorFlash

BAUD = 1_500_000
KMODEL_BYTES = 1_300_000
KFLASH = (
    "import sys, serial; serial.Serial = lambda port, **settings: serial.serial_for_url(port, **settings); "
    "import kflash; sys.exit(kflash.main())"
)


def escaped_bytes(data: bytes, frame_bytes: int) -> int:
    """The bytes on the wire: frames with their header, ends and SLIP escapes, and 4 bytes of each answer."""
    frames = -(-len(data) // frame_bytes)
    return len(data) + data.count(0xC0) + data.count(0xDB) + frames * (18 + 4)


def limit_s(kmodel: bytes) -> float:
    """The time that the wire needs for all of it."""
    return escaped_bytes(stub_program(), SRAM_FRAME_BYTES) * 10 / 115_200 + (
        escaped_bytes(kmodel, FLASH_FRAME_BYTES) * 10 / BAUD
    )


@contextlib.contextmanager
def served(timing: FlashTiming) -> Iterator[tuple[SimulatedBoard, str]]:
    """Serve a simulated board on a port; yields (board, url)."""
    board = SimulatedBoard(NorFlash(timing=timing))
    live = LiveBoard(board)
    line = Rfc2217Line(live)
    live.start()
    try:
        yield board, line.url
    finally:
        line.close()
        live.stop()


def ours(kmodel: bytes, timing: FlashTiming) -> float:
    with served(timing) as (board, url):
        transport = SerialTransport(url)
        started = time.perf_counter()
        client = IspClient(transport, ("dan",))
        client.write([FlashPart("posenet.kmodel", KMODEL_ADDRESS, kmodel)])
        client.reboot()
        passed = time.perf_counter() - started
        transport.close()
        assert bytes(board.flash.image[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)]) == kmodel
    return passed


def peer(kmodel: bytes, timing: FlashTiming) -> float:
    with served(timing) as (board, url), tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "model.kfpkg"
        kfpkg.write(package, [FlashPart("posenet.kmodel", KMODEL_ADDRESS, kmodel)])
        started = time.perf_counter()
        command = [sys.executable, "-c", KFLASH, "-n", "-p", url, "-B", "dan", "-b", str(BAUD), str(package)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        passed = time.perf_counter() - started
        assert bytes(board.flash.image[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)]) == kmodel
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real-flash-times", action="store_true", help="the chip needs its data sheet's times too")
    parser.add_argument("--no-peer", action="store_true", help="without kflash")
    options = parser.parse_args()
    timing = FlashTiming() if options.real_flash_times else FlashTiming.instant()
    kmodel = random.Random(5).randbytes(KMODEL_BYTES)
    limit = limit_s(kmodel)
    measured = ours(kmodel, timing)
    print(f"line limit           {limit:6.2f} s  ({KMODEL_BYTES} bytes at {BAUD} baud, stub at 115200)")
    print(f"flash.py             {measured:6.2f} s  {100 * (measured / limit - 1):+.1f} % over the limit")
    if not options.no_peer:
        theirs = peer(kmodel, timing)
        print(f"kflash 1.1.6         {theirs:6.2f} s  ratio flash.py/kflash {measured / theirs:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
