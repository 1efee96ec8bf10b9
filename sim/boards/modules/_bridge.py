# The end of sim/boards/bridge.py in the board's program. Runs in MicroPython.
import struct

import uctypes

_REQUEST = "<12sI12i"
_ANSWER = "<iI7q"
_request = bytearray(64)
_answer = bytearray(64)
_answer_view = memoryview(_answer)
_out = None
_in = None
memory_address = 0
memory = None
PICTURE_WINDOW = 8 << 20
PICTURE_WINDOW_2 = (8 << 20) + (2 << 20)
values = (0, 0, 0, 0, 0, 0, 0)
length = 0  # length in bytes of the last answer's payload


def connect(request_fd, answer_fd, address, size):
    global _out, _in, memory_address, memory
    _out = open(request_fd, "wb", buffering=0)
    _in = open(answer_fd, "rb", buffering=0)
    memory_address = address
    memory = memoryview(uctypes.bytearray_at(address, size))


def _pack(name, payload, n):
    a, b, c, d, e, f, g, h, i, j, k, m = n + (0,) * (12 - len(n))
    struct.pack_into(_REQUEST, _request, 0, name, len(payload), a, b, c, d, e, f, g, h, i, j, k, m)


def _write(data):
    view = memoryview(data)
    at = 0
    while at < len(view):
        at += _out.write(view[at:])


def _read(view):
    at = 0
    while at < len(view):
        got = _in.readinto(view[at:])
        if not got:
            raise SystemExit(1)  # the host is gone
        at += got


def post(name, *n, payload=b""):
    # Ask for an operation that has no answer; its name begins with '!'.
    _pack(name, payload, n)
    _write(_request)
    if payload:
        _write(payload)


def _resync():
    # An interrupt came in the middle of an exchange: send a token and read until the host returns it.
    import os

    token = os.urandom(16)
    _pack(b"sync", token, ())
    _write(_request)
    _write(token)
    seen = b""
    one = bytearray(1)
    while not seen.endswith(token):
        _read(memoryview(one))
        seen = (seen + one)[-16:]


def call(name, *n, payload=b"", into=None):
    # Ask and wait. The answer's payload is returned as bytes or read into `into`; its numbers are in `values`.
    global values, length
    try:
        post(name, *n, payload=payload)
        _read(_answer_view)
        status, length, a, b, c, d, e, f, g = struct.unpack(_ANSWER, _answer)
        data = b""
        if length:
            if into is not None and not status:
                _read(memoryview(into)[:length])
            else:
                data = _in.read(length)
    except KeyboardInterrupt:
        _resync()
        raise
    values = (a, b, c, d, e, f, g)
    if status:
        text = str(data, "utf-8")
        if status == 1:
            raise ValueError(text)
        if status == 2:
            raise OSError(text)
        if status == 3:
            raise RuntimeError(text)
        if status == 4:
            raise TypeError(text)
        if status == 5:
            raise OSError(int(text))
        raise MemoryError(text)
    if g:
        raise KeyboardInterrupt
    return data
