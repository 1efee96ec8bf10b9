"""The serial link between host and board: one file, run verbatim by both ends (CPython and MicroPython 1.11).

`Link` is a pure state machine: it takes and returns bytes and is told the time in milliseconds. `Channel` connects it
to a pair of read and write functions. Wire format, rules and figures: docs/link.md.

On the wire (SLIP, RFC 1055, with two more escapes):  END  body  END
    body = type u8 | session u16 | number u16 | payload | CRC-32 of all before it, u32   (little-endian)
END is 0xC0, ESC is 0xDB; inside a body 0xC0, 0xDB, 0x03 and LF are sent as ESC DC, ESC DD, ESC DE and ESC DF.
So a console that turns LF into CR LF does no harm, no frame holds a 0x03, and three of them in a row can only mean that
somebody wants the prompt back. Bytes between two ENDs that are not a frame are a print of the firmware.

Delivery is in order and exactly once within a session: numbered data frames, each acknowledged by number and by
a bit map of those that arrived early. The line keeps the order of what it does not lose, so a frame that was sent
before one that is acknowledged, and is not acknowledged itself, is lost: it is sent again at once, without a timer.
A session ends when the other end restarts, because that end no longer knows the session's number and says so.
"""

import binascii
import struct

PROTOCOL = 1

# Frame types.
DATA = 0x44  # 'D' number = the message's; payload = message kind u8, message
ACK = 0x41  # 'A' number = next one expected; payload = u32 bit map, bit i: number + 1 + i has arrived
HELLO = 0x48  # 'H' the host opens a session; payload = protocol u8, receive ring u16, largest message u16
WELCOME = 0x57  # 'W' the board's answer, same payload
UNKNOWN = 0x55  # 'U' a data frame came for a session that this end does not know

# Message kinds (first byte of a data frame's payload); u32 fields little-endian. Host to board:
INFO = 0x01  # ask for REPORT: what runs here
BAUD = 0x02  # u32 rate; the board answers with the same and switches
PING = 0x04  # any bytes; answered by the same
OPEN = 0x05  # buffer u8, u32 length, u32 CRC-32 of all of it: a transfer to the board begins or continues
WRITE = 0x06  # buffer u8, u32 offset, bytes
READ = 0x07  # buffer u8, u32 offset, u32 length: answered by PARTs
RUN = 0x08  # text: names of stages separated by blanks; answered by REPORT
BYE = 0x09  # back to the prompt at the console's rate
# Board to host:
PART = 0x11  # buffer u8, u32 offset, bytes
REPORT = 0x12  # JSON text
FAILED = 0x13  # one line of text: what could not be done
STATE = 0x14  # buffer u8, u32 bytes held, u32 CRC-32 of them: answer to OPEN, and when a transfer is complete

# Buffers of the board that OPEN, WRITE, READ and PART name.
PICTURE = 0  # the image's pixels, RGB565 as in memory
PLANES = 1  # the KPU's input: R, G, B planes of 8 bits
HEATMAP = 2  # the other three heads follow, as the KPU wrote them
POSES = 6  # decoder's integers: u32 poses, u32 poses of the single-person decoder; 1 + 3·keypoints i32 of each

END = b"\xc0"
ESC = b"\xdb"
STOP = b"\x03\x03\x03"
OVERHEAD_BYTES = 12
"""A data frame has this many bytes besides its message and escapes: two ENDs, type, session, number, kind, CRC-32."""
WINDOW_FRAMES = 32
RING_BYTES = 2048
"""MaixPy's receive ring has this size. There is no flow control: what does not fit is dropped silently."""
ANSWER_BYTES = 256
"""This part of a ring is kept free for acknowledgements and handshakes."""
SMALLEST_CHUNK_BYTES = 24
FIRST_CHUNK_BYTES = 256
"""Frames begin at this length and grow, because on a noisy line a frame that is too long never arrives."""


class LinkError(Exception):
    """The link does not work; the text says why."""


class LinkResetError(LinkError):
    """The other end has restarted: its state and all unacknowledged messages are lost."""


def encode(kind, session, number, payload=b"", more=b""):
    """One frame as it is sent; its payload may be given in two parts, of which the second is any buffer."""
    head = struct.pack("<BHH", kind, session, number) + payload
    body = head + more if more else head
    body += struct.pack("<I", binascii.crc32(body) & 0xFFFFFFFF)
    # In MicroPython split() and join() are less work than replace(), which searches twice.
    if ESC in body:
        body = b"\xdb\xdd".join(body.split(ESC))
    if END in body:
        body = b"\xdb\xdc".join(body.split(END))
    if b"\x03" in body:
        body = b"\xdb\xde".join(body.split(b"\x03"))
    if b"\n" in body:
        body = b"\xdb\xdf".join(body.split(b"\n"))
    return b"".join((END, body, END))


def decode(segment):
    """The bytes between two ENDs → (type, session, number, payload); None if they are not a frame."""
    if ESC in segment:
        # ESC is never the second byte of a pair, so each step sees only true pairs; ESC itself comes last.
        segment = END.join(segment.split(b"\xdb\xdc"))
        segment = b"\x03".join(segment.split(b"\xdb\xde"))
        segment = b"\n".join(segment.split(b"\xdb\xdf"))
        segment = ESC.join(segment.split(b"\xdb\xdd"))
    size = len(segment) - 4
    if size < 5:
        return None
    body = memoryview(segment)
    if binascii.crc32(body[:size]) & 0xFFFFFFFF != struct.unpack_from("<I", segment, size)[0]:
        return None
    kind, session, number = struct.unpack_from("<BHH", segment, 0)
    return kind, session, number, segment[5:size]


class Link:
    """One end of the line.

    `ring_bytes` is how much this end can hold while it is busy; `largest_bytes` is the longest message that it
    accepts. Read `inbox` (list of (kind, payload)) and `strays` (list of bytes that were not a frame) and clear them.
    """

    def __init__(self, ring_bytes=RING_BYTES, largest_bytes=256, ack_every=2):
        self.ring_bytes = ring_bytes
        self.largest_bytes = largest_bytes
        self.ack_every = ack_every
        self.session = 0
        self.inbox = []
        self.strays = []
        self.stop = False
        self.frames = 0
        self.errors = 0
        self.resent = 0
        self.last_frame_ms = 0
        self._tail = b""
        self._forget()

    def _forget(self):
        self.up = False
        self.lost = False
        self.peer_largest_bytes = 0
        self._window_bytes = 0
        self._chunk = 0
        self._growth = 1
        self._control = []
        self._first = self._next = 0  # numbers: oldest not acknowledged, next to be given
        self._waiting = []
        self._sent = {}  # number → [frame, place in the order of sending, when (−1: sent more than once)]
        self._flying_bytes = 0
        self._order = 0
        self._again = []
        self._timer_ms = None
        self._rtt_ms = 200
        self._backoff = 1
        self._expected = 0
        self._early = {}
        self._ack_due = 0
        self._hello_ms = None
        del self.inbox[:]

    # -- the caller's side ---------------------------------------------------------------------------------

    def open(self, session):
        """Begin a session (host); `session` is 1…65535 and differs from the last one."""
        self._forget()
        self.session = session

    def send(self, kind, payload=b"", more=b""):
        """Queue one message, at most `peer_largest_bytes` long; `more` is its second part, any buffer."""
        number = self._next
        self._next = (number + 1) & 0xFFFF
        self._waiting.append((number, encode(DATA, self.session, number, bytes((kind,)) + payload, more)))

    def room(self):
        """True if a message that is queued now would be sent at once."""
        return self.up and not self._waiting and self._fits(self._next, self._chunk + OVERHEAD_BYTES)

    def _fits(self, number, size_bytes):
        if (number - self._first) & 0xFFFF >= WINDOW_FRAMES:
            return False
        return not self._sent or self._flying_bytes + size_bytes <= self._window_bytes

    def idle(self):
        """True if everything sent has been acknowledged."""
        return not self._sent and not self._waiting

    def chunk_bytes(self):
        """How long a message should be now: long on a clean line, short on a noisy one."""
        return self._chunk

    # -- the line's side -----------------------------------------------------------------------------------

    def feed(self, data, now_ms):
        """Take bytes that have arrived."""
        data = self._tail + data
        if STOP in data:
            self.stop = True
        pieces = data.split(END)
        self._tail = pieces.pop()
        if len(self._tail) > 2 * (self.largest_bytes + OVERHEAD_BYTES):
            self._stray(self._tail)
            self._tail = b""
        for piece in pieces:
            if piece:
                frame = decode(piece)
                if frame is None:
                    self._stray(piece)
                else:
                    self.frames += 1
                    self.last_frame_ms = now_ms
                    self._take(frame[0], frame[1], frame[2], frame[3], now_ms)

    def _stray(self, data):
        self.errors += 1
        if len(self.strays) < 16:
            self.strays.append(data)

    def _take(self, kind, session, number, payload, now_ms):
        size = len(payload)
        if kind == DATA:
            if not size:
                return
            if session != self.session or not self.up:
                # One answer is enough for all frames that have arrived.
                if not self._control:
                    self._control.append(encode(UNKNOWN, session, 0))
            else:
                self._take_data(number, payload)
        elif kind == HELLO and size == 5:
            if session != self.session:
                self._forget()
                self.session = session
            self._meet(payload)
            self._control = [encode(WELCOME, session, 0, self._greeting())]
        elif session != self.session:
            pass
        elif kind == ACK and size == 4:
            self._take_ack(number, struct.unpack("<I", payload)[0], now_ms)
        elif kind == WELCOME and size == 5:
            self._meet(payload)
        elif kind == UNKNOWN:
            self.lost = self.up

    def _greeting(self):
        return struct.pack("<BHH", PROTOCOL, self.ring_bytes, self.largest_bytes)

    def _meet(self, payload):
        if self.up:
            return
        protocol, ring_bytes, largest_bytes = struct.unpack("<BHH", payload)
        if protocol != PROTOCOL:
            raise LinkError("the other end uses link protocol %d, this one %d" % (protocol, PROTOCOL))
        self._window_bytes = ring_bytes - ANSWER_BYTES
        self.peer_largest_bytes = largest_bytes
        self._chunk = min(FIRST_CHUNK_BYTES, largest_bytes)
        self.up = True
        self._hello_ms = None

    def _take_data(self, number, payload):
        self._ack_due += 1
        ahead = (number - self._expected) & 0xFFFF
        if ahead == 0:
            while payload is not None:
                self.inbox.append((payload[0], payload[1:]))
                self._expected = (self._expected + 1) & 0xFFFF
                payload = self._early.pop(self._expected, None) if self._early else None
        else:
            self._ack_due += self.ack_every  # After a gap or a repetition, acknowledge at once.
            if ahead < WINDOW_FRAMES:
                self._early[number] = payload

    def _take_ack(self, expected, early, now_ms):
        newest = -1
        ahead = (expected - self._first) & 0xFFFF
        if ahead > WINDOW_FRAMES:
            return
        for i in range(ahead):
            newest = max(newest, self._acknowledged((self._first + i) & 0xFFFF, now_ms))
        self._first = expected
        if early:
            for i in range(WINDOW_FRAMES):
                if early >> i & 1:
                    newest = max(newest, self._acknowledged((expected + 1 + i) & 0xFFFF, now_ms))
        if newest < 0:
            return
        sent = self._sent
        self._backoff = 1
        self._timer_ms = now_ms
        lost = [number for number in sent if sent[number][1] < newest and number not in self._again]
        if lost:
            self._again += lost
            self._again.sort(key=self._age)
            self._shrink()
        elif self._chunk < self.peer_largest_bytes:
            self._chunk = min(self.peer_largest_bytes, self._chunk + 1 + (self._chunk >> self._growth))

    def _shrink(self):
        # Fast growth until the first loss. Then, with growth by 1/16, this settles where about one frame in five
        # is lost, near the best length.
        self._growth = 4
        self._chunk = max(SMALLEST_CHUNK_BYTES, self._chunk - (self._chunk >> 2))

    def _age(self, number):
        return (number - self._first) & 0xFFFF

    def _acknowledged(self, number, now_ms):
        """Forget a sent message; returns its place in the order of sending, −1 if it was acknowledged before."""
        entry = self._sent.pop(number, None)
        if entry is None:
            return -1
        self._flying_bytes -= len(entry[0])
        if number in self._again:
            self._again.remove(number)
        if entry[2] >= 0:
            self._rtt_ms += (now_ms - entry[2] - self._rtt_ms) // 8
        return entry[1]

    def output(self, now_ms, resting=True):
        """The next bytes for the line, or None. `resting`: nothing more is coming in at the moment."""
        if self._control:
            return self._control.pop(0)
        if not self.up:
            if self.session and (self._hello_ms is None or now_ms - self._hello_ms >= 100):
                self._hello_ms = now_ms
                return encode(HELLO, self.session, 0, self._greeting())
            return None
        if self._ack_due >= (1 if resting else self.ack_every):
            self._ack_due = 0
            early = 0
            for number in self._early:
                early |= 1 << ((number - self._expected - 1) & 0xFFFF)
            return encode(ACK, self.session, self._expected, struct.pack("<I", early))
        if not self._again and self._sent and now_ms - self._timer_ms > self.wait_ms():
            # Nothing came back at all, so try the oldest frame again.
            self._again.append(min(self._sent, key=self._age))
            self._backoff = min(self._backoff * 2, 16)
            self._shrink()
        if self._again:
            number = self._again.pop(0)
            entry = self._sent[number]
            entry[2] = -1
            self.resent += 1
        elif self._waiting and self._fits(self._waiting[0][0], len(self._waiting[0][1])):
            number, frame = self._waiting.pop(0)
            entry = self._sent[number] = [frame, 0, now_ms]
            self._flying_bytes += len(frame)
        else:
            return None
        self._order += 1
        entry[1] = self._order
        self._timer_ms = now_ms
        return entry[0]

    def wait_ms(self):
        """How long to wait for any acknowledgement before sending again."""
        return min(2000, int(2 * self._rtt_ms + 20) * self._backoff)


class Channel:
    """Blocking calls over a Link.

    `read(wait_ms) -> bytes` returns as soon as bytes are available, or b"" after `wait_ms`; `write(bytes)`;
    `now_ms() -> int`.
    """

    def __init__(self, link, read, write, now_ms):
        self.link = link
        self.read = read
        self.write = write
        self.now_ms = now_ms
        self.on_stray = None

    def pump(self, wait_ms=5):
        """Take what has arrived and send what may be sent. True if something arrived."""
        link = self.link
        data = self.read(wait_ms)
        if data:
            link.feed(data, self.now_ms())
        if link.strays:
            if self.on_stray:
                for stray in link.strays:
                    self.on_stray(stray)
            del link.strays[:]
        out = link.output(self.now_ms(), not data)
        while out:
            self.write(out)
            out = link.output(self.now_ms(), not data)
        if link.lost:
            raise LinkResetError("the other end has restarted")
        return bool(data)

    def connect(self, session, timeout_ms):
        """Open a session (host)."""
        self.link.open(session)
        end_ms = self.now_ms() + timeout_ms
        while not self.link.up:
            self.pump()
            if self.now_ms() > end_ms:
                raise LinkError("no answer to HELLO within %d ms" % timeout_ms)

    def send(self, kind, payload=b"", more=b"", timeout_ms=5000):
        """Send one message; waits while the window is full."""
        link = self.link
        end_ms = self.now_ms() + timeout_ms
        self.pump(0)
        while not link.room():
            if self.pump():
                end_ms = self.now_ms() + timeout_ms
            elif self.now_ms() > end_ms:
                raise LinkError("nothing acknowledged for %d ms" % timeout_ms)
        link.send(kind, payload, more)
        out = link.output(self.now_ms(), False)
        while out:
            self.write(out)
            out = link.output(self.now_ms(), False)

    def receive(self, timeout_ms):
        """The next message (kind, payload)."""
        end_ms = self.now_ms() + timeout_ms
        while not self.link.inbox:
            self.pump()
            if self.now_ms() > end_ms:
                raise LinkError("no message for %d ms" % timeout_ms)
        return self.link.inbox.pop(0)

    def flush(self, timeout_ms):
        """Wait until everything sent is acknowledged; False if that takes longer than `timeout_ms`."""
        end_ms = self.now_ms() + timeout_ms
        while not self.link.idle():
            self.pump()
            if self.now_ms() > end_ms:
                return False
        return True
