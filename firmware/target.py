"""The board's end of the serial link: takes a picture, runs the stages one by one, returns every result.

`python -m host_tools diff` and `capture` start it from the prompt: `import target; target.serve()`. Message kinds and
buffers are defined in link.py. Three Ctrl-Cs in a row, BYE, or a minute without a frame lead back to the prompt at the
console's rate.
"""

import binascii
import gc
import json
import struct
import sys
import time

import link
from maixpy_api import image_memory

CONSOLE_BAUD = 115200
SILENCE_MS = 60000
LARGEST_IN_HEAP_PX = 50000
NEW_BAUD_MS = 1200  # without a frame for this long after a change of rate, the old rate returns


class Console:
    """The serial line of the prompt, used for bytes."""

    def __init__(self):
        import machine

        self.uart = machine.UART.repl_uart()
        self.baud = CONSOLE_BAUD

    def read(self, wait_ms):
        """The bytes that have arrived: at once if they are many, otherwise when the line pauses."""
        uart = self.uart
        count = uart.any()
        if not count and wait_ms:
            start = time.ticks_ms()
            while not count and time.ticks_diff(time.ticks_ms(), start) < wait_ms:
                count = uart.any()
        # Handling many small pieces is slow, so wait while bytes keep coming.
        while 0 < count < 256:
            time.sleep_us(300)
            more = uart.any()
            if more == count:
                break
            count = more
        return uart.read(count) if count else b""

    def write(self, data):
        self.uart.write(data)

    def set_baud(self, baud):
        # As MaixPy's own _boot.py does it, with a receive ring of the same size as before.
        self.uart.init(baud, 8, None, 1, read_buf_len=link.RING_BYTES)
        self.baud = baud


class RequestError(Exception):
    """A request that cannot be carried out; the text goes to the host."""


class Parts:
    """What the stages work on: the picture, the network and the decoder, set up as in the live program.

    Stages: "camera" takes a frame, "picture" makes the KPU's planes from the pixels that the host sent, "poses" runs
    the KPU and the decoder, "single" the decoder for one person, "draw" draws the poses into the pixels, "check"
    compares the kmodel in flash with posenet.json.
    """

    def __init__(self):
        from boards import load_settings
        from posenet import PoseNet, read_manifest

        gc.collect()
        self.manifest = read_manifest()
        size = self.manifest["input"]
        self.size = size["width"], size["height"]
        field = self.manifest.get("field", size)
        self.field = field["width"], field["height"]
        self.net = None
        self.camera_ready = False
        self.poses = self.multi = b""
        self.found = []
        self.settings = load_settings()
        self.double = False
        self.image = self.sent = self._own_image()
        self.sent_pixels = None  # its bytes, sought when the host first writes
        gc.collect()
        self.net = PoseNet(
            model=self.settings["model"],
            max_poses=self.settings["max_poses"],
            threshold=self.settings["threshold"],
            check=False,
        )
        gc.collect()

    def _own_image(self):
        """An image for the host's pixels: in the GC heap, or the camera's frame buffer if it does not fit there.

        The pixels and planes of a QVGA picture take 384,000 of the heap's 524,288 bytes; the decoder needs the rest.
        """
        import image

        if self.size[0] * self.size[1] > LARGEST_IN_HEAP_PX:
            try:
                return self._frame()
            except (OSError, RuntimeError, TypeError):
                pass  # no camera
        try:
            picture = image.Image(size=self.size)
            picture.pix_to_ai()
            return picture
        except MemoryError:  # so much is free, but not in one piece
            gc.collect()
            return self._frame()

    def _frame(self):
        import sensor

        if not self.camera_ready:
            from posenet import start_camera

            w, h = self.size
            double = self.settings["double_buffer"]
            kept = self.manifest["kmodel"]["bytes"]
            # The posenet.py on the board may be an older one that does not know squeezed fields.
            field = {"field_w": self.field[0]} if self.field[0] != w else {}
            self.double = start_camera(w, h, double=double, reserve_bytes=kept, **field)
            self.camera_ready = True
        if self.double:
            # The picture in the other buffer is as old as the last request. Taking two at a time also returns the same
            # buffer each time, so the camera never writes into the one that holds the host's pictures.
            sensor.snapshot()
        return sensor.snapshot()

    def info(self):
        import os

        kmodel = self.manifest["kmodel"]
        return {
            "system": os.uname()[3],
            "network": self.manifest["network"],
            "size": self.size,
            "field": self.field,
            "double_buffer": self.double,  # False until the camera has been started
            "map": [self.manifest["map"]["width"], self.manifest["map"]["height"]],
            "channels": [head["channels"] for head in self.manifest["heads"]],
            "keypoints": self.net.names,
            "edges": self.net.edges,
            "kmodel": {"bytes": kmodel["bytes"], "crc32": kmodel["crc32"]},
            "threshold": self.settings["threshold"],
            "max_poses": self.settings["max_poses"],
        }

    def run(self, stages):
        """Run stages in turn; returns the microseconds of each, and how many poses the last decoding found."""
        times = {}
        for stage in stages:
            work = getattr(self, "stage_" + stage, None)
            if work is None:
                raise RequestError("stage %s is not known here" % stage)
            gc.collect()
            start = time.ticks_us()
            work()
            times[stage] = time.ticks_diff(time.ticks_us(), start)
            if stage == "poses":
                times["forward"] = self.net.forward_us
                times["decode"] = self.net.decode_us
        return {"us": times, "poses": len(self.found), "poses_bytes": len(self.poses)}

    def stage_camera(self):
        self.image = self._frame()

    def stage_picture(self):
        self.image = self.sent
        self.image.pix_to_ai()

    def stage_poses(self):
        self.found = self.net.poses(self.image)
        # Decode once more, because the poses in `found` are already turned and squeezed for mount and camera.
        self.multi = b"".join([bytes(pose) for pose in self.net._decoder.multi(self._heads())])
        self._pack(b"", 0)

    def stage_single(self):
        # The decoder reuses its memory; what multi-pose decoding found was copied before.
        single = self.net._decoder.single(self._heads())
        self._pack(b"".join([bytes(pose) for pose in single]), len(single))

    def _pack(self, single, count):
        self.poses = struct.pack("<II", len(self.found), count) + self.multi + single

    def stage_draw(self):
        from drawing import draw_poses

        draw_poses(self.image, self.found, self.net.edges)

    def stage_check(self):
        from posenet import check_file, check_flash, check_loaded

        kmodel = self.manifest["kmodel"]
        if self.settings["model"]:
            check_file(self.settings["model"], kmodel)
        elif not check_flash(kmodel) and not check_loaded(self.net._model, kmodel):
            raise RequestError("this MaixPy build lets us read its kmodel neither in flash nor in memory")

    def _heads(self):
        if not self.net._heads:
            raise RequestError("there are no heads before the stage poses has run")
        return self.net._heads

    def buffer(self, name):
        """The bytes of a buffer (link.py)."""
        if name == link.PICTURE:
            return self.image.to_bytes()
        if name == link.PLANES:
            return planes(self.image)
        if name == link.POSES:
            return self.poses
        if link.HEATMAP <= name < link.POSES:
            return self._heads()[name - link.HEATMAP]
        raise RequestError("buffer %d is not known here" % name)

    def writable(self, name):
        """The buffer that the host may fill."""
        if name != link.PICTURE:
            raise RequestError("buffer %d cannot be written" % name)
        self.image = self.sent
        if self.sent_pixels is None:
            self.sent_pixels = image_memory(self.sent)[0]
        return self.sent_pixels


def planes(picture):
    """An image's R, G and B planes, which are the KPU's input. MaixPy has no function that returns them."""
    import uctypes

    at = image_memory(picture)[1]
    if at is None:
        raise RequestError("this MaixPy stores images differently, so the KPU's input cannot be read")
    if not at:
        raise RequestError("the image has no planes yet")
    return uctypes.bytearray_at(at, 3 * picture.width() * picture.height())


class Target:
    """Answers the host's requests; `parts` (see Parts) does the work."""

    def __init__(self, console, parts):
        self.console = console
        self.parts = parts
        self.link = link.Link(link.RING_BYTES, 256)
        self.channel = link.Channel(self.link, console.read, console.write, time.ticks_ms)
        self.transfer = None  # [buffer, length, CRC-32, held, CRC-32 of what is held]
        import os

        self.boot = binascii.hexlify(os.urandom(4)).decode()
        self.stop = False

    def run(self):
        """Serve until told to stop."""
        last_ms = time.ticks_ms()
        while not self.stop:
            try:
                if self.channel.pump(20):
                    last_ms = time.ticks_ms()
                while self.link.inbox:
                    kind, message = self.link.inbox.pop(0)
                    self.answer(kind, message)
                    last_ms = time.ticks_ms()
            except link.LinkError:
                self.link.open(0)  # wait for a new HELLO; transfers and results stay
            if self.link.stop or time.ticks_diff(time.ticks_ms(), last_ms) > SILENCE_MS:
                break

    def answer(self, kind, message):
        """Carry out one request."""
        try:
            if kind == link.PING:
                self.channel.send(kind, message)
            elif kind == link.INFO:
                self.report(self.info())
            elif kind == link.BAUD:
                self.change_baud(struct.unpack("<I", message)[0])
            elif kind == link.OPEN:
                self.begin(message)
            elif kind == link.WRITE:
                self.take(message)
            elif kind == link.READ:
                self.give(message)
            elif kind == link.RUN:
                self.report(self.parts.run(str(message, "utf-8").split()))
            elif kind == link.BYE:
                self.stop = True
                self.channel.pump(5)
            else:
                raise RequestError("message kind %d is not known here" % kind)
        except link.LinkError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, RequestError) else "%s: %s" % (type(error).__name__, error)
            self.channel.send(link.FAILED, text.encode()[: self.link.peer_largest_bytes])

    def info(self):
        facts = self.parts.info()
        facts["boot"] = self.boot
        facts["protocol"] = link.PROTOCOL
        facts["baud"] = self.console.baud
        facts["line"] = {"frames": self.link.frames, "errors": self.link.errors, "resent": self.link.resent}
        gc.collect()
        if hasattr(gc, "mem_free"):
            facts["gc_free_bytes"] = gc.mem_free()
        return facts

    def report(self, facts):
        text = json.dumps(facts).encode()
        if len(text) > self.link.peer_largest_bytes:
            raise RequestError("a report of %d bytes is too long for the link" % len(text))
        self.channel.send(link.REPORT, text)

    # -- transfers -----------------------------------------------------------------------------------------

    def begin(self, message):
        name, length, crc = struct.unpack("<BII", message)
        size = len(self.parts.writable(name))
        if length != size:
            raise RequestError("buffer %d has %d bytes here, but the host sends %d" % (name, size, length))
        if self.transfer is None or self.transfer[:3] != [name, length, crc] or self.transfer[3] == length:
            self.transfer = [name, length, crc, 0, 0]
        self.state()

    def state(self):
        self.channel.send(link.STATE, struct.pack("<BII", self.transfer[0], self.transfer[3], self.transfer[4]))

    def take(self, message):
        name, offset = struct.unpack_from("<BI", message)
        transfer = self.transfer
        if transfer is None or name != transfer[0]:
            raise RequestError("WRITE to buffer %d without OPEN" % name)
        if offset == 0:
            transfer[3] = transfer[4] = 0
        if offset != transfer[3] or offset + len(message) - 5 > transfer[1]:
            raise RequestError("WRITE at %d, but %d of %d bytes are held" % (offset, transfer[3], transfer[1]))
        data = memoryview(message)[5:]
        self.parts.writable(name)[offset : offset + len(data)] = data
        transfer[3] += len(data)
        transfer[4] = binascii.crc32(data, transfer[4]) & 0xFFFFFFFF
        if transfer[3] == transfer[1]:
            self.state()

    def give(self, message):
        name, offset, length = struct.unpack("<BII", message)
        buffer = memoryview(self.parts.buffer(name))
        end = offset + length
        if end > len(buffer):
            raise RequestError("buffer %d has %d bytes, but bytes up to %d are requested" % (name, len(buffer), end))
        while offset < end and not self.link.stop:
            size = min(end - offset, self.link.chunk_bytes() - 6)
            self.channel.send(link.PART, struct.pack("<BI", name, offset), buffer[offset : offset + size])
            offset += size

    # -- the line's rate -----------------------------------------------------------------------------------

    def change_baud(self, baud):
        """Answer, switch, and go back unless frames from the host arrive at the new rate."""
        before = self.console.baud
        self.channel.send(link.BAUD, struct.pack("<I", baud))
        self.channel.flush(200)
        time.sleep_ms(20)  # the last bytes leave the shift register at the old rate
        try:
            self.console.set_baud(baud)
        except ValueError:
            return
        heard = self.link.frames
        start = time.ticks_ms()
        while self.link.frames == heard:
            self.channel.pump(10)
            if time.ticks_diff(time.ticks_ms(), start) > NEW_BAUD_MS:
                self.console.set_baud(before)
                return


def serve():
    """Answer the host until it says BYE; then restore the console."""
    serve_parts(Parts)


def serve_parts(parts):
    """The same with another class in place of Parts."""
    import micropython

    micropython.kbd_intr(-1)
    console = Console()
    try:
        Target(console, parts()).run()
    finally:
        if console.baud != CONSOLE_BAUD:
            time.sleep_ms(20)
            console.set_baud(CONSOLE_BAUD)
        micropython.kbd_intr(3)
    sys.stdout.write("\r\nlink closed\r\n")
