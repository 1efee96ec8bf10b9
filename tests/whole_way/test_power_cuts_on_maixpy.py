"""Copying scripts to MaixPy's real SPIFFS is cut off between its program and erase operations, in the K210 emulator.

test_install_campaign.py cuts a model of SPIFFS at every step; a few cuts here show that the model's rules are right.
The flash keeps what it held at that moment, the board is reset, and its program tells which version runs.
"""

from __future__ import annotations

import zlib

import pytest

from common.flash_map import FILES_ADDRESS
from host_tools.repl import RawRepl
from tests.support.images import firmware_image

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image]

CUTS = 12


def version(number):
    """Two scripts that tell whether they belong together; the larger one takes several pages."""
    return {
        "main.py": b"import part\nprint('main %d, part', part.VERSION)\n" % number,
        "part.py": b"VERSION = %d\n" % number + b"# %d padding\n" % number * 700,
    }


def test_a_cut_board_starts_the_old_or_the_new_version():
    """Twelve cuts are spread over an update, and the next run must end with exactly the new files."""
    from sim.k210.k210_board import K210Board
    from sim.parts.board_transport import BoardTransport

    board = K210Board(firmware_image().read_bytes())
    repl = RawRepl(BoardTransport(board))
    assert repl.enter_after_reset()
    repl.install(version(1), repl.info())
    snapshot = board.save()

    flash = board.flash
    held = []

    def after(operation):
        def run(*arguments):
            operation(*arguments)
            held.append(zlib.compress(flash.memory[FILES_ADDRESS:], 1))  # Mostly erased, so it is small.

        return run

    vars(flash).update(_program=after(flash._program), _erase=after(flash._erase))
    repl.install(version(2), repl.info())
    del flash._program, flash._erase

    started = []
    for number in range(CUTS):
        at = len(held) * (2 * number + 1) // (2 * CUTS)
        board.restore(snapshot)
        flash.memory[FILES_ADDRESS:] = zlib.decompress(held[at])
        board.press_reset()
        said = (board.run_until_output(b", part ") + board.run_until_output(b"\n")).decode()
        line = next(text for text in said.splitlines() if text.startswith("main "))
        assert line in ("main 1, part 1", "main 2, part 2"), (at, len(held), said)
        started.append(line)
        assert repl.try_enter()
        repl.install(version(2), repl.info())
        assert repl.install(version(2), repl.info()) == []
        assert not [name for name in repl._listdir() if name.startswith("boot") or name.endswith(".new")]
    assert len(set(started)) == 2
