"""The link's protocol accepts nothing wrong and uses the line well."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serial_line import End, Noise, Wire, run
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from tests.support.micropython_command import micropython_command

link = firmware_module("link")


class Pair:
    """A host and a board on one noisy line."""

    def __init__(self, baud=115200, noise=None, latency_s=0.001, frame_s=0.0005):
        noise = noise or (lambda seed: Noise())
        self.up, self.down = Wire(baud, latency_s, noise(1)), Wire(baud, latency_s, noise(2))
        self.host = link.Link(16_000, 4000)
        self.host_end = End(self.host, self.down, self.up, frame_s=2e-5)
        self.board_end = End(self.new_board(), self.up, self.down, link.RING_BYTES, frame_s)

    def new_board(self):
        """What a reset leaves: a link that knows nothing."""
        return link.Link()

    @property
    def board(self):
        return self.board_end.link

    def reset_board(self):
        self.board_end.link = self.new_board()

    def run(self, until, limit_s=600.0, step_s=0.00005):
        return run([self.host_end, self.board_end], until, limit_s, step_s)


@given(st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=300))
def test_a_frame_comes_back_as_it_was(kind, session, number, payload):
    """Escaping and CRC lose nothing. No frame has an END inside or a Ctrl-C anywhere, which would stop the program."""
    frame = link.encode(kind, session, number, payload)
    assert frame[:1] == frame[-1:] == link.END and link.END not in frame[1:-1]
    assert b"\x03" not in frame and b"\n" not in frame
    assert link.decode(frame[1:-1]) == (kind, session, number, payload)


@given(st.binary(max_size=64), st.data())
def test_a_damaged_frame_is_refused(payload, data):
    """Up to three changed bytes never make another valid frame; a CRC-32 must notice such a burst."""
    frame = bytearray(link.encode(link.DATA, 9, 1, payload)[1:-1])
    whole = bytes(frame)
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    found = link.decode(bytes(frame))
    assert found is None or bytes(frame) == whole


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_survived(pieces):
    """The receiver survives anything and makes no message of it, before and inside a session."""
    for session in (0, 5):
        end = link.Link()
        if session:
            end.feed(link.encode(link.HELLO, session, 0, b"\x01\x00\x08\x00\x01"), 0)
        for piece in pieces:
            end.feed(piece, 0)
            end.output(0)
        assert end.inbox == []


@given(st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=12))
def test_nonsense_in_a_valid_frame_is_survived(kind, number, payload):
    """A frame with a right CRC and wrong content raises at most a LinkError, for another protocol number."""
    end = link.Link()
    end.feed(link.encode(link.HELLO, 5, 0, b"\x01\x00\x08\x00\x01"), 0)
    try:
        end.feed(link.encode(kind, 5, number, payload), 0)
        end.feed(link.encode(kind, 6, number, payload), 0)
    except link.LinkError:
        assert kind in (link.HELLO, link.WELCOME)
    for _ in range(9):
        end.output(0)


@given(st.lists(st.binary(min_size=0, max_size=200), min_size=1, max_size=30), st.integers(0, 10**6), st.booleans())
def test_messages_arrive_once_and_in_order(messages, seed, to_board):
    """With 0.2 % of the bytes changed and 0.1 % dropped, each message arrives exactly once, in order and unchanged."""
    pair = Pair(noise=lambda n: Noise(0.002, 0.001, seed * 2 + n))
    pair.host.open(1 + seed % 65535)
    received: list[Any] = []
    started: list[Any] = []

    def until(_now_s):
        source, sink = (pair.host, pair.board) if to_board else (pair.board, pair.host)
        if source.up and not started:
            started.append(True)
            for message in messages:
                source.send(link.PING, message)
        received.extend(sink.inbox)
        sink.inbox.clear()
        return started and len(received) >= len(messages) and source.idle()

    pair.run(until, step_s=0.0005)
    assert received == [(link.PING, message) for message in messages]


def noisy_messages(count, error, drop, resets, seed=1):
    """Send `count` numbered messages there and back, with resets of the board in between; return what was seen."""
    pair = Pair(noise=lambda n: Noise(error, drop, seed * 10 + n))
    generator = random.Random(seed)
    messages = [index.to_bytes(4, "little") + generator.randbytes(generator.randrange(0, 33)) for index in range(count)]
    wrong, confirmed, session = [], 0, 1
    sessions = 1
    pair.host.open(session)
    in_session: list[int] = []
    echoed: list[int] = []
    next_out = 0
    reset_at = [count * (i + 1) // (resets + 1) for i in range(resets)]
    board_got: set[int] = set()

    def take(inbox, log):
        for kind, payload in inbox:
            index = int.from_bytes(payload[:4], "little")
            if kind != link.PING or index >= count or payload != messages[index] or (log and index != log[-1] + 1):
                wrong.append((kind, payload))
            log.append(index)
        inbox.clear()

    def until(_now_s):
        nonlocal session, next_out, confirmed, sessions
        host, board = pair.host, pair.board
        for kind, payload in board.inbox:
            board.send(kind, payload)  # The board sends everything back.
            board_got.add(int.from_bytes(payload[:4], "little"))
        take(board.inbox, in_session)
        take(host.inbox, echoed)
        if echoed:
            confirmed = max(confirmed, echoed[-1] + 1)
        if reset_at and confirmed >= reset_at[0]:
            reset_at.pop(0)
            pair.reset_board()
            in_session.clear()
        if host.lost:
            session += 1
            sessions += 1
            host.open(session)
            in_session.clear()
            echoed.clear()
            next_out = confirmed  # Continue after the last answer.
        while host.up and next_out < count and host.room():
            host.send(link.PING, messages[next_out])
            next_out += 1
        return confirmed >= count

    seconds = pair.run(until, limit_s=20000, step_s=0.0005)
    assert len(board_got) == count
    return wrong, sessions, seconds, pair


@pytest.mark.slow
def test_ten_thousand_messages_survive_noise_and_resets():
    """With 1 % of the bytes changed, 1 % dropped and ten resets, nothing wrong is accepted and everything arrives."""
    wrong, sessions, _seconds, pair = noisy_messages(5000, 0.01, 0.01, resets=10)  # Each goes there and back.
    assert wrong == []
    assert sessions == 11
    assert pair.host.errors > 1000 and pair.host.resent > 1000  # There really was noise.


def transfer(baud, to_board, data, chunk_of=5, **options):
    """The seconds that `data` takes through the link, in messages with a transfer's header."""
    pair = Pair(baud, **options)
    pair.host.open(3)
    source, sink = (pair.host, pair.board) if to_board else (pair.board, pair.host)
    got, sent, started = bytearray(), 0, None

    def until(now_s):
        nonlocal sent, started
        if not (source.up and sink.up):
            return False
        started = now_s if started is None else started
        while sent < len(data) and source.room():
            piece = data[sent : sent + source.chunk_bytes() - chunk_of]
            source.send(link.PART, bytes(chunk_of) + piece)
            sent += len(piece)
        for _kind, payload in sink.inbox:
            got.extend(payload[chunk_of:])
        sink.inbox.clear()
        return len(got) >= len(data)

    ended = pair.run(until, step_s=min(0.0005, 50 / baud))
    assert bytes(got) == data
    return ended - (started or 0.0), pair


@pytest.mark.parametrize("baud", [115200, 1_500_000])
@pytest.mark.parametrize("to_board", [True, False], ids=["to board", "to host"])
def test_the_line_is_used(baud, to_board):
    """A picture should take hardly longer than its bytes do, and the board's ring buffer must not overflow."""
    size = 153_600 + 34_500  # A QVGA frame and all heads.
    data = random.Random(4).randbytes(size)
    seconds, pair = transfer(baud, to_board, data)
    assert size * 10 / baud / seconds >= 0.85
    assert pair.board_end.overflowed_bytes == 0


def test_a_busy_board_loses_nothing():
    """A board in a forward pass looks at its ring buffer only every 50 ms, and the window must fit into the ring."""
    data = random.Random(5).randbytes(20_000)
    _seconds, pair = transfer(1_500_000, True, data, frame_s=0.05)
    assert pair.board_end.overflowed_bytes == 0


def test_chunks_shrink_on_a_noisy_line():
    """With 0.5 % of changed bytes a long frame never arrives, so messages must become short."""
    data = random.Random(6).randbytes(20_000)
    _seconds, pair = transfer(115200, False, data, noise=lambda n: Noise(0.005, 0, n))
    assert pair.board.chunk_bytes() < 400


def test_stray_prints_are_kept_apart():
    """What a program prints between frames must reach the user and must not damage a message."""
    end = link.Link()
    end.feed(link.encode(link.HELLO, 5, 0, b"\x01\x00\x08\x00\x01"), 0)
    end.feed(b"kpu_net __del__\r\n" + link.encode(link.DATA, 5, 0, b"\x04one") + b"[MAIXPY]: x\r\n", 0)
    end.feed(link.encode(link.DATA, 5, 1, b"\x04two"), 0)
    assert end.inbox == [(4, b"one"), (4, b"two")]
    assert b"".join(end.strays) == b"kpu_net __del__\r\n[MAIXPY]: x\r\n"


def test_three_stop_bytes_end_the_session():
    """The way back to the prompt must work even if the bytes arrive in two reads."""
    end = link.Link()
    end.feed(b"\x03\x03", 0)
    assert not end.stop
    end.feed(b"\x03", 0)
    assert end.stop


def test_a_restarted_board_is_noticed():
    """Data for a session that the board has forgotten is answered, so that the host knows that it must begin again."""
    pair = Pair()
    pair.host.open(77)
    pair.run(lambda _now: pair.host.up)
    pair.reset_board()
    pair.host.send(link.PING, b"lost")
    pair.run(lambda _now: pair.host.lost, limit_s=3)
    assert pair.board.inbox == []


def test_micropython_makes_the_same_frames(tmp_path):
    """The board's kind of interpreter compiles the very same file; both must make equal frames of equal messages."""
    program = (
        f"import sys, binascii; sys.path.append({str(FIRMWARE_DIR)!r})"
        + """
import link
for n in (0, 1, 65535):
    frame = link.encode(link.DATA, 700 + n & 0xffff, n, bytes(range(256)) * 2)
    assert link.decode(frame[1:-1]) == (link.DATA, 700 + n & 0xffff, n, bytes(range(256)) * 2)
    print(binascii.hexlify(frame).decode())
"""
    )
    there = subprocess.run([micropython_command(), "-c", program], capture_output=True, text=True, check=True).stdout
    here = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert there == here and there.count("\n") == 3
