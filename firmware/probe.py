"""The board's end of `host_tools certify`: runs small kmodels and tries camera and LCD, one thing at a time.

It is started from the prompt: `import probe; probe.serve()`. The link is target.py's; a request to run names stages
with numbers, for example "image:8:8". The host writes the KPU's input directly into an image's planes.
"""

import gc
import os
import time

import link
from maixpy_api import heap_free, open_model, pixels_at, reset_camera, rotate_lcd, start_lcd
from target import RequestError, planes, serve_parts

KMODEL = 16  # buffers besides link.PICTURE and link.PLANES
OUTPUT = 17
FILE = "certify.kmodel"
LARGEST_PIECE_BYTES = 16384


class Parts:
    """The kmodel under test, its input image, and the camera."""

    def __init__(self):
        self.piece = bytearray(0)
        self.image = None
        self.model = None
        self.output = b""
        self.values = {}
        self.clean()

    def clean(self):
        """Remove the kmodel's file, also if an interrupted run has left it."""
        if FILE in os.listdir():
            os.remove(FILE)

    def info(self):
        facts = {"system": os.uname()[3], "machine": os.uname()[4], "cpu_mhz": 0, "kpu_mhz": 0}
        try:
            from Maix import freq

            facts["cpu_mhz"], facts["kpu_mhz"] = freq.get()
        except (ImportError, AttributeError):
            pass
        facts["heap_bytes"] = gc.mem_free() + gc.mem_alloc()
        facts["system_heap_free_bytes"] = heap_free()
        status = os.statvfs(os.getcwd())
        facts["files_free_bytes"] = status[0] * status[3]
        return facts

    def run(self, stages):
        """Run stages in turn; returns the microseconds of each, and what they found."""
        times = {}
        self.values = {}
        for stage in stages:
            name, _, text = stage.partition(":")
            work = getattr(self, "stage_" + name, None)
            if work is None:
                raise RequestError("stage %s is not known here" % name)
            numbers = [int(number) for number in text.split(":")] if text else []
            gc.collect()
            start = time.ticks_us()
            work(*numbers)
            times[name] = time.ticks_diff(time.ticks_us(), start)
        return {"us": times, "values": self.values}

    # -- the KPU

    def stage_room(self, count):
        """Make room for the next piece of a kmodel."""
        if not 0 < count <= LARGEST_PIECE_BYTES:
            raise RequestError("a piece of %d bytes is too long" % count)
        if len(self.piece) != count:
            self.piece = b""
            gc.collect()
            self.piece = bytearray(count)

    def stage_store(self, at):
        """Write the piece to its place in the file, because MaixPy loads a kmodel that is not in flash only from a
        file."""
        held = os.stat(FILE)[6] if at else 0
        if held == at + len(self.piece):
            return  # the same request again: its answer was lost
        if held != at:
            raise RequestError("the kmodel's file has %d bytes, but this piece is for %d" % (held, at))
        with open(FILE, "ab" if at else "wb") as file:
            file.write(self.piece)

    def stage_image(self, width, height):
        """Make an image whose planes the host fills."""
        import image

        if self.image is None or (self.image.width(), self.image.height()) != (width, height):
            self.image = None
            gc.collect()
            self.image = image.Image(size=(width, height))
        self.image.pix_to_ai()

    def stage_load(self):
        """Load the kmodel from its file, and remove the file."""
        try:
            self.model = open_model(FILE, os.stat(FILE)[6])
        finally:
            self.clean()

    def stage_forward(self):
        self.model.run(self.image)

    def stage_output(self):
        self.output = self.model.heads((0,), self.image)[0]

    def stage_times(self, count):
        """The time of the shortest of `count` runs, in which the chip did least else."""
        best = 1 << 30
        for _ in range(count):
            start = time.ticks_us()
            self.model.run(self.image)
            best = min(best, time.ticks_diff(time.ticks_us(), start))
        self.values["forward"] = best

    def stage_free(self):
        self.output = b""
        if self.model is not None:
            self.model.deinit()
            self.model = None

    # -- camera and LCD

    def stage_camera(self, double):
        """Start the camera with 160x120 frames of the whole field; the image is the first good one."""
        import sensor

        self.image = None
        gc.collect()
        reset_camera(0, bool(double))
        sensor.set_pixformat(sensor.RGB565)
        sensor.set_framesize(sensor.QQVGA)
        sensor.run(1)
        self.values["sensor"] = sensor.get_id()
        self.stage_snap(3)

    def stage_registers(self, *pairs):
        """Write sensor registers: register, value, register, value …"""
        import sensor

        write = getattr(sensor, "__write_reg", None)
        if write is None:
            raise RequestError("this MaixPy cannot write the sensor's registers")
        for i in range(0, len(pairs), 2):
            write(pairs[i], pairs[i + 1])

    def stage_snap(self, count):
        """Take pictures and keep the last one."""
        import sensor

        places = []
        start = time.ticks_us()
        for _ in range(count):
            self.image = sensor.snapshot()
            place = pixels_at(self.image)
            if place not in places:
                places.append(place)
        self.values["snap_us"] = time.ticks_diff(time.ticks_us(), start) // count
        self.values["buffers"] = len(places)

    def stage_lcd(self):
        """Show a picture that tells which way is up: a white bar at the top, a red one at the left."""
        import image
        import lcd
        from boards import load_settings

        settings = load_settings()
        if settings["lcd"] is None:
            return
        start_lcd(settings["lcd"])
        if settings["rotation"]:
            rotate_lcd(settings["rotation"])
        self.values["lcd_width"], self.values["lcd_height"] = lcd.width(), lcd.height()
        self.image = None
        gc.collect()
        w, h = 120, 90
        picture = image.Image(size=(w, h))
        picture.draw_rectangle(0, 0, w, h // 4, color=(255, 255, 255), fill=True)
        picture.draw_rectangle(0, h // 4, w // 4, h - h // 4, color=(255, 0, 0), fill=True)
        lcd.clear(0)
        lcd.display(picture, oft=((lcd.width() - w) // 2, (lcd.height() - h) // 2))

    # -- buffers

    def buffer(self, name):
        if name == OUTPUT:
            return self.output
        if self.image is None:
            raise RequestError("there is no image yet")
        if name == link.PLANES:
            return planes(self.image)
        if name == link.PICTURE:
            return self.image.to_bytes()
        raise RequestError("buffer %d is not known here" % name)

    def writable(self, name):
        if name == KMODEL:
            return self.piece
        if name == link.PLANES:
            return self.buffer(name)
        raise RequestError("buffer %d cannot be written" % name)


def serve():
    """Answer the host until it says BYE; then restore the console."""
    serve_parts(Parts)
