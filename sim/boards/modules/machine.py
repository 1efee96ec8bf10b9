# MaixPy's machine module. Runs in MicroPython.
import sys as _sys
import time as _time

import _bridge

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 0, 1, 2, 3, 4


class UART:
    UART1, UART2, UART3, UART4, UARTHS = 0, 1, 2, 3, 4
    PARITY_ODD, PARITY_EVEN, STOP_1, STOP_1_5, STOP_2 = 1, 2, 0, 1, 2

    def __init__(self, id, baudrate=115200, bits=8, parity=None, stop=1, *, timeout=1000, timeout_char=10,
                 read_buf_len=2048, ide=False, from_ide=True):  # fmt: skip
        if not 0 <= id <= 2:
            raise ValueError("[MAIXPY]UART:invalid uart number")
        if not 0 <= baudrate <= 0x500000:
            raise ValueError("[MAIXPY]UART:invalid baudrate")
        self._id, self._timeout = id, timeout
        _bridge.call(b"uart_open", id, baudrate)

    def init(self, *args, **named):
        return None

    def deinit(self):
        return None

    def write(self, data):
        raw = data.encode() if isinstance(data, str) else data
        _bridge.post(b"!uart_write", self._id, payload=raw)
        return len(raw)

    def any(self):
        _bridge.call(b"uart_any", self._id)
        return _bridge.values[0]

    def read(self, count=4096):
        data = bytes(_bridge.call(b"uart_read", self._id, count))
        return data or None

    def readline(self):
        line = b""
        until = _time.ticks_add(_time.ticks_ms(), self._timeout)
        while not line.endswith(b"\n") and _time.ticks_diff(until, _time.ticks_ms()) > 0:
            line += self.read(1) or b""
        return line or None

    @staticmethod
    def repl_uart():
        return _console


class _ConsoleUart:
    # UARTHS as the prompt uses it. Unlike on the chip, line ends that write() sends are converted like those of
    # print().
    def init(self, baudrate=115200, *rest, **named):
        _bridge.call(b"repl_baud", baudrate)

    def any(self):
        _bridge.call(b"repl_any")
        return _bridge.values[0]

    def read(self, count=2048):
        count = min(count, self.any())
        return _sys.stdin.buffer.read(count) if count else None

    def write(self, data):
        raw = data.encode() if isinstance(data, str) else data
        _sys.stdout.buffer.write(raw)
        return len(raw)


_console = _ConsoleUart()


class WDT:
    def __init__(self, id=0, timeout=5000, callback=None, context=None):
        self._id = id
        _bridge.call(b"wdt_start", id, timeout)

    def feed(self):
        _bridge.call(b"wdt_feed", self._id)

    def stop(self):
        _bridge.call(b"wdt_stop", self._id)


class Timer:
    TIMER0, TIMER1, TIMER2 = 0, 1, 2
    CHANNEL0, CHANNEL1, CHANNEL2, CHANNEL3 = 0, 1, 2, 3
    MODE_ONE_SHOT, MODE_PERIODIC, MODE_PWM = 0, 1, 2

    def __init__(self, *args, **named):
        raise NotImplementedError("machine.Timer is not simulated")


class SDCard:
    @staticmethod
    def remount():
        return None


def reset():
    _bridge.call(b"reset")


def reset_cause():
    return PWRON_RESET


def unique_id():
    return bytes(32)
