"""The whole way to a board and back, with lines and boards that misbehave, and through a real MicroPython."""

from __future__ import annotations

import numpy as np
import pytest

from common import rgb565
from common.errors import UserError
from common.flash_map import KMODEL_ADDRESS
from host_tools.board_frames import measure
from host_tools.board_link import protocol, start_target
from host_tools.board_session import simulated_board
from host_tools.repl import RawRepl
from model_build.engines.kpu import KpuEngine
from sim.boards.faults import Faults
from tests.support.board_web import wait_for
from tests.support.quiet_line import QuietLine

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def picture():
    return np.random.default_rng(9).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def assert_right(frame, picture, build):
    """Check that everything that the board sent belongs to this picture."""
    planes = rgb565.planes_of(rgb565.to_memory(picture), WIDTH, HEIGHT)
    np.testing.assert_array_equal(frame.planes, planes)
    heads = KpuEngine((build / "posenet.kmodel").read_bytes()).run(planes)
    for ours, theirs in zip(frame.heads.values(), heads, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_host_and_simulated_board_agree_on_rgb565():
    """MaixPy's RGB565 rules are written twice on purpose: for the host tools and for the simulated image library."""
    every = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij") + [np.zeros((256, 256), int)], axis=-1)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        picture = every[..., order].astype(np.uint8)
        words = rgb565.pack(picture)
        assert rgb565.to_memory(picture) == words.tobytes()
        np.testing.assert_array_equal(rgb565.planes_of(words.tobytes(), 256, 256), rgb565.to_planes(words))
        np.testing.assert_array_equal(rgb565.picture_of(words.tobytes(), 256, 256), rgb565.unpack(words))


def test_a_line_that_cannot_keep_up_gets_a_lower_rate(build, manifest, picture):
    """A cable damages everything above 500,000 baud. The next lower rate is chosen, and the data is right."""

    def prepare(session):
        session.board.faults = Faults.parse(["baud-limit=500000"])

    with simulated_board(build, prepare) as transport:
        link = start_target(transport)
        assert link.speed_up() == 460_800
        assert_right(measure(link, "x", picture, manifest), picture, build)
        link.close()
        assert link.baud == 115200


def test_a_noisy_line_gives_the_right_bytes(build, manifest, picture):
    """One byte in 2,000 is damaged in each direction. Every byte must be right in the end, and errors were noticed."""
    notes: list[str] = []
    with simulated_board(build) as transport:
        link = start_target(transport, notes.append)
        link.speed_up()
        vars(transport)["board"].faults.__dict__.update(Faults.parse(["noise=5e-4"]).__dict__)
        for _ in range(3):
            assert_right(measure(link, "x", picture, manifest), picture, build)
        assert link.line_figures()["errors"] > 5
        link.close()


@pytest.mark.slow
def test_a_board_that_resets_is_started_again(build, manifest, picture):
    """A reset in the middle of a transfer: the program is started again, and the picture is begun anew."""
    notes: list[str] = []
    with simulated_board(build) as transport:
        link = start_target(transport, notes.append)
        link.speed_up()
        boot = link.board["boot"]
        resets: list[int] = []

        def progress(what, done, total):
            if what == "input planes" and not resets:
                resets.append(done)
                vars(transport)["board"].press_reset(transport.now())

        frame = measure(link, "x", picture, manifest, progress)
        assert_right(frame, picture, build)
        assert resets and link.board["boot"] != boot and link.baud > 115_200
        assert any("restarted" in note for note in notes)
        link.close()


@pytest.mark.slow
def test_a_transfer_continues_after_a_break(build, manifest, picture, monkeypatch):
    """The line is dead for seconds in the middle of a picture. What the board already holds is not sent again."""
    with simulated_board(build) as transport:
        link = start_target(transport)
        data = rgb565.to_memory(picture)
        sent = []
        write = transport.write
        state = {"broken": False, "until": 0.0}

        def broken(payload):
            if transport.now() < state["until"]:
                return
            write(payload)

        def progress(done, total):
            sent.append(done)
            if not state["broken"] and done > total // 2:
                state.update(broken=True, until=transport.now() + 7)

        monkeypatch.setattr(transport, "write", broken)
        monkeypatch.setattr(link.channel, "write", broken)
        link.put(protocol.PICTURE, data, progress)
        assert link.get(protocol.PICTURE, len(data)) == data
        restarts = [b for a, b in zip(sent, sent[1:], strict=False) if b <= a]
        assert state["broken"] and (not restarts or restarts[0] > len(data) // 4)
        link.close()


def test_refusals_are_said_in_the_boards_words(build, manifest):
    """A wrong length, stage or buffer ends with exit code 2 and the reason that the board gives."""
    with simulated_board(build) as transport:
        link = start_target(transport)
        with pytest.raises(UserError, match="6144 bytes here, but the host sends 100") as error:
            link.put(protocol.PICTURE, bytes(100))
        assert error.value.exit_code == 2
        with pytest.raises(UserError, match="stage dance is not known"):
            link.run(["dance"])
        with pytest.raises(UserError, match="buffer 99 is not known"):
            link.get(99, 4)
        with pytest.raises(UserError, match="cannot be written"):
            link.put(protocol.PLANES, bytes(3 * WIDTH * HEIGHT))
        assert link.info()["network"] == "small"  # The board still works.
        link.close()


def test_the_prompt_is_back_afterwards(build):
    """After BYE, and after three times Ctrl-C, other tools must find the prompt at 115,200 baud."""
    from host_tools.repl import RawRepl

    with simulated_board(build) as transport:
        link = start_target(transport)
        link.speed_up(921_600)
        link.close()
        assert RawRepl(transport).try_enter()
        link = start_target(transport)
        transport.write(protocol.STOP)
        transport.sleep(0.5)
        assert RawRepl(transport).try_enter()


def test_a_board_without_the_files_gets_them(build, manifest, picture):
    """link.py and target.py are brought along if they are missing, and old versions on the board are replaced."""

    def prepare(session):
        (session.flash_dir / "link.py").write_text("PROTOCOL = 0\n")
        (session.flash_dir / "target.py").unlink()

    notes: list[str] = []
    with simulated_board(build, prepare) as transport:
        link = start_target(transport, notes.append)
        assert_right(measure(link, "x", picture, manifest), picture, build)
        link.close()
    assert any("link.py written" in note for note in notes) and any("target.py written" in note for note in notes)


def test_a_line_that_nobody_answers_is_said():
    """Somebody chose the wrong port. After less than 30 seconds one line says that no MaixPy answers."""

    line = QuietLine()
    with pytest.raises(UserError, match="no answer from a MaixPy prompt") as error:
        start_target(line)
    assert error.value.exit_code == 2 and line.time_s < 30


def test_the_link_works_through_a_pseudo_terminal(build, manifest, picture, tmp_path):
    """Users have pyserial on a port, real time, and rates that are set on the port's own side."""
    from common.transport import SerialTransport
    from host_tools.board_session import install_files
    from sim.boards.simulated_session import SimulatedSession
    from sim.live.line_server import LiveBoard, PtyLine

    session = SimulatedSession(tmp_path / "board")
    kmodel = (build / "posenet.kmodel").read_bytes()
    session.devices.flash[KMODEL_ADDRESS : KMODEL_ADDRESS + len(kmodel)] = kmodel
    install_files(build, session.flash_dir)
    live = LiveBoard(session.board)
    line = PtyLine(live)
    live.start()
    transport = SerialTransport(str(line.path))
    try:
        assert RawRepl(transport).read_until(b">>> ", 120) is not None
        link = start_target(transport)
        wait_for(lambda: link.speed_up() > 115_200)  # A busy computer may miss the moment at which both ends change.
        assert_right(measure(link, "x", picture, manifest), picture, build)
        link.close()
    finally:
        transport.close()
        line.close()
        live.stop()
        session.forget()
