"""Gives the board's programs access to the hardware: requests of 64 bytes over a pipe, bulk data in shared memory.

Request: 12 bytes of operation name, u32 payload length, 12 × i32; then the payload. An operation whose name
begins with '!' is not answered (drawing, pin writes: the pipe keeps their order). Answer: i32 status, u32
payload length, 7 × i64; then the payload. `Status` 0 means success; the others name an exception whose text is the
payload. The operations are the methods `op_NAME` here, in camera_operations.py and in kpu_operations.py, and
`_short_operations` below; sim/boards/modules/ holds the other end. Shared memory: board_memory.py.
"""

from __future__ import annotations

import errno
import io
import struct
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image

from common import rgb565
from sim.boards import imlib
from sim.boards.board_files import BoardFiles
from sim.boards.board_memory import GRAYSCALE, PICTURE_BYTES, PICTURE_WINDOW_2, RGB565, BoardError, BoardMemory, Status
from sim.boards.camera_operations import CameraOperations
from sim.boards.devices import Devices, Watchdog
from sim.boards.kpu_operations import KpuOperations

REQUEST = struct.Struct("<12sI12i")
ANSWER = struct.Struct("<iI7q")

LONGEST_PAYLOAD_BYTES = 16 << 20

Operation = Callable[[list[int], bytes], Any]
"""Called with the numbers and the payload of a request; None, an integer, a tuple of them or bytes are the answer."""


class PowerCycleError(Exception):
    """The board asked for machine.reset()."""


class Bridge:
    """The host's end; one thread answers until the program's pipe closes."""

    def __init__(
        self, devices: Devices, memory: memoryview, on_reset: Callable[[str], None], files: BoardFiles | None = None
    ):
        self.devices = devices
        self.files = files or BoardFiles([])
        self.memory = BoardMemory(memory, devices.system_heap_bytes)
        self.watchdogs = [Watchdog(devices), Watchdog(devices)]
        self.interrupt_pending = False
        self.interrupt_enabled = True
        self.busy = threading.Lock()
        self.console_waiting: Callable[[], int] = lambda: 0
        self.error: BaseException | None = None
        self._on_reset = on_reset
        self._unheard = b""  # This is the error of an operation that has no answer; the next answer reports it.
        self._lcd_buffer: int | None = None
        camera = CameraOperations(devices, self.memory)
        self._operations: dict[str, Operation] = self._short_operations(camera)
        for part in (self, camera, KpuOperations(devices, self.memory)):
            operations = {name[len("op_") :]: getattr(part, name) for name in dir(part) if name.startswith("op_")}
            self._operations.update(operations)

    def serve(self, requests: io.RawIOBase, answers: io.RawIOBase) -> None:
        """Answer until the other end closes."""
        try:
            while (head := _read_exact(requests, REQUEST.size)) is not None:
                with self.busy:
                    name, length, *numbers = REQUEST.unpack(head)
                    if length > LONGEST_PAYLOAD_BYTES:
                        return
                    payload = _read_exact(requests, length) if length else b""
                    if payload is None:
                        return
                    answer = self._answer(name.rstrip(b"\0").decode("latin-1"), numbers, payload)
                    if answer is not None:
                        _write_all(answers, answer)
        except (OSError, PowerCycleError):
            return
        except BaseException as error:  # A bug on this side must not look like a board that has stopped answering.
            self.error = error
            self._on_reset("error")
            raise
        finally:
            self.files.close_all()
            answers.close()
            requests.close()

    def _answer(self, name: str, numbers: list[int], payload: bytes) -> bytes | None:
        quiet = name.startswith("!")
        status, data, values = Status.SUCCESS, b"", []
        try:
            operation = self._operations.get(name.lstrip("!"))
            if operation is None:
                raise BoardError(Status.RUNTIME_ERROR, "no such operation of the simulated board")
            result = operation(numbers, payload)
            if isinstance(result, bytes):
                data = result
            elif isinstance(result, tuple):
                values = [int(value) for value in result]
            elif result is not None:
                values = [int(result)]
        except BoardError as error:
            status, data = error.status, str(error).encode()
        except OSError as error:
            status, data = Status.OS_NUMBER, b"%d" % (error.errno or errno.EIO)
        except PowerCycleError:
            raise
        except Exception as error:
            # The program asked for something that the real modules never do: it gets an error, and the host continues.
            text = f"the simulated board cannot do that: {name.lstrip('!')}: {type(error).__name__}: {error}"
            status, data = Status.RUNTIME_ERROR, text.encode("utf-8", "replace")
        if status == Status.RUNTIME_ERROR and quiet:
            self._unheard = data
        elif status == Status.SUCCESS and self._unheard:
            status, data, self._unheard = Status.RUNTIME_ERROR, self._unheard, b""
        if quiet:
            return None
        if self.interrupt_pending:
            self.interrupt_pending = False
            values = values + [0] * (6 - len(values)) + [1]
        return ANSWER.pack(status, len(data), *values, *[0] * (7 - len(values))) + data

    def _short_operations(self, camera: CameraOperations) -> dict[str, Operation]:
        """The operations that only pass numbers and payload to one device. For files, number 0 is the volume (the
        payload is a path) or the handle of an open file."""
        devices, files, image = self.devices, self.files, self.memory.image
        return {
            "heap_free": lambda n, payload: self.memory.heap.free_bytes(),
            "flash_read": lambda n, payload: bytes(devices.flash[n[0] : n[0] + n[1]]),
            # The token is returned, so that a program whose wait was interrupted can resynchronize.
            "sync": lambda n, payload: payload,
            "cam_mirror": lambda n, payload: camera.driver().set_hmirror(bool(n[0])),
            "cam_flip": lambda n, payload: camera.driver().set_vflip(bool(n[0])),
            "cam_write": lambda n, payload: camera.driver().chip.sccb_write(n[0] & 0xFF, n[1] & 0xFF),
            "cam_read": lambda n, payload: camera.driver().chip.sccb_read(n[0] & 0xFF),
            "line": lambda n, payload: imlib.draw_line(image(n), *n[4:10]),
            "rect": lambda n, payload: imlib.draw_rectangle(image(n), n[4], n[5], n[6], n[7], n[8], n[9], bool(n[10])),
            "circle": lambda n, payload: imlib.draw_circle(image(n), n[4], n[5], n[6], n[7], n[8], bool(n[9])),
            "cross": lambda n, payload: imlib.draw_cross(image(n), *n[4:9]),
            "uart_write": lambda n, payload: devices.uarts[n[0]].send(payload),
            "uart_any": lambda n, payload: devices.uarts[n[0]].waiting(),
            "uart_read": lambda n, payload: devices.uarts[n[0]].take(n[1]),
            "repl_any": lambda n, payload: self.console_waiting(),
            "pin_register": lambda n, payload: devices.pins.function.__setitem__(n[0], n[1]),
            "pin_mode": lambda n, payload: devices.pins.configure(n[0], bool(n[1]), bool(n[2])),
            "pin_write": lambda n, payload: devices.pins.write(n[0], n[1]),
            "pin_read": lambda n, payload: devices.pins.read(n[0]),
            "wdt_start": lambda n, payload: self.watchdogs[n[0]].start(n[1]),
            "wdt_feed": lambda n, payload: self.watchdogs[n[0]].feed(),
            "wdt_stop": lambda n, payload: self.watchdogs[n[0]].stop(),
            "fs_read": lambda n, payload: files.read(n[0], n[1], n[2]),
            "fs_write": lambda n, payload: files.write(n[0], payload, n[1]),
            "fs_size": lambda n, payload: files.size(n[0]),
            "fs_close": lambda n, payload: files.close(n[0]),
            "fs_stat": lambda n, payload: files.volume(n[0]).stat(_text(payload)),
            "fs_statvfs": lambda n, payload: files.volume(n[0]).statvfs(),
            "fs_mkdir": lambda n, payload: files.volume(n[0]).make_folder(_text(payload)),
            "fs_rmdir": lambda n, payload: files.volume(n[0]).remove_folder(_text(payload)),
            "fs_remove": lambda n, payload: files.volume(n[0]).remove(_text(payload)),
        }

    # Pictures

    def op_string(self, n: list[int], payload: bytes) -> None:
        text = payload.decode(errors="replace")
        imlib.draw_string(self.memory.image(n), n[4], n[5], text, n[6], n[7] / 1024, n[8], n[9], bool(n[10]))

    def op_pix_to_ai(self, n: list[int], payload: bytes) -> None:
        image = self.memory.image(n)
        height, width = image.shape
        if n[3] == GRAYSCALE:
            self.memory.planes(n[4], width, height, 1)[0] = image
        else:
            self.memory.planes(n[4], width, height)[...] = rgb565.to_planes(image)

    def op_ai_to_pix(self, n: list[int], payload: bytes) -> None:
        image = self.memory.image(n)
        height, width = image.shape
        if n[3] == GRAYSCALE:
            image[...] = self.memory.planes(n[4], width, height, 1)[0]
        else:
            image[...] = rgb565.from_planes(self.memory.planes(n[4], width, height))

    def op_resize(self, n: list[int], payload: bytes) -> None:
        image, width, height = self.memory.image(n), n[4], n[5]
        target = self.memory.image([PICTURE_WINDOW_2, width, height, n[3]])
        if n[3] == GRAYSCALE:
            method = cv2.INTER_AREA if width < image.shape[1] and height < image.shape[0] else cv2.INTER_LINEAR
            small = cv2.resize(image, (width, height), interpolation=method)
        else:
            small = imlib.resize(image, width, height)
        target[...] = small

    def op_gray(self, n: list[int], payload: bytes) -> None:
        image = self.memory.image(n)
        self.memory.image([PICTURE_WINDOW_2, n[1], n[2], GRAYSCALE])[...] = imlib.luma(image)

    def op_decode(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        """Image(path): BMP or JPEG bytes into the second window."""
        if payload[:2] not in (b"BM", b"\xff\xd8"):
            raise BoardError(Status.VALUE_ERROR, "format not supported")
        # The size is taken from the header, because a few bytes can unpack to gigabytes.
        try:
            with Image.open(io.BytesIO(payload)) as header:
                declared_bytes = 2 * header.width * header.height
        except (OSError, ValueError, Image.DecompressionBombError):
            raise BoardError(Status.OS_ERROR, "format not supported") from None
        if declared_bytes > PICTURE_BYTES:
            raise BoardError(Status.MEMORY_ERROR, "memory allocation failed")
        picture = cv2.imdecode(np.frombuffer(payload, dtype=np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise BoardError(Status.OS_ERROR, "format not supported")
        height, width = picture.shape[:2]
        target = self.memory.image([PICTURE_WINDOW_2, width, height, RGB565])
        target[...] = rgb565.pack(np.ascontiguousarray(picture[..., ::-1], dtype=np.uint8))
        return width, height

    def op_encode(self, n: list[int], payload: bytes) -> bytes:
        """img.save() and img.compress(): number 4 is the JPEG quality, or 0 for BMP."""
        image = self.memory.image(n)
        bgr = image if n[3] == GRAYSCALE else np.ascontiguousarray(rgb565.unpack(image)[..., ::-1])
        options = [cv2.IMWRITE_JPEG_QUALITY, n[4]] if n[4] else []
        return cv2.imencode(".jpg" if n[4] else ".bmp", bgr, options)[1].tobytes()

    # LCD

    def op_lcd_init(self, n: list[int], payload: bytes) -> tuple[int, int]:
        width, height, invert, background = n[1:5]
        lcd = self.devices.lcd
        lcd.invert_setting = bool(invert)
        if self._lcd_buffer is not None:
            self.memory.heap.free(self._lcd_buffer)
        self._lcd_buffer = self.memory.malloc(2 * width * height)
        lcd.set_size(width, height)
        lcd.screen[...] = background
        return lcd.size

    def op_lcd_rotation(self, n: list[int], payload: bytes) -> tuple[int, int]:
        if n[0] >= 0:
            self.devices.lcd.set_rotation(n[0])
        return self.devices.lcd.size

    def op_lcd_mirror(self, n: list[int], payload: bytes) -> None:
        self.devices.lcd.mirrored = bool(n[0])

    def op_lcd_dir(self, n: list[int], payload: bytes) -> None:
        self.devices.lcd.direction = n[0]

    def op_lcd_clear(self, n: list[int], payload: bytes) -> None:
        lcd = self.devices.lcd
        with lcd.lock:
            lcd.screen[...] = n[0] & 0xFFFF

    def op_lcd_fill(self, n: list[int], payload: bytes) -> None:
        lcd = self.devices.lcd
        with lcd.lock:
            lcd.screen[n[1] : n[1] + n[3], n[0] : n[0] + n[2]] = n[4] & 0xFFFF

    def op_lcd_string(self, n: list[int], payload: bytes) -> None:
        lcd = self.devices.lcd
        with lcd.lock:
            text = payload.decode(errors="replace")
            imlib.draw_lcd_string(lcd.screen, n[0], n[1], text, n[2] & 0xFFFF, n[3] & 0xFFFF)

    def op_lcd_display(self, n: list[int], payload: bytes) -> None:
        """Numbers 4…7 are the part of the picture, 8 and 9 where it goes, 10 whether 8 and 9 were given."""
        image = self.memory.image(n)
        if n[3] == GRAYSCALE:
            image = rgb565.pack(np.repeat(image[..., None], 3, axis=2))
        x, y, width, height = n[4:8]
        part = image[y : y + height, x : x + width]
        lcd = self.devices.lcd
        with lcd.lock:
            rows, columns = lcd.screen.shape
            if n[10]:
                left, top = n[8], n[9]
            else:  # Smaller pictures are centred on black, larger ones are cropped to their middle.
                left, top = (columns - width) // 2, (rows - height) // 2
                part = part[max(-top, 0) :, max(-left, 0) :]
                left, top = max(left, 0), max(top, 0)
                if width < columns or height < rows:
                    lcd.screen[...] = 0
            part = part[: max(rows - top, 0), : max(columns - left, 0)]
            lcd.screen[top : top + part.shape[0], left : left + part.shape[1]] = part
        lcd.shown()

    # Serial ports, pins, watchdogs, the interpreter itself

    def op_uart_open(self, n: list[int], payload: bytes) -> None:
        self.devices.uarts[n[0]].baudrate = n[1]

    def op_repl_baud(self, n: list[int], payload: bytes) -> None:
        if not 0 < n[0] <= 0x500000:
            raise BoardError(Status.VALUE_ERROR, "[MAIXPY]UART:invalid baudrate")
        self.devices.console_baud = n[0]

    # Files

    def op_fs_open(self, n: list[int], payload: bytes) -> int:
        mode, _, name = _text(payload).partition("\0")
        return self.files.open(n[0], name, mode)

    def op_fs_list(self, n: list[int], payload: bytes) -> bytes:
        """Each entry's mode and name, each ended by a zero byte."""
        entries = self.files.volume(n[0]).list(_text(payload))
        return b"".join(b"%d\0%s\0" % (mode, name.encode("utf-8", "replace")) for name, mode in entries)

    def op_fs_rename(self, n: list[int], payload: bytes) -> None:
        old, _, new = _text(payload).partition("\0")
        self.files.volume(n[0]).rename(old, new)

    def op_kbd_intr(self, n: list[int], payload: bytes) -> None:
        self.interrupt_enabled = n[0] == 3

    def op_reset(self, n: list[int], payload: bytes) -> None:
        self._on_reset("reset")
        raise PowerCycleError


def _text(payload: bytes) -> str:
    """The path in a payload; bytes that are not UTF-8 name no file."""
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        raise OSError(errno.ENOENT, "no UTF-8") from None


def _read_exact(stream: io.RawIOBase, count: int) -> bytes | None:
    """Read `count` bytes; None at the end of the pipe."""
    data = stream.read(count) or b""
    while data and len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            return None
        data += more
    return data or None


def _write_all(stream: io.RawIOBase, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]
