"""Gives the board's programs access to the hardware: requests of 64 bytes over a pipe, bulk data in shared memory.

Request: 12 bytes of operation name, u32 payload length, 12 × i32; then the payload. An operation whose name
begins with '!' is not answered (drawing, pin writes: the pipe keeps their order). Answer: i32 status, u32
payload length, 7 × i64; then the payload. Status 0 means success; the others name an exception whose text is the
payload. The operations are the methods `op_NAME` and `_short_operations` below; sim/boards/modules/ holds the other
end.

Shared memory: `SystemHeap` first, as large as the chip's, then two windows for the transfer of pictures that
are in the GC heap.
"""

from __future__ import annotations

import errno
import io
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common import rgb565
from common.arrays import Numbers
from common.errors import UserError
from model_build.kpu.kmodel_v3 import HEADER_BYTES, MAX_FILE_BYTES
from sim.boards import imlib, sensor_drivers
from sim.boards.board_files import BoardFiles
from sim.boards.devices import CachedRunner, Devices, KpuModelRunner, SystemHeap, Watchdog

REQUEST = struct.Struct("<12sI12i")
ANSWER = struct.Struct("<iI7q")

HEAP_WINDOW_BYTES = 8 << 20
PICTURE_WINDOW = HEAP_WINDOW_BYTES
PICTURE_WINDOW_2 = HEAP_WINDOW_BYTES + (2 << 20)
SHARED_BYTES = HEAP_WINDOW_BYTES + (4 << 20)

VALUE_ERROR, OS_ERROR, RUNTIME_ERROR, TYPE_ERROR, OS_NUMBER, MEMORY_ERROR = 1, 2, 3, 4, 5, 6

LONGEST_PAYLOAD_BYTES = 16 << 20

GRAYSCALE, RGB565, JPEG = 1, 2, 4  # bpp codes of image memory

Operation = Callable[[list[int], bytes], Any]
"""Called with the numbers and the payload of a request; None, an integer, a tuple of them or bytes are the answer."""

# Error texts of the KPU module (Maix_kpu.c:185-227).
KPU_TEXTS = {
    2002: "unsupport kmodel version, only support kmodel V3{v4}",
    2003: "wrong kmodel format",
    2005: "read file error",
    2006: "no memory",
    2009: "only support at most 5 models at the same time",
}


class BoardError(Exception):
    """An error that becomes an exception inside the board's program."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class PowerCycleError(Exception):
    """The board asked for machine.reset()."""


@dataclass
class LoadedModel:
    """A model in the chip's memory: the place of its output buffer and of the outputs in it."""

    runner: KpuModelRunner
    model_at: int
    main_at: int
    outputs: list[tuple[int, int]]
    shape: tuple[int, int, int]
    last: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Sensor:
    """The camera with its driver, and the frame buffers that set_framesize() takes.

    size: the size that the DVP counts, and so of a snapshot, at the top left of what the chip sends.
    double: two frame buffers are used in turn: while the program works on one, the next picture goes into the other.
    waiting: that picture, taken with the registers as they were when the previous snapshot returned.
    frames: the places of the buffers' pixels and planes.
    """

    driver: sensor_drivers.Driver | None = None
    framesize: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    pixformat: int = 0
    double: bool = False
    waiting: NDArray[np.uint8] | None = None
    frames: list[tuple[int, int]] = field(default_factory=list)
    incoming: list[int] = field(default_factory=list)


class Bridge:
    """The host's end; one thread answers until the program's pipe closes."""

    def __init__(
        self, devices: Devices, memory: memoryview, on_reset: Callable[[str], None], files: BoardFiles | None = None
    ):
        self.devices = devices
        self.files = files or BoardFiles([])
        self.memory = np.frombuffer(memory, dtype=np.uint8)
        self.heap = SystemHeap(devices.system_heap_bytes)
        self.sensor = Sensor()
        self.models: dict[int, LoadedModel] = {}
        self.watchdogs = [Watchdog(devices), Watchdog(devices)]
        self.interrupt_pending = False
        self.interrupt_enabled = True
        self.busy = threading.Lock()
        self.console_waiting: Callable[[], int] = lambda: 0
        self.error: BaseException | None = None
        self._on_reset = on_reset
        self._upload = bytearray()
        self._unheard = b""  # This is the error of an operation that has no answer; the next answer reports it.
        self._lcd_buffer: int | None = None
        methods = {name[len("op_") :]: getattr(self, name) for name in dir(self) if name.startswith("op_")}
        self._operations: dict[str, Operation] = methods | self._short_operations()

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
        status, data, values = 0, b"", []
        try:
            operation = self._operations.get(name.lstrip("!"))
            if operation is None:
                raise BoardError(RUNTIME_ERROR, "no such operation of the simulated board")
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
            status, data = OS_NUMBER, b"%d" % (error.errno or errno.EIO)
        except PowerCycleError:
            raise
        except Exception as error:
            # The program asked for something that the real modules never do: it gets an error, and the host continues.
            text = f"the simulated board cannot do that: {name.lstrip('!')}: {type(error).__name__}: {error}"
            status, data = RUNTIME_ERROR, text.encode("utf-8", "replace")
        if status == RUNTIME_ERROR and quiet:
            self._unheard = data
        elif status == 0 and self._unheard:
            status, data, self._unheard = RUNTIME_ERROR, self._unheard, b""
        if quiet:
            return None
        if self.interrupt_pending:
            self.interrupt_pending = False
            values = values + [0] * (6 - len(values)) + [1]
        return ANSWER.pack(status, len(data), *values, *[0] * (7 - len(values))) + data

    def _short_operations(self) -> dict[str, Operation]:
        """The operations that only pass numbers and payload to one device. For files, number 0 is the volume (the
        payload is a path) or the handle of an open file."""
        devices, files = self.devices, self.files
        return {
            "heap_free": lambda n, payload: self.heap.free_bytes(),
            "flash_read": lambda n, payload: bytes(devices.flash[n[0] : n[0] + n[1]]),
            # The token is returned, so that a program whose wait was interrupted can resynchronize.
            "sync": lambda n, payload: payload,
            "cam_mirror": lambda n, payload: self._driver().set_hmirror(bool(n[0])),
            "cam_flip": lambda n, payload: self._driver().set_vflip(bool(n[0])),
            "cam_write": lambda n, payload: self._driver().chip.sccb_write(n[0] & 0xFF, n[1] & 0xFF),
            "cam_read": lambda n, payload: self._driver().chip.sccb_read(n[0] & 0xFF),
            "line": lambda n, payload: imlib.draw_line(self._image(n), *n[4:10]),
            "rect": lambda n, payload: imlib.draw_rectangle(
                self._image(n), n[4], n[5], n[6], n[7], n[8], n[9], bool(n[10])
            ),
            "circle": lambda n, payload: imlib.draw_circle(self._image(n), n[4], n[5], n[6], n[7], n[8], bool(n[9])),
            "cross": lambda n, payload: imlib.draw_cross(self._image(n), *n[4:9]),
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

    # Memory

    def _malloc(self, length: int, alignment: int = 64) -> int:
        at = self.heap.malloc(length, alignment)
        if at is None:
            raise BoardError(OS_NUMBER, "12")
        return at

    def _image(self, numbers: list[int]) -> Numbers:
        at, width, height, bpp = numbers[:4]
        if bpp == GRAYSCALE:
            return self.memory[at : at + width * height].reshape(height, width)
        return self.memory[at : at + 2 * width * height].view("<u2").reshape(height, width)

    def _planes(self, at: int, width: int, height: int, channels: int = 3) -> NDArray[np.uint8]:
        return self.memory[at : at + channels * width * height].reshape(channels, height, width)

    # Camera

    def op_cam_reset(self, numbers: list[int], payload: bytes) -> int:
        if self.devices.camera is None:
            raise BoardError(OS_ERROR, "Reset Failed")
        self._free_frame()
        self.sensor = Sensor(sensor_drivers.reset(self.devices.sensor, self._look), double=bool(numbers[0]))
        self._driver().chip.honours_window = self.devices.silicon.camera_window == "honoured"
        return sensor_drivers.IDS[self.devices.sensor]

    def _look(self, width: int, height: int) -> NDArray[np.uint8] | None:
        return self.devices.camera.frame(width, height) if self.devices.camera else None

    def _driver(self) -> sensor_drivers.Driver:
        if self.sensor.driver is None:
            raise BoardError(TYPE_ERROR, "not found sensor")
        return self.sensor.driver

    def _free_frame(self) -> None:
        for at in self.sensor.incoming:
            self.heap.free(at)
        self.sensor.incoming, self.sensor.frames = [], []

    def op_cam_format(self, numbers: list[int], payload: bytes) -> None:
        if numbers[0] not in (2, 3, 4):
            raise BoardError(OS_ERROR, "Pixel format is not supported!")
        self.sensor.pixformat = numbers[0]

    def op_cam_size(self, numbers: list[int], payload: bytes) -> None:
        width, height = numbers[:2]
        if self.sensor.driver is None:
            raise BoardError(OS_NUMBER, "5")
        self._free_frame()
        for _ in range(1 + self.sensor.double):
            pixels = self._malloc(-(-width * height * 2 // 128) * 128, 128)
            self.sensor.incoming.append(pixels)
            planes = self._malloc(-(-width * height * 3 // 64) * 64, 128)
            self.sensor.incoming.append(planes)
            self.sensor.frames.append((pixels, planes))
        self.sensor.driver.set_framesize(width, height)
        self.sensor.framesize = self.sensor.size = width, height
        self.sensor.waiting = None

    def op_cam_window(self, numbers: list[int], payload: bytes) -> None:
        x, y, width, height = numbers[:4]
        if width < 8 or height < 8:
            raise BoardError(VALUE_ERROR, "The selected window is too small")
        if x < 0 or y < 0 or x + width > self.sensor.framesize[0] or y + height > self.sensor.framesize[1]:
            raise BoardError(VALUE_ERROR, "The selected window is outside the bounds of the frame")
        if width % 8 or height % 8:
            raise BoardError(VALUE_ERROR, "value must be multiple of 8")
        self._driver().set_windowing(self.sensor.framesize, x, y, width, height)
        self.sensor.size = width, height
        self.sensor.waiting = None

    def op_snapshot(self, numbers: list[int], payload: bytes) -> tuple[int, ...]:
        sensor = self.sensor
        driver = self._driver()
        if self.devices.camera is None:
            raise BoardError(TYPE_ERROR, "not found sensor")
        if not sensor.frames or not sensor.pixformat:
            raise BoardError(RUNTIME_ERROR, "Not init!")
        width, height = sensor.size
        frame = driver.chip.capture() if sensor.waiting is None else sensor.waiting
        sensor.waiting = None
        if frame is None or frame.shape[0] < height or frame.shape[1] < width:
            raise BoardError(RUNTIME_ERROR, "Sensor timeout!")
        frame = frame[:height, :width]
        if sensor.double:
            sensor.waiting = driver.chip.capture()
        pixels_at, planes_at = sensor.frames[0]
        sensor.frames.reverse()
        self._planes(planes_at, width, height)[...] = frame.transpose(2, 0, 1)
        if sensor.pixformat == 4:  # GRAYSCALE: the pixels are the first plane itself
            return planes_at, width, height, GRAYSCALE, planes_at
        words = rgb565.pack(frame)
        self._image([pixels_at, width, height, RGB565])[...] = words
        if (rule := self.devices.silicon.camera_planes) != "full":
            seen = rgb565.widen(words.byteswap(), rule == "repeated")
            self._planes(planes_at, width, height)[...] = seen.transpose(2, 0, 1)
        return pixels_at, width, height, RGB565, planes_at

    # Pictures

    def op_string(self, n: list[int], payload: bytes) -> None:
        text = payload.decode(errors="replace")
        imlib.draw_string(self._image(n), n[4], n[5], text, n[6], n[7] / 1024, n[8], n[9], bool(n[10]))

    def op_pix_to_ai(self, n: list[int], payload: bytes) -> None:
        image = self._image(n)
        height, width = image.shape
        if n[3] == GRAYSCALE:
            self._planes(n[4], width, height, 1)[0] = image
        else:
            self._planes(n[4], width, height)[...] = rgb565.to_planes(image)

    def op_ai_to_pix(self, n: list[int], payload: bytes) -> None:
        image = self._image(n)
        height, width = image.shape
        if n[3] == GRAYSCALE:
            image[...] = self._planes(n[4], width, height, 1)[0]
        else:
            image[...] = rgb565.from_planes(self._planes(n[4], width, height))

    def op_resize(self, n: list[int], payload: bytes) -> None:
        image, width, height = self._image(n), n[4], n[5]
        target = self._image([PICTURE_WINDOW_2, width, height, n[3]])
        if n[3] == GRAYSCALE:
            method = cv2.INTER_AREA if width < image.shape[1] and height < image.shape[0] else cv2.INTER_LINEAR
            small = cv2.resize(image, (width, height), interpolation=method)
        else:
            small = imlib.resize(image, width, height)
        target[...] = small

    def op_gray(self, n: list[int], payload: bytes) -> None:
        image = self._image(n)
        self._image([PICTURE_WINDOW_2, n[1], n[2], GRAYSCALE])[...] = imlib.luma(image)

    def op_decode(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        """Image(path): BMP or JPEG bytes into the second window."""
        if payload[:2] not in (b"BM", b"\xff\xd8"):
            raise BoardError(VALUE_ERROR, "format not supported")
        # The size is taken from the header, because a few bytes can unpack to gigabytes.
        try:
            with Image.open(io.BytesIO(payload)) as header:
                declared_bytes = 2 * header.width * header.height
        except (OSError, ValueError, Image.DecompressionBombError):
            raise BoardError(OS_ERROR, "format not supported") from None
        if declared_bytes > 2 << 20:
            raise BoardError(MEMORY_ERROR, "memory allocation failed")
        picture = cv2.imdecode(np.frombuffer(payload, dtype=np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise BoardError(OS_ERROR, "format not supported")
        height, width = picture.shape[:2]
        target = self._image([PICTURE_WINDOW_2, width, height, RGB565])
        target[...] = rgb565.pack(np.ascontiguousarray(picture[..., ::-1], dtype=np.uint8))
        return width, height

    def op_encode(self, n: list[int], payload: bytes) -> bytes:
        """img.save() and img.compress(): number 4 is the JPEG quality, or 0 for BMP."""
        image = self._image(n)
        bgr = image if n[3] == GRAYSCALE else np.ascontiguousarray(rgb565.unpack(image)[..., ::-1])
        options = [cv2.IMWRITE_JPEG_QUALITY, n[4]] if n[4] else []
        return cv2.imencode(".jpg" if n[4] else ".bmp", bgr, options)[1].tobytes()

    # LCD

    def op_lcd_init(self, n: list[int], payload: bytes) -> tuple[int, int]:
        kind, width, height, invert, background = n[:5]
        lcd = self.devices.lcd
        lcd.invert_setting = bool(invert)
        lcd.on = kind != 0
        if self._lcd_buffer is not None:
            self.heap.free(self._lcd_buffer)
        self._lcd_buffer = self._malloc(2 * width * height)
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
        image = self._image(n)
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

    # KPU

    def _kpu_error(self, code: int) -> BoardError:
        text = KPU_TEXTS[code].format(v4="/V4 now" if self.devices.kmodel_v4 else "")
        return BoardError(VALUE_ERROR, f"[MAIXPY]kpu: load error:{code}, {text}")

    def op_kpu_flash(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        """kpu.load(address): the length follows from the header and the layer headers, as on the chip."""
        flash, at = self.devices.flash, n[0]
        if at + HEADER_BYTES > len(flash):
            raise self._kpu_error(2005)
        version, _, arch, layers, _, _, outputs = struct.unpack_from("<7I", flash, at)
        if version != 3 or arch != 0:
            raise self._kpu_error(2002)
        headers = at + HEADER_BYTES + 8 * outputs
        length = HEADER_BYTES + 8 * outputs + 8 * layers
        if layers > 4096 or outputs > 4096 or at + length > len(flash):
            raise self._kpu_error(2003)
        for layer in range(layers):
            body = struct.unpack_from("<I", flash, headers + 8 * layer + 4)[0]
            if not body:
                raise self._kpu_error(2003)
            length += body
        if length > MAX_FILE_BYTES or at + length > len(flash):
            raise self._kpu_error(2003)
        return self._load(bytes(flash[at : at + length]))

    def op_kpu_begin(self, n: list[int], payload: bytes) -> None:
        self._upload = bytearray()

    def op_kpu_data(self, n: list[int], payload: bytes) -> None:
        if len(self._upload) <= MAX_FILE_BYTES:
            self._upload += payload

    def op_kpu_file(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        data = bytes(self._upload)
        self._upload = bytearray()
        if not data:
            raise self._kpu_error(2005)
        if len(data) < HEADER_BYTES or struct.unpack_from("<I", data)[0] != 3 or struct.unpack_from("<I", data, 8)[0]:
            raise self._kpu_error(2002)
        if len(data) > MAX_FILE_BYTES:
            raise self._kpu_error(2003)
        return self._load(data)

    def _load(self, kmodel: bytes) -> tuple[int, ...]:
        if len(self.models) >= 5:
            raise self._kpu_error(2009)
        main_bytes, count = struct.unpack_from("<20xII", kmodel)
        try:
            outputs = [struct.unpack_from("<II", kmodel, HEADER_BYTES + 8 * i) for i in range(count)]
            runner = self.devices.load_model(kmodel)
        except (UserError, struct.error):
            raise self._kpu_error(2003) from None
        try:
            model_at = self._malloc(len(kmodel) + 256, 256)
        except BoardError:
            raise self._kpu_error(2006) from None
        try:
            main_at = self._malloc(max(main_bytes, 8), 256)
        except BoardError:
            self.heap.free(model_at)
            raise self._kpu_error(2006) from None
        channels, height, width = _input_shape(kmodel, count)
        if self.devices.cache_kpu:
            runner = CachedRunner(runner)
        task = next(i for i in range(1, 7) if i not in self.models)
        self.models[task] = LoadedModel(runner, model_at, main_at, outputs, (channels, height, width))
        return task, len(kmodel), count, width, height, channels

    def op_kpu_deinit(self, n: list[int], payload: bytes) -> None:
        model = self.models.pop(n[0], None)
        if model is not None:
            self.heap.free(model.model_at)
            self.heap.free(model.main_at)

    def op_kpu_run(self, n: list[int], payload: bytes) -> tuple[int, int, int]:
        """Number 0 is the model, 1 the place of the planes; answers w, h, ch of the last layer."""
        model = self.models[n[0]]
        channels, height, width = model.shape
        results = model.runner.run(self._planes(n[1], width, height, channels))
        self.devices.kpu_runs += 1
        for (at, size), data in zip(model.outputs, results, strict=True):
            flat = np.ascontiguousarray(data).reshape(-1)[:size]
            self.memory[model.main_at + at : model.main_at + at + flat.size] = flat
        last = results[-1].shape
        model.last = (last[2], last[1], last[0])
        return model.last

    def op_kpu_output(self, n: list[int], payload: bytes) -> tuple[int, ...]:
        model = self.models[n[0]]
        if not 0 <= n[1] < len(model.outputs):
            raise BoardError(OS_ERROR, "sipeed_kpu_get_output err" if n[2] else "2001")
        at, size = model.outputs[n[1]]
        return model.main_at + at, size, *model.last

    # Serial ports, pins, watchdogs, the interpreter itself

    def op_uart_open(self, n: list[int], payload: bytes) -> None:
        self.devices.uarts[n[0]].baudrate = n[1]

    def op_repl_baud(self, n: list[int], payload: bytes) -> None:
        if not 0 < n[0] <= 0x500000:
            raise BoardError(VALUE_ERROR, "[MAIXPY]UART:invalid baudrate")
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


def _input_shape(kmodel: bytes, outputs: int) -> tuple[int, int, int]:
    """C, H and W of the first KPU layer, from its registers image_channel_num and image_size (V3 §K210_CONV)."""
    layers = struct.unpack_from("<12xI", kmodel)[0]
    body = HEADER_BYTES + 8 * outputs + 8 * layers
    offset = struct.unpack_from("<I", kmodel, body + 8)[0]
    channel_word, size_word = struct.unpack_from("<16xQQ", kmodel, offset)
    return (channel_word & 0x3FF) + 1, (size_word >> 10 & 0x1FF) + 1, (size_word & 0x3FF) + 1


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
