"""The board's half of a session (firmware/target.py), asked by a real link over a line that is only a clock.

The stages need MaixPy and are tested on simulated boards (test_board_link.py). These tests show what a request does to
a transfer, a rate and the session, to the byte and millisecond.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from types import SimpleNamespace
from typing import Any

import pytest

from common.firmware_modules import firmware_module

link = firmware_module("link")
maixpy_api = firmware_module("maixpy_api")
target = firmware_module("target")
FIRST, WHOLE = b"abcd", b"0123456789"


class Desk:
    """Host, line and clock. It asks one thing after another, each once the one before has arrived."""

    def __init__(self, script: list[Any]) -> None:
        self.ms = 0
        self.baud = 115200
        self.rates: list[tuple[int, int]] = []  # (ms, rate) of each change.
        self.script = [*script]
        self.host = link.Link(16_000, 4000)
        self.host.open(1)
        self.deaf = False

    def read(self, wait_ms: int) -> bytes:
        self.ms += max(wait_ms, 1)
        if self.deaf:
            return b""
        if self.host.up and self.host.idle() and self.script:
            request = self.script.pop(0)
            if callable(request):
                request(self)
            else:
                self.host.send(*request)
        return b"".join(iter(lambda: self.host.output(self.ms) or b"", b""))

    def write(self, data: bytes) -> None:
        if not self.deaf:
            self.host.feed(bytes(data), self.ms)

    def set_baud(self, baud: int) -> None:
        if baud > 5_000_000:
            raise ValueError(baud)
        self.rates.append((self.ms, baud))
        self.baud = baud


class Parts:
    """Memory in place of the camera's picture."""

    def __init__(self) -> None:
        self.picture = bytearray(len(WHOLE))
        self.facts: dict[str, Any] = {}

    def writable(self, name: int) -> bytearray:
        if name != link.PICTURE:
            raise target.RequestError(f"buffer {name} cannot be written")
        return self.picture

    def buffer(self, name: int) -> bytes:
        return bytes(range(256)) * 4 if name == link.PLANES else bytes(self.picture)

    def info(self) -> dict[str, Any]:
        return self.facts

    def run(self, stages: list[str]) -> dict[str, Any]:
        return {"us": stages}


def ask(monkeypatch: pytest.MonkeyPatch, *script: Any) -> tuple[list[tuple[int, bytes]], Any, Desk]:
    """What the board answers, the target, and the desk; `script` ends with BYE unless its last entry is None."""
    desk = Desk([*script[:-1]] if script and script[-1] is None else [*script, (link.BYE,)])

    def sleep_ms(ms: int) -> None:
        desk.ms += ms

    clock = SimpleNamespace(ticks_ms=lambda: desk.ms, ticks_diff=lambda end, start: end - start, sleep_ms=sleep_ms)
    monkeypatch.setattr(target, "time", clock)
    served = target.Target(desk, Parts())
    served.run()
    return desk.host.inbox, served, desk


def open_it(data: bytes = WHOLE) -> tuple[int, bytes]:
    return link.OPEN, struct.pack("<BII", link.PICTURE, len(data), zlib.crc32(data))


def write(offset: int, data: bytes, name: int = link.PICTURE) -> tuple[int, bytes]:
    return link.WRITE, struct.pack("<BI", name, offset) + data


def state(held: bytes) -> tuple[int, bytes]:
    return link.STATE, struct.pack("<BII", link.PICTURE, len(held), zlib.crc32(held))


def refused(answer: tuple[int, bytes]) -> str:
    assert answer[0] == link.FAILED
    return answer[1].decode()


def test_a_transfer_is_confirmed_when_it_is_whole(monkeypatch):
    """OPEN is answered with what the board holds, which is nothing.

    The end is answered with everything and its CRC-32.
    """
    answers, served, _ = ask(monkeypatch, open_it(), write(0, WHOLE[:4]), write(4, WHOLE[4:]))
    assert answers == [state(b""), state(WHOLE)]
    assert served.parts.picture == WHOLE


def test_the_first_byte_begins_a_transfer_anew(monkeypatch):
    """A host may begin at 0 again. What was held before then counts neither in length nor in CRC-32."""
    answers, served, _ = ask(monkeypatch, open_it(), write(0, FIRST), write(0, WHOLE))
    assert answers == [state(b""), state(WHOLE)]
    assert served.parts.picture == WHOLE


def test_a_transfer_that_is_opened_again_continues(monkeypatch):
    """For the same data the board says what it holds. Other data or a complete transfer begins at the start."""
    other = WHOLE[::-1]
    answers, _, _ = ask(monkeypatch, open_it(), write(0, FIRST), open_it(), open_it(other))
    assert answers == [state(b""), state(FIRST), state(b"")]
    answers, _, _ = ask(monkeypatch, open_it(), write(0, WHOLE), open_it())
    assert answers == [state(b""), state(WHOLE), state(b"")]


def test_writes_that_do_not_fit_are_refused(monkeypatch):
    """A write with a gap, beyond the end, without OPEN or into another buffer must not change the transfer."""
    (answer,), _, _ = ask(monkeypatch, write(0, WHOLE))
    assert refused(answer) == "WRITE to buffer 0 without OPEN"
    for wrong in (write(3, b"x"), write(5, b"x"), write(4, b"1234567")):
        answers, served, _ = ask(monkeypatch, open_it(), write(0, FIRST), wrong, open_it())
        assert refused(answers[1]).endswith("but 4 of 10 bytes are held")
        assert answers[2] == state(FIRST) and served.parts.picture == FIRST + bytes(6)
    answers, _, _ = ask(monkeypatch, open_it(), write(0, WHOLE, link.PLANES))
    assert refused(answers[1]) == "WRITE to buffer 1 without OPEN"
    answers, _, _ = ask(monkeypatch, open_it(WHOLE[1:]), (link.OPEN, struct.pack("<BII", link.PLANES, 1, 1)))
    assert refused(answers[0]) == "buffer 0 has 10 bytes here, but the host sends 9"
    assert refused(answers[1]) == "buffer 1 cannot be written"


def test_a_read_comes_in_parts_up_to_its_last_byte(monkeypatch):
    """Each part says where it belongs, together they are what was asked for, and one byte more is refused."""
    whole = bytes(range(256)) * 4
    ends = (0, 1024), (3, 700), (1023, 1), (1024, 0)
    for offset, length in ends:
        answers, _, _ = ask(monkeypatch, (link.READ, struct.pack("<BII", link.PLANES, offset, length)))
        at = offset
        for kind, part in answers:
            assert (kind, *struct.unpack_from("<BI", part)) == (link.PART, link.PLANES, at)
            assert part[5:] == whole[at : at + len(part) - 5] and len(part) > 5
            at += len(part) - 5
        assert at == offset + length
    # A part with its header fills the frame that the line can carry now, which is 256 bytes at first.
    (_, first), *_ = ask(monkeypatch, (link.READ, struct.pack("<BII", link.PLANES, 0, 1024)))[0]
    assert len(first) == 255, "the message's kind is the 256th"
    (answer,), _, _ = ask(monkeypatch, (link.READ, struct.pack("<BII", link.PLANES, 1000, 25)))
    assert refused(answer) == "buffer 1 has 1024 bytes, but bytes up to 1025 are requested"


def test_each_request_is_answered_in_its_kind(monkeypatch):
    """PING is answered by PING, RUN and INFO by a report, and nonsense or too long an answer by a reason."""
    answers, served, _ = ask(monkeypatch, (link.PING, b"?"), (link.RUN, b"camera poses"), (link.INFO,), (0x7F,))
    assert answers[:2] == [(link.PING, b"?"), (link.REPORT, b'{"us": ["camera", "poses"]}')]
    facts = json.loads(answers[2][1])
    assert (facts["boot"], facts["protocol"], facts["baud"]) == (served.boot, 1, 115200) and len(served.boot) == 8
    assert facts["line"]["errors"] == facts["line"]["resent"] == 0 < facts["line"]["frames"]
    assert refused(answers[3]) == "message kind 127 is not known here"
    (answer,), _, _ = ask(monkeypatch, (link.OPEN, b"abc"))
    assert refused(answer).startswith("error: ")
    # {"us": ["…"]} is 12 bytes longer than the stage's name, and the host accepts 4,000.
    for length, kind in ((3988, link.REPORT), (3989, link.FAILED)):
        monkeypatch.setattr(Parts, "run", lambda self, stages, length=length: {"us": ["x" * length]})
        ((found, _),), _, _ = ask(monkeypatch, (link.RUN, b"long"))
        assert found == kind


def test_a_minute_of_silence_ends_the_session(monkeypatch):
    """A board that nobody talks to any more is then back at its prompt. Whatever is heard begins the minute anew."""

    def hang_up(desk: Desk) -> None:
        desk.deaf = True
        heard.append(desk.ms)

    heard: list[int] = []
    _, served, desk = ask(monkeypatch, (link.PING, b"x"), hang_up, None)
    assert not served.stop and 60_000 < desk.ms - heard[0] <= 60_050


def test_three_ctrl_c_end_the_session(monkeypatch):
    """This is how somebody gets the prompt back by hand."""
    _, served, desk = ask(monkeypatch, (link.PING, b"x"), lambda desk: desk.host._control.append(link.STOP), None)
    assert served.link.stop and desk.ms < 1000


def test_a_new_rate_stays_when_the_host_is_heard_there(monkeypatch):
    """The answer is sent at the old rate, and the host's next message must arrive at the new one."""
    answers, _, desk = ask(monkeypatch, (link.BAUD, struct.pack("<I", 921_600)), (link.PING, b"x"))
    assert answers == [(link.BAUD, struct.pack("<I", 921_600)), (link.PING, b"x")]
    assert [rate for _, rate in desk.rates] == [921_600]


def test_a_new_rate_without_a_word_from_the_host_is_given_up(monkeypatch):
    """After 1.2 s the old rate is back, and a rate that the UART cannot have is never set."""

    class Mute(Desk):
        def set_baud(self, baud: int) -> None:
            super().set_baud(baud)
            self.deaf = baud != 115_200

    monkeypatch.setattr(sys.modules[__name__], "Desk", Mute)
    answers, _, desk = ask(monkeypatch, (link.BAUD, struct.pack("<I", 921_600)), (link.PING, b"x"))
    assert answers[-1] == (link.PING, b"x")
    (start, new), (end, old) = desk.rates
    assert (new, old) == (921_600, 115_200) and 1200 < end - start <= 1215
    answers, _, desk = ask(monkeypatch, (link.BAUD, struct.pack("<I", 6_000_000)), (link.PING, b"x"))
    assert answers[-1] == (link.PING, b"x") and desk.rates == []


def test_a_host_that_opens_another_session_is_served(monkeypatch):
    """Results and an unfinished transfer stay, so that the host can continue with them."""

    def again(desk: Desk) -> None:
        desk.host.open(2)

    answers, _, _ = ask(monkeypatch, open_it(), write(0, FIRST), again, open_it())
    assert answers == [state(FIRST)]


# -- the line, the camera and the stages, with stand-ins for MaixPy's modules


def test_a_read_waits_for_the_first_byte_and_for_the_line_to_pause(monkeypatch):
    """While there is nothing it waits as long as the caller says, then while bytes come, up to 256 of them."""

    class Uart:
        def __init__(self, *arrived: int) -> None:
            self.arrived = [*arrived]

        def any(self) -> int:
            clock.us += 1000
            return self.arrived.pop(0) if len(self.arrived) > 1 else self.arrived[0]

        def read(self, count: int) -> bytes:
            return bytes(count)

    clock = SimpleNamespace(us=0)
    monkeypatch.setattr(
        target,
        "time",
        SimpleNamespace(
            ticks_ms=lambda: clock.us // 1000, ticks_diff=lambda end, start: end - start, sleep_us=lambda us: None
        ),
    )

    def read(wait_ms: int, *arrived: int) -> tuple[int, int]:
        """The bytes, and the milliseconds that it took."""
        console = target.Console.__new__(target.Console)
        console.uart, clock.us = Uart(*arrived), 0
        return len(console.read(wait_ms)), clock.us // 1000

    assert read(0, 0, 9) == (0, 1) and read(5, 0) == (0, 6)
    assert read(5, 0, 0, 0, 7) == (7, 5)
    assert read(0, 7, 9, 200, 200, 255) == (200, 4)
    assert read(0, 7, 256, 999) == (256, 2)


def parts_of(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], **given: Any) -> tuple[Any, list[Any]]:
    """Parts without a network, and what they ask of MaixPy; with `broken` the camera raises that."""
    asked: list[Any] = []
    broken = given.pop("broken", None)

    def start_camera(width: int, height: int, **how: Any) -> bool:
        asked.append((width, height, how))
        if broken:
            raise broken
        return bool(how["double"])

    def snapshot() -> str:
        asked.append("snapshot")
        return f"frame {asked.count('snapshot')}"

    image = SimpleNamespace(Image=lambda size: SimpleNamespace(size=size, pix_to_ai=lambda: asked.append("planes")))
    for name, module in (
        ("image", image),
        ("sensor", SimpleNamespace(snapshot=snapshot)),
        ("posenet", SimpleNamespace(start_camera=start_camera)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    parts = target.Parts.__new__(target.Parts)
    parts.size = parts.field = size
    parts.camera_ready = parts.double = False
    parts.settings = {"double_buffer": False}
    parts.manifest = {"kmodel": {"bytes": 123}}
    for name, value in given.items():
        setattr(parts, name, value)
    return parts, asked


def test_the_hosts_pixels_lie_in_the_heap_up_to_50000(monkeypatch):
    """Larger pictures would fill the heap, so they take the camera's frame buffer if there is a camera."""
    parts, asked = parts_of(monkeypatch, (500, 100))
    assert parts._own_image().size == (500, 100) and asked == ["planes"]
    parts, asked = parts_of(monkeypatch, (500, 101))
    assert parts._own_image() == "frame 1"
    assert asked == [(500, 101, {"double": False, "reserve_bytes": 123}), "snapshot"]
    parts, asked = parts_of(monkeypatch, (500, 101), broken=OSError("no sensor"))
    assert parts._own_image().size == (500, 101) and asked[-1] == "planes"


def test_the_camera_is_started_once_and_of_two_buffers_the_newer_counts(monkeypatch):
    """The first of two buffers is old. The field's width is named only if the camera squeezes it."""
    parts, asked = parts_of(monkeypatch, (320, 240), field=(427, 240), settings={"double_buffer": True})
    assert [parts._frame(), parts._frame()] == ["frame 2", "frame 4"]
    assert asked[0] == (320, 240, {"double": True, "reserve_bytes": 123, "field_w": 427})
    assert asked[1:] == ["snapshot"] * 4


def test_stages_are_timed_one_by_one(monkeypatch):
    """diff shows a time for each stage, and times of their own for network and decoder if these ran."""
    us = iter(range(0, 1000, 10))
    monkeypatch.setattr(
        target, "time", SimpleNamespace(ticks_us=lambda: next(us), ticks_diff=lambda end, start: end - start)
    )
    parts, _ = parts_of(monkeypatch, (320, 240), found=["one"], poses=b"1234")
    parts.net = SimpleNamespace(forward_us=7, decode_us=3)
    parts.stage_poses = parts.stage_draw = lambda: None
    assert parts.run(["draw"]) == {"us": {"draw": 10}, "poses": 1, "poses_bytes": 4}
    assert parts.run(["draw", "poses"])["us"] == {"draw": 10, "poses": 10, "forward": 7, "decode": 3}
    with pytest.raises(target.RequestError, match="stage nonsense is not known here"):
        parts.run(["nonsense"])


# -- the planes: a pointer in MaixPy's image object, followed only if everything beside it is as expected

WIDTH, HEIGHT, PIXELS, PLANES = 4, 3, 0x80100000, 0x80200000
OWN = bytes(range(2 * WIDTH * HEIGHT))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"copied_to": PIXELS + 0x1000}, None),
        ({"width": 5}, "stores images differently"),
        ({"height": 4}, "stores images differently"),
        ({"copied_to": PIXELS + 0x1000, "pixels": PIXELS + 2}, "stores images differently"),
        ({"copied_to": PIXELS + 0x1000, "pixels": 0x40100000}, "stores images differently"),
        ({"planes": 0}, "no planes yet"),
    ],
)
def test_the_planes_pointer_is_followed_only_in_an_image(monkeypatch, change, says):
    """{type*, int w, h, bpp, pixels*, pix_ai*}: another width, height or pixel pointer means another MaixPy.

    In 0.4.0 to_bytes() returns a copy: there the pixels at the pointer must equal it, and what the host sends goes
    to them and not into the copy (on 0.4.0-47 diff could not compare any stage).
    """
    held = {"width": WIDTH, "height": HEIGHT, "pixels": PIXELS, "planes": PLANES, "copied_to": PIXELS, **change}
    memory = {
        PIXELS: bytearray(OWN),
        PIXELS + 2: bytearray(OWN[2:] + OWN[:2]),
        PIXELS + 0x1000: bytearray(OWN),
        PLANES: bytearray(3 * WIDTH * HEIGHT),
    }
    picture = SimpleNamespace(width=lambda: WIDTH, height=lambda: HEIGHT, to_bytes=lambda: memory[held["copied_to"]])
    words = struct.pack("<iiiiQQ", held["width"], held["height"], 2, 0, held["pixels"], held["planes"])

    def bytes_at(address: int, count: int) -> bytes:
        assert (address, count) == (id(picture) + 8, len(words))
        return words

    def bytearray_at(address: int, count: int) -> bytearray:
        assert count == len(memory[address])
        return memory[address]

    def addressof(buffer: bytearray) -> int:
        return next(address for address, there in memory.items() if there is buffer)

    uctypes = SimpleNamespace(bytes_at=bytes_at, bytearray_at=bytearray_at, addressof=addressof)
    monkeypatch.setitem(sys.modules, "uctypes", uctypes)
    if says:
        with pytest.raises(target.RequestError, match=says):
            target.planes(picture)
        return
    assert target.planes(picture) is memory[PLANES]
    parts, _ = parts_of(monkeypatch, (WIDTH, HEIGHT), sent=picture, sent_pixels=None)
    assert parts.writable(link.PICTURE) is memory[PIXELS]
    assert maixpy_api.pixels_at(picture) == PIXELS
