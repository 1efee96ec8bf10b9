"""Single steps of the serial loader's client: how often it sends, how long it waits, and its requests' bytes.

The line brings no answer, or those that the test wrote down. In test_isp.py a real loader is at the other end.
"""

from __future__ import annotations

import struct
import zlib

import pytest

from common.errors import UserError
from common.wiring import WIRINGS
from host_tools import isp_client
from host_tools.isp_client import IspClient, IspSessionError, NoAnswerError
from tests.support.quiet_line import QuietLine, Talking

GREETING = b"\xc0\xc2" + bytes(12) + b"\xc0"
STUB_GREETING = b"\xc0\xd2" + bytes(12) + b"\xc0"


def frame(op: int, address: int, length: int, data: bytes = b"") -> bytes:
    """A request put together from the format's description; none of its bytes needs an escape."""
    body = struct.pack("<II", address, length) + data
    return b"\xc0" + struct.pack("<HHI", op, 0, zlib.crc32(body)) + body + b"\xc0"


class Quarters(QuietLine):
    """A line that nobody answers, on which each look takes a quarter of a second."""

    def read(self, timeout_s: float) -> bytes:
        return super().read(0.25)


def test_each_wiring_is_tried_in_three_rounds_with_two_greetings() -> None:
    """A first greeting may get lost. A wiring that is known, or that answers, makes the others needless."""
    line = Talking()
    with pytest.raises(NoAnswerError, match="reset wirings tried: dan, kd233, goD"):
        IspClient(line).enter_rom()
    assert [data for _, data in line.sent] == [GREETING] * 18
    line = Talking()
    client = IspClient(line)
    client.wiring = WIRINGS["kd233"]
    with pytest.raises(NoAnswerError, match="reset wirings tried: kd233.;"):
        client.enter_rom()
    assert len(line.sent) == 6
    line = Talking(b"\xc0\xc2\xe0\xc0")
    client = IspClient(line)
    client.enter_rom()
    assert client.wiring is WIRINGS["dan"] and len(line.sent) == 1


def test_somebody_who_presses_reset_has_a_minute() -> None:
    """A board without reset lines is waited for as long as requested, whereas the others are given up after three
    rounds.

    A round takes a second on this line, so the round that begins at two seconds is the last of a wait of 2 s.
    """
    for wait_s, rounds in ((2.0, 3), (5.0, 6)):
        line = Quarters()
        line.has_lines = False
        with pytest.raises(NoAnswerError, match="tried: manual"):
            IspClient(line, manual_wait_s=wait_s).enter_rom()
        assert line.written == GREETING * 2 * rounds
    line = Quarters()
    line.time_s = 100.0
    with pytest.raises(NoAnswerError):
        IspClient(line, ["manual"], manual_wait_s=2.0).enter_rom()
    assert line.time_s == 103.0, "the time counts from the beginning"


def test_a_reply_is_found_among_others() -> None:
    """The second byte of a reply is its reason.

    Texts are passed on; replies to other requests and halves are dropped.
    """
    said: list[str] = []
    line = Talking(b"\xd4", b"\xc0\xc0\xd2\xe0\xc0\xd4\xe2\xc0\xd1\x00hello\xc0\xd4\xe7\xff\xc0")
    client = IspClient(line, note=said.append)
    assert client._read_reply(0xD4, 1.0) == 0xE2 and said == []
    assert client._read_reply(0xD4, 0.0) == 0xE7 and said == ["board says: hello"]
    quiet = Quarters()
    assert IspClient(quiet)._read_reply(0xD4, 1.0) is None and quiet.time_s == 1.0


def test_coming_back_into_step_takes_ten_seconds_at_most() -> None:
    """The stub is greeted once a second. One that answers is greeted once, and one that does not is given up."""
    line = Quarters()
    with pytest.raises(IspSessionError, match="no answer for 10 s"):
        IspClient(line)._resync()
    assert line.written == STUB_GREETING * 10
    answered = Talking(b"\xc0\xd2\xe0\xc0")
    IspClient(answered)._resync()
    assert len(answered.sent) == 1


def test_a_request_is_sent_five_times() -> None:
    """One damaged request must not end a session, and a loader that always refuses must not hold it up for ever.

    To the ROM an END follows after ten milliseconds. A refusal is reported by its name, or by its number if it has
    none. A 0x00 is the ROM's approval, but not the stub's.
    """
    for reply, cause in ((b"", "no answer"), (b"\xc3\xe3\xc0", "invalid command"), (b"\xc3\xee\xc0", "reason 0xEE")):
        said: list[str] = []
        line = Talking(*([reply] * 5 if reply else []))
        client = IspClient(line, note=said.append)
        with pytest.raises(IspSessionError, match=f"^it: {cause}, 5 times$"):
            client._ask(b"?", 0xC3, "it", in_stub=False)
        assert [data for _, data in line.sent] == [b"?", b"\xc0"] * 5
        assert client.retries == 4 and said == [f"it: {cause}, trying again"] * 4
    line = Talking(b"\xc3\x00\xc0")
    IspClient(line)._ask(b"?", 0xC3, "it", in_stub=False)
    assert len(line.sent) == 1
    line = Talking(b"\xd4\x00\xc0", b"\xd2\xe0\xc0", b"\xd4\xe0\xc0")
    client = IspClient(line)
    client._ask(b"?", 0xD4, "it")
    assert [data for _, data in line.sent] == [b"?", STUB_GREETING, b"?"] and client.retries == 1
    assert line.time_s == 0.0
    line = Talking(b"\xd4\xe7\xc0", b"\xd2\xe0\xc0", b"\xd4\xe0\xc0")
    IspClient(line)._ask(b"?", 0xD4, "it")
    assert line.time_s == 0.5, "a busy flash is given a pause"


def test_an_answer_is_awaited_beyond_the_time_that_the_request_takes() -> None:
    """The time of the request on the line is added to the wait: 1152 bytes at 115200 baud take a tenth of a second."""
    line = Talking(b"\xc3\xe3\xc0")
    client = IspClient(line)
    with pytest.raises(IspSessionError):
        client._ask(b"." * 1152, 0xC3, "it", in_stub=False)
    assert [at_s for at_s, data in line.sent if len(data) > 1] == [0.0, 0.01, 1.12, 2.23, 3.34]


def test_a_flash_that_is_not_found_and_one_that_fails_are_told_apart() -> None:
    """They need different remedies.

    Only starting the flash can find none, and only erasing and writing can fail in it.
    """
    for op, reason, says in (
        (0xD7, 0xE4, "flash was not found on SPI0"), (0xD4, 0xE6, "it: the flash chip says 'write failed' every time"),
        (0xD3, 0xE5, "it: the flash chip says 'erase failed' every time"),
    ):  # fmt: skip
        replies = [bytes((op, reason, 0xC0)), b"\xd2\xe0\xc0"] * 5
        with pytest.raises(UserError, match=says):
            IspClient(Talking(*replies))._ask(b"?", op, "it")
    for op, reason in ((0xD4, 0xE4), (0xD7, 0xE2)):
        replies = [bytes((op, reason, 0xC0)), b"\xd2\xe0\xc0"] * 5
        with pytest.raises(IspSessionError, match="5 times"):
            IspClient(Talking(*replies))._ask(b"?", op, "it")


def test_bytes_of_the_requests_that_change_the_rate_and_start_stub_and_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests are those that kflash sends; addresses and lengths that mean nothing are 0."""
    line = Talking()
    client = IspClient(line)
    with pytest.raises(IspSessionError, match="no answer at 750000 baud"):
        client.change_baud(750_000)
    assert [data for _, data in line.sent] == [frame(0xD6, 0, 4, (750_000).to_bytes(4, "little")), *[STUB_GREETING] * 3]
    assert line.sent[1][0] == 0.05 and client.baud == 750_000
    line.sent.clear()
    client.change_baud(750_000)
    assert line.sent == []
    monkeypatch.setattr(client, "enter_rom", lambda: None)
    monkeypatch.setattr(client, "load_stub", lambda: None)
    line.pieces = [b"\xd7\xe0\xc0"]
    client.connect(750_000)
    assert [data for _, data in line.sent] == [frame(0xD7, 1, 0)]
    monkeypatch.setattr(isp_client, "stub_program", lambda: b"." * 1500)
    line = Talking(b"\xc3\xe0\xc0", b"\xc3\xe0\xc0")
    client = IspClient(line)
    with pytest.raises(IspSessionError, match="does not start"):
        client.load_stub()
    assert [data for _, data in line.sent] == [
        frame(0xC3, 0x80000000, 1024, b"." * 1024), frame(0xC3, 0x80000400, 476, b"." * 476),
        frame(0xC5, 0x80000000, 0), *[STUB_GREETING] * 5,
    ]  # fmt: skip


def test_sessions_begin_again_at_lower_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rate is tried twice, or once if the board is not heard at it. The last cause is reported."""
    for cause, lower, rates in (
        ("lost", True, [3, 3, 2, 2]), ("no answer at 3 baud", True, [3, 2]), ("no answer at all", False, [3, 3, 2, 2]),
    ):  # fmt: skip
        client = IspClient(QuietLine(), bauds=(3, 2))
        tried: list[int] = []

        def connect(baud: int, cause: str = cause, lower: bool = lower, tried: list[int] = tried) -> None:
            tried.append(baud)
            raise IspSessionError(cause, lower)

        monkeypatch.setattr(client, "connect", connect)
        with pytest.raises(UserError, match=rf"flashing failed down to 2 baud \({cause}\)"):
            client._over_sessions(lambda: None)
        assert tried == rates and client.retries == len(rates)


def test_how_long_erasing_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sector may take 0.4 s, and 3 s are added; the whole chip may take 200 s. Parts of a sector are refused."""
    client = IspClient(QuietLine())
    asked: list[tuple[bytes, float]] = []
    monkeypatch.setattr(client, "_over_sessions", lambda body: body())
    monkeypatch.setattr(client, "_ask", lambda frame, op, what, timeout_s: asked.append((frame, timeout_s)))
    client.erase(0x1000, 0x2000)
    client.erase(0, 0)
    assert asked == [(frame(0xD3, 0x1000, 0x2000), pytest.approx(3.8)), (frame(0xD3, 0, 0), 200.0)]
    for address, length in ((0x800, 0x1000), (0x1000, 0x800)):
        with pytest.raises(UserError, match="one sector") as caught:
            client.erase(address, length)
        assert caught.value.exit_code == 2


def test_a_restart_is_asked_for_twice_and_then_made_by_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that does not answer must not leave the board in the loader.

    Before that the lines are released into the state in which the wiring that was found leaves a board running.
    """
    for wiring, rests in (("dan", [(False, False)]), ("goD", [(True, True)]), ("manual", []), ("", [])):
        line = Talking()
        client = IspClient(line)
        client.wiring = WIRINGS.get(wiring)
        done: list[object] = []
        monkeypatch.setattr(line, "set_lines", lambda *lines, done=done: done.append(lines))
        monkeypatch.setattr(client, "boot_by_lines", lambda done=done: done.append("by lines"))
        client.reboot()
        assert [data for _, data in line.sent] == [b"\xc0\xd5" + bytes(12) + b"\xc0"] * 2
        assert done == [*rests, "by lines"]
    line = Talking(b"\xd5\xe2\xc0", b"\xd5\xe0\xc0")
    client = IspClient(line)
    monkeypatch.setattr(client, "boot_by_lines", lambda: pytest.fail("the stub has done it"))
    client.reboot()
    assert len(line.sent) == 2
