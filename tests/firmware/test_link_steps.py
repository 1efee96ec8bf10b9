"""The link's state machine step by step: what is sent when, to the millisecond, frame and byte (docs/link.md)."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from common.firmware_modules import firmware_module

link = firmware_module("link")
SESSION = 7


def test_the_numbers_of_messages_and_buffers_are_the_protocols():
    """Host and board need not have the same version of the program, so the numbers of docs/link.md must not change."""
    assert (link.INFO, link.BAUD, link.PING, link.OPEN, link.WRITE, link.READ, link.RUN, link.BYE) == (
        1,
        2,
        4,
        5,
        6,
        7,
        8,
        9,
    )
    assert (link.PART, link.REPORT, link.FAILED, link.STATE) == (0x11, 0x12, 0x13, 0x14)
    assert bytes((link.DATA, link.ACK, link.HELLO, link.WELCOME, link.UNKNOWN)) == b"DAHWU"
    assert (link.PICTURE, link.PLANES, link.HEATMAP, link.POSES) == (0, 1, 2, 6)


def hello(ring: int = 2048, largest: int = 1000, protocol: int = 1) -> bytes:
    return struct.pack("<BHH", protocol, ring, largest)


def frame(kind: int, number: int, payload: bytes = b"", session: int = SESSION) -> bytes:
    return bytes(link.encode(kind, session, number, payload))


def ack(number: int, early: int = 0) -> bytes:
    return frame(link.ACK, number, struct.pack("<I", early))


def data(number: int, text: bytes = b"x", session: int = SESSION) -> bytes:
    return frame(link.DATA, number, b"\x04" + text, session)


def said(end: Any, now_ms: int, resting: bool = True) -> list[tuple[int, int, bytes]]:
    """(type, number, payload) of everything that this end has to send now."""
    found = []
    while out := end.output(now_ms, resting):
        kind, _session, number, payload = link.decode(out[1:-1])
        found.append((kind, number, bytes(payload)))
    return found


def numbers(end: Any, now_ms: int) -> list[int]:
    """The numbers of the data frames that this end sends now."""
    return [number for kind, number, _ in said(end, now_ms) if kind == link.DATA]


def host(ring: int = 2048, largest: int = 1000) -> Any:
    """A host whose session has just been welcomed, at 0 ms."""
    end = link.Link()
    end.open(SESSION)
    said(end, 0)
    end.feed(frame(link.WELCOME, 0, hello(ring, largest)), 0)
    assert end.up
    return end


def board() -> Any:
    """A board whose session has just begun, at 0 ms."""
    end = link.Link()
    end.feed(frame(link.HELLO, 0, hello()), 0)
    assert said(end, 0) == [(link.WELCOME, 0, hello(2048, 256))]
    return end


def test_a_host_says_hello_every_100_ms_until_it_is_welcomed() -> None:
    """The board may start later than the host, and a frame may be lost."""
    end = link.Link(ring_bytes=4096, largest_bytes=300)
    assert said(end, 0) == [], "no session yet"
    end.open(SESSION)
    assert said(end, 1000) == [(link.HELLO, 0, hello(4096, 300))]
    assert said(end, 1099) == []
    assert len(said(end, 1100)) == 1
    end.feed(frame(link.WELCOME, 0, hello(), session=SESSION + 1), 1150)
    assert not end.up, "another session's welcome"
    end.feed(frame(link.WELCOME, 0, hello()), 1150)
    assert end.up and said(end, 1300) == []


def test_what_is_agreed_comes_from_the_other_end() -> None:
    """The window is the other end's ring buffer without 256 bytes for answers.

    Messages are at most as long as the other end allows, and 256 bytes to begin with.
    """
    end = host(2048, 1000)
    assert (end.peer_largest_bytes, end.chunk_bytes(), end._window_bytes) == (1000, 256, 1792)
    assert host(2048, 100).chunk_bytes() == 100
    end.feed(frame(link.WELCOME, 0, hello(9999, 9999)), 5)
    assert end.peer_largest_bytes == 1000, "only the first welcome counts"
    with pytest.raises(link.LinkError, match="link protocol 2, this one 1"):
        link.Link().feed(frame(link.HELLO, 0, hello(protocol=2)), 0)


def test_a_board_forgets_the_old_session_and_greets_the_new() -> None:
    """A repeated HELLO of the same session is answered again, but nothing is forgotten."""
    end = board()
    end.feed(data(0), 1)
    assert len(end.inbox) == 1
    end.feed(frame(link.HELLO, 0, hello()), 2)
    assert len(end.inbox) == 1 and (link.WELCOME, 0, hello(2048, 256)) in said(end, 2)
    end.feed(link.encode(link.HELLO, SESSION + 1, 0, hello()), 3)
    assert end.inbox == [] and end.session == SESSION + 1
    end.feed(link.encode(link.HELLO, SESSION + 2, 0, hello() + b"x"), 3)
    assert end.session == SESSION + 1, "a greeting of another length is none"


def test_every_second_frame_is_acknowledged_and_the_last_one_when_the_line_rests() -> None:
    """Fewer acknowledgements leave more of the line to data, but the sender must not wait for the last one."""
    end = board()
    end.feed(data(0, b"a"), 1)
    assert said(end, 1, resting=False) == []
    end.feed(data(1, b"b"), 1)
    assert said(end, 1, resting=False) == [(link.ACK, 2, bytes(4))]
    end.feed(data(2, b"c"), 1)
    assert said(end, 1, resting=False) == [] and said(end, 1, resting=True) == [(link.ACK, 3, bytes(4))]
    assert said(end, 1) == []
    assert end.inbox == [(4, b"a"), (4, b"b"), (4, b"c")]


def test_a_gap_and_a_repetition_are_said_at_once() -> None:
    """In the map, bit i says that number (expected + 1 + i) has come.

    Early frames are delivered once the gap closes.
    """
    end = board()
    end.feed(data(1, b"b"), 1)
    assert said(end, 1, resting=False) == [(link.ACK, 0, struct.pack("<I", 1))]
    end.feed(data(4, b"e"), 1)
    assert said(end, 1, resting=False) == [(link.ACK, 0, struct.pack("<I", 0b1001))]
    assert end.inbox == []
    end.feed(data(0, b"a"), 1)
    assert [message for _, message in end.inbox] == [b"a", b"b"]
    assert said(end, 1) == [(link.ACK, 2, struct.pack("<I", 0b10))]
    end.feed(data(1, b"?"), 1)
    assert said(end, 1, resting=False) == [(link.ACK, 2, struct.pack("<I", 0b10))]
    end.feed(data(2 + 31, b"f") + data(2 + 32, b"g"), 1)
    assert said(end, 1) == [(link.ACK, 2, struct.pack("<I", 1 << 30 | 0b10))], "32 frames ahead are kept, no more"
    assert [message for _, message in end.inbox] == [b"a", b"b"]


def test_frames_of_a_session_that_is_not_ours_are_answered_once_a_batch() -> None:
    """The other end learns that its session is unknown, but not once for each of its frames."""
    for end in (link.Link(), board()):
        end.feed(data(0, session=99) + data(1, session=99), 1)
        out = end.output(1)
        assert link.decode(out[1:-1])[:3] == (link.UNKNOWN, 99, 0)
        assert said(end, 1) == [] and end.inbox == []
    end = board()
    end.feed(frame(link.DATA, 0), 1)
    assert said(end, 1) == [], "a data frame without a message kind is nothing"


def test_only_its_own_session_can_end_it() -> None:
    """A late frame of an earlier session must not end the present one."""
    end = host()
    end.feed(link.encode(link.UNKNOWN, 99, 0), 1)
    assert not end.lost
    end.feed(frame(link.UNKNOWN, 0), 1)
    assert end.lost
    end = link.Link()
    end.open(SESSION)
    end.feed(frame(link.UNKNOWN, 0), 1)
    assert not end.lost, "a session that never began cannot be lost"


def test_at_most_32_frames_and_the_rings_bytes_are_under_way() -> None:
    """More frames would not fit into the map of acknowledgements, and more bytes would overflow the ring buffer."""
    end = host()
    for _ in range(40):
        end.send(link.PING, b"x")
    assert numbers(end, 0) == list(range(32))
    assert not end.room() and not end.idle()
    end.feed(ack(3), 10)
    assert numbers(end, 10) == [32, 33, 34]
    # Seven frames fill the window to the byte, so an eighth waits.
    text = b"x" * 200
    seven = sum(len(data(number, text)) for number in range(7))
    for spare, sent in ((0, 7), (-1, 6)):
        end = host(ring=256 + seven + spare)
        for _ in range(9):
            end.send(link.PING, text)
        assert numbers(end, 0) == list(range(sent))
        end.feed(ack(1), 10)
        assert numbers(end, 10)[0] == sent
    # A frame that is longer than the window goes alone.
    end = host(ring=300)
    for _ in range(2):
        end.send(link.PING, b"x" * 200)
    assert numbers(end, 0) == [0]
    end.feed(ack(1), 10)
    assert numbers(end, 10) == [1]


def test_there_is_room_when_a_message_of_the_present_length_would_go_at_once() -> None:
    """A sender that asks for room never waits inside send()."""
    end = host(ring=256 + 2 * (256 + 12))
    assert end.room()
    end.send(link.PING, b"x" * 256)
    assert not end.room(), "not while one waits"
    said(end, 0)
    assert end.room()
    end.send(link.PING, b"x" * 257)
    said(end, 0)
    assert not end.room()
    closed = link.Link()
    assert not closed.room() and closed.idle()


def test_what_was_sent_before_something_acknowledged_is_lost() -> None:
    """Frame 0 is missing although 1 came.

    It is sent again at once and only once, before new frames and without a timer.
    """
    end = host()
    for _ in range(3):
        end.send(link.PING, b"x")
    assert numbers(end, 0) == [0, 1, 2]
    end.send(link.PING, b"y")
    end.feed(ack(0, 0b1), 10)
    assert numbers(end, 10) == [0, 3] and end.resent == 1
    end.feed(ack(0, 0b1), 11)
    assert numbers(end, 11) == [], "nothing new in it"
    end.feed(ack(0, 0b101), 12)
    assert numbers(end, 12) == [0, 2], "3 was sent after 0 was sent again, and it came: both are lost"
    assert end.resent == 3


def test_lost_frames_go_again_in_their_order() -> None:
    """The receiver delivers in order, so the oldest missing frame is worth most."""
    end = host()
    for _ in range(5):
        end.send(link.PING, b"x")
    said(end, 0)
    end.feed(ack(0, 0b1010), 10)  # Frames 2 and 4 have arrived.
    assert numbers(end, 10) == [0, 1, 3] and end.resent == 3
    end.feed(ack(5), 20)
    assert end.idle() and numbers(end, 5000) == []


def test_silence_sends_the_oldest_again_with_growing_patience() -> None:
    """The wait is twice the round trip (200 ms to begin with) and 20 ms. It doubles each time up to 2 s."""
    end = host()
    end.send(link.PING, b"x")
    end.send(link.PING, b"x")
    assert numbers(end, 1000) == [0, 1]
    now = 1000
    for wait in (420, 840, 1680, 2000, 2000, 2000):
        assert end.wait_ms() == wait
        assert numbers(end, now + wait) == []
        now += wait + 1
        assert numbers(end, now) == [0]
    end.feed(ack(1), now)
    assert end.wait_ms() == 420, "patience is as before; a frame that was sent twice tells nothing of the round trip"
    end.feed(ack(2), now + 40)
    assert end.idle()


def test_the_round_trip_is_averaged_over_frames_sent_once() -> None:
    """The answer to a frame that was sent twice does not tell which of the two it belongs to."""
    end = host()
    end.send(link.PING, b"x")
    said(end, 100)
    end.feed(ack(1), 140)
    assert end.wait_ms() == 2 * (200 + (40 - 200) // 8) + 20 == 380


def test_chunks_grow_by_half_and_after_the_first_loss_by_a_sixteenth() -> None:
    """Each loss shrinks them by a quarter, but never below 24 bytes."""
    end = host(largest=500)

    def exchange(acknowledge: bytes, now_ms: int) -> int:
        end.feed(acknowledge, now_ms)
        said(end, now_ms)
        return int(end.chunk_bytes())

    for _ in range(4):
        end.send(link.PING, b"x")
    said(end, 0)
    assert exchange(ack(1), 1) == 256 + 1 + 128
    assert exchange(ack(2), 2) == 500, "never more than the other end takes"
    assert exchange(ack(2, 0b1), 3) == 500 - 125
    assert exchange(ack(4), 4) == 375 + 1 + 23
    end._chunk = 30
    for _ in range(2):
        end.send(link.PING, b"x")
    said(end, 4)
    assert exchange(ack(4, 0b1), 5) == 24


def test_acknowledgements_of_what_was_never_sent_change_nothing() -> None:
    """A damaged or outdated acknowledgement must not make the sender forget a frame."""
    end = host()
    for _ in range(2):
        end.send(link.PING, b"x")
    said(end, 0)
    end.feed(ack(33), 1)
    assert not end.idle() and end._first == 0
    end.feed(ack(0xFFFF), 1)
    assert not end.idle() and end._first == 0
    end.feed(frame(link.ACK, 2, bytes(3)), 1)
    assert not end.idle()
    end.feed(ack(2), 1)
    assert end.idle() and end._flying_bytes == 0


def test_numbers_continue_with_0_after_65535() -> None:
    """Both ends must agree after 65,536 frames."""
    sender, receiver = host(), board()
    sender._first = sender._next = receiver._expected = 0xFFFE
    for text in (b"a", b"b", b"c"):
        sender.send(link.PING, text)
    frames = [sender.output(0) for _ in range(3)]
    receiver.feed(frames[1] + frames[2], 1)
    assert said(receiver, 1) == [(link.ACK, 0xFFFE, struct.pack("<I", 0b11))]
    receiver.feed(frames[0], 1)
    assert [message for _, message in receiver.inbox] == [b"a", b"b", b"c"]
    assert said(receiver, 1) == [(link.ACK, 1, bytes(4))]
    sender.feed(ack(0xFFFE, 0b11), 2)
    assert numbers(sender, 2) == [0xFFFE]
    sender.feed(ack(1), 3)
    assert sender.idle() and sender._first == 1


def test_noise_is_counted_and_kept_within_bounds() -> None:
    """16 pieces are kept for the user, and a line without an END is cut at twice the longest frame."""
    end = board()
    for number in range(20):
        end.feed(b"print %d\xc0" % number, 1)
    assert end.errors == 20 and len(end.strays) == 16
    del end.strays[:]
    end.feed(b"y" * (2 * (256 + 12)), 1)
    assert end.strays == []
    end.feed(b"y", 1)
    assert [len(stray) for stray in end.strays] == [537]
    end.feed(data(0), 9)
    assert end.frames == 2 and end.last_frame_ms == 9 and len(end.inbox) == 1
    end.feed(b"\x03", 9)
    end.feed(b"\x03", 9)
    assert not end.stop
    end.feed(b"\x03", 9)
    assert end.stop


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_short_pieces_are_no_frames(length: int) -> None:
    """A frame has at least nine bytes inside: type, session, number and CRC-32."""
    assert link.decode(bytes(length)) is None
    whole = link.encode(link.ACK, 1, 4)[1:-1]
    assert len(whole) == 9 and link.decode(whole)[:3] == (link.ACK, 1, 4)
    assert link.decode(whole[:-1]) is None


class Line:
    """A clock that advances by what is waited, and everything that was written."""

    def __init__(self) -> None:
        self.ms = 0
        self.written = b""
        self.coming: list[tuple[int, bytes]] = []

    def read(self, wait_ms: int) -> bytes:
        if self.coming and self.coming[0][0] <= self.ms + wait_ms:
            when, piece = self.coming.pop(0)
            self.ms = max(self.ms, when)
            return piece
        self.ms += wait_ms
        return b""

    def write(self, out: bytes) -> None:
        self.written += out


def channel() -> tuple[Any, Line]:
    line = Line()
    return link.Channel(link.Link(), line.read, line.write, lambda: line.ms), line


def test_a_channel_gives_up_in_its_time() -> None:
    """Connecting, receiving, flushing and sending wait no longer than they were told, and name the time."""
    made, line = channel()
    with pytest.raises(link.LinkError, match="no answer to HELLO within 300 ms"):
        made.connect(SESSION, 300)
    assert 300 < line.ms <= 310
    line.coming = [(line.ms + 20, frame(link.WELCOME, 0, hello()))]
    made.connect(SESSION, 300)
    start = line.ms
    with pytest.raises(link.LinkError, match="no message for 200 ms"):
        made.receive(200)
    assert 200 < line.ms - start <= 210
    assert made.flush(100) is True and line.ms - start <= 210, "nothing to wait for"
    made.send(link.PING, b"x")
    start = line.ms
    assert made.flush(100) is False and 100 < line.ms - start <= 110
    line.coming = [(line.ms + 30, ack(1) + data(0, b"answer"))]
    assert made.flush(100) is True
    assert made.receive(10) == (4, b"answer")


def test_sending_waits_while_anything_moves() -> None:
    """With a full window, each sign of life begins the wait anew, and silence ends it."""
    made, line = channel()
    line.coming = [(0, frame(link.WELCOME, 0, hello(ring=300)))]
    made.connect(SESSION, 300)
    made.send(link.PING, b"x" * 40)
    start = line.ms
    line.coming = [(start + 80, b"stray\xc0"), (start + 160, b"stray\xc0")]
    heard: list[bytes] = []
    made.on_stray = heard.append
    with pytest.raises(link.LinkError, match="nothing acknowledged for 100 ms"):
        made.send(link.PING, b"y" * 40, timeout_ms=100)
    assert 260 < line.ms - start <= 275 and heard == [b"stray", b"stray"]
    line.coming = [(line.ms + 50, frame(link.UNKNOWN, 0))]
    with pytest.raises(link.LinkResetError):
        made.send(link.PING, b"y", timeout_ms=100)
