"""What differs between MaixPy builds, behind one interface.

Each function is looked for in the build itself; version numbers are never compared:

    heads    KPU.get_output() (0.5.0-21 and later), else KPU.forward() once for each head; CanMV: canmv.py
    kmodel   checked in flash by Maix.utils.flash_read() (0.5.1 and later), else in memory after it was loaded
    pixels   image.to_bytes(), or where that is a copy (0.4.0), the pointer in the image object
    camera   sensor.reset(choice, dual_buff), without the arguments that the build does not know
    LCD      lcd.init(…), likewise

`ways` lists the functions for which an older way was used; app.py prints it.
"""

import gc
import os
import struct

_TRIED = "clocks.tried"  # file with the last rates set, until the board runs at them
SRAM = (0x80000000, 0x80600000)
_NET_CONTEXT = 8  # offset of the library's pointer in a kpu_net object, after the pointer to its type
_BLOCK_BYTES = 4096
_BESIDE_BYTES = 512
_NO_BUS = (ImportError, AttributeError, TypeError, ValueError, OSError)  # machine.I2C is missing, or nobody answers
_WIDE_SENSOR = 0x3C  # I2C address of the sensors whose registers have 16-bit addresses
KMODEL_V3 = b"\x03\0\0\0\x01\0\0\0\0\0\0\0"  # version, flags (8-bit weights), chip

# Arguments of lcd.init(), the latest first; one that a build refuses is left out.
_LCD_LATEST_FIRST = (
    "lcd_type", "rst", "dcx", "ss", "clk", "offset_w0", "offset_h0", "offset_w1", "offset_h1", "invert",
)  # fmt: skip
_LCD_TYPES = 5  # the highest type of any build; older builds drive their own board's LCD as type 1
_AMIGO_WIDTH = 480  # no other board's LCD is as wide
_AMIGO_DIRECTION = 40  # MaixPy's board/config_maix_amigo.py: not mirrored, red and blue exchanged
_DIRECTIONS = (0xA0, 0, 0x60, 0xC0)  # what lcd.rotation(0…3) sets

ways = []
_unlike = 0  # the bits in which this LCD's direction differs from MaixPy's own


def _took(way):
    if way not in ways:
        ways.append(way)


def _maix(name):
    """An attribute of the module Maix, which CanMV spells maix; None if there is none."""
    try:
        import Maix as module
    except ImportError:
        try:
            import maix as module
        except ImportError:
            return None
    return getattr(module, name, None)


def build():
    """The build's own text: version, commit, date."""
    return os.uname()[3]


def board_of_build():
    """The name of the board that this build was made for; None if it was made for several.

    M5Stack's build runs on the M5StickV and on the UnitV, which has no power management chip and no LCD.
    """
    if os.uname()[0] == "CanMV":
        return "canmv"
    try:
        from pmu import axp192
    except ImportError:
        try:
            import axp202  # noqa: F401
        except ImportError:
            return None
        return "twatch"
    try:
        axp192()
    except Exception:  # pmu.NotFoundError, or no answer on the bus
        return "unitv"
    return "m5stickv"


def flash_reader():
    """Maix.utils.flash_read(address, length), or None if the build has no such function."""
    return getattr(_maix("utils"), "flash_read", None)


def heap_free():
    """Free bytes of the system heap, which holds frame buffers and kmodels; 0 if the build does not tell."""
    ask = getattr(_maix("utils"), "heap_free", None)
    return ask() if ask else 0


def button(pin):
    """A button's pin as an input: its value() is 0 while the button is pressed."""
    from fpioa_manager import fm

    gpio = _maix("GPIO")
    fm.register(pin, fm.fpioa.GPIOHS0, force=True)
    return gpio(gpio.GPIOHS0, gpio.IN, gpio.PULL_UP)


def image_memory(img):
    """(an image's own pixels, the address of its R, G and B planes, the pixels' address).

    An address is None if the build does not tell; planes: 0 if there are none. The image object is {type*, int w, h,
    bpp, pixels*, pix_ai*} (omv/img/imlib.h image_t), compared with what the image's methods return before a pointer is
    followed. If to_bytes() returns a copy, the pixels must equal it.
    """
    pixels = img.to_bytes()
    try:
        from uctypes import addressof, bytearray_at, bytes_at
    except ImportError:
        return pixels, None, None
    width, height, _, _, at, planes = struct.unpack("<iiiiQQ", bytes_at(id(img) + 8, 32))
    if width == img.width() and height == img.height():
        if at == addressof(pixels):
            return pixels, planes, at
        if SRAM[0] <= at and at + len(pixels) <= SRAM[1]:
            own = bytearray_at(at, len(pixels))
            if own == pixels:
                return own, planes, at
    return pixels, None, addressof(pixels)


def pixels_at(img):
    """Address of an image's pixels, or None if the build does not tell."""
    try:
        return image_memory(img)[2]
    except AttributeError:
        return None


def open_model(source, size):
    """Load a kmodel V3. source: flash address, or path of a file; size: its bytes. ValueError says why it cannot.

    Returns a Model or a CanmvModel; both have run(), heads(), loaded() and deinit().
    """
    if os.uname()[0] != "CanMV":
        return Model(source)
    _took("heads from CanMV's memory")
    from canmv import CanmvModel

    return CanmvModel(source, size)


class Model:
    """A kmodel V3 on the KPU, from a flash address or a file. Raises the loader's ValueError or OSError."""

    def __init__(self, source):
        import KPU

        self._kpu = KPU
        self._task = KPU.load(source)

    def run(self, img):
        """Run the network on an image's R, G and B planes."""
        self._kpu.forward(self._task, img)

    def heads(self, outputs, img):
        """A view of each output; call once, after run(img). The views stay valid while the model is loaded."""
        if hasattr(self._kpu, "get_output"):
            return [memoryview(self._kpu.get_output(self._task, output)) for output in outputs]
        _took("heads by KPU.forward()")
        return [memoryview(self._kpu.forward(self._task, img, output)) for output in outputs]

    def loaded(self):
        """The kmodel's bytes in the KPU library's memory, or None if they cannot be found.

        A kpu_net object points to the library's memory for it. The kmodel lies there or later; a pointer to it close by
        tells it from a stray match. Every pointer is checked before it is followed.
        """
        try:
            from uctypes import bytearray_at, bytes_at

            size = self._task.model_size()
        except (ImportError, AttributeError):
            return None
        begin = int.from_bytes(bytes_at(id(self._task) + _NET_CONTEXT, 8), "little")
        while SRAM[0] <= begin and begin + size <= SRAM[1]:
            at = bytes_at(begin, _BLOCK_BYTES).find(KMODEL_V3)
            start = begin + at
            if at < 0:
                begin += _BLOCK_BYTES - len(KMODEL_V3)
            elif start + size > SRAM[1]:
                break
            else:
                pointer = start.to_bytes(8, "little")
                before = bytes_at(start - _BESIDE_BYTES, _BESIDE_BYTES)
                after = bytes_at(start + size, min(_BESIDE_BYTES, SRAM[1] - start - size))
                if pointer in before or pointer in after:
                    return bytearray_at(start, size)
                begin = start + 1
        return None

    def deinit(self):
        """Give the model's memory back.

        KPU.deinit() crashes builds without get_output(); there the garbage collector does it.
        """
        if self._task is not None:
            if hasattr(self._kpu, "get_output"):
                self._kpu.deinit(self._task)
            self._task = None
            gc.collect()


def reset_camera(choice=0, double=False):
    """sensor.reset() with those arguments that the build knows."""
    import sensor

    options = {}
    if choice:
        options["choice"] = choice
    if double:
        options["dual_buff"] = True
    try:
        sensor.reset(**options)
    except TypeError:
        if not options:
            raise
        _took("sensor.reset() without %s" % " ".join(sorted(options)))
        sensor.reset()


def write_sensor(pairs):
    """Write (register, value) pairs to the sensor. Call it last: registers with 16-bit addresses take over its bus.

    sensor.__write_reg() takes 8-bit addresses; longer ones go through machine.I2C. If that fails, the camera shows only
    the top left corner of its picture.
    """
    import sensor

    write = getattr(sensor, "__write_reg", None)
    bus = None
    for register, value in pairs:
        if register > 0xFF:
            try:
                bus = bus or _sensor_bus()
                bus.writeto(_WIDE_SENSOR, bytes((register >> 8, register & 255, value)))
            except _NO_BUS:
                _took("camera at its top left")
                return
        elif write:
            write(register, value)


def _sensor_bus():
    """The bus and the pins of MaixPy's own sensor driver."""
    from machine import I2C

    return I2C(I2C.I2C2, freq=100000, scl=41, sda=40)


def sensor_writer(address):
    """A function that writes (register, value) to the sensor at this I2C address; None if the build has none.

    sensor.__write_reg() waits 10 ms after every register; machine.I2C, used if the sensor answers, does not, but it
    takes over the bus.
    """
    import sensor

    write = getattr(sensor, "__write_reg", None)
    try:
        bus = _sensor_bus()
        bus.writeto(address, b"\xff")
    except _NO_BUS:
        return write
    return lambda register, value: bus.writeto(address, bytes((register, value)))


def set_clocks(cpu_mhz, kpu_mhz):
    """Run the CPU and the KPU at these rates. Returns "" if they already do, else why they cannot.

    Maix.freq.set() writes /flash/freq.conf and restarts the board. The file _TRIED prevents endless restarts of a board
    that refuses these rates.
    """
    try:
        freq = _maix("freq")
        now = freq.get()
    except AttributeError:
        return "this MaixPy cannot change its clocks"
    if all(abs(is_mhz - mhz) * 20 <= mhz for is_mhz, mhz in zip(now, (cpu_mhz, kpu_mhz))):
        try:
            os.remove(_TRIED)
        except OSError:
            pass
        return ""
    wanted = "%d %d" % (cpu_mhz, kpu_mhz)
    try:
        with open(_TRIED) as file:
            tried = file.read()
    except OSError:
        tried = ""
    if tried != wanted:
        with open(_TRIED, "w") as file:
            file.write(wanted)
        try:
            freq.set(cpu=cpu_mhz, pll1=kpu_mhz, kpu_div=1)
        except (OSError, ValueError, TypeError) as error:
            return "%s refused: %s" % (wanted, error)
    return "the board stays at %d MHz, its KPU at %d MHz" % (now[0], now[1])


def start_lcd(options):
    """lcd.init() with those arguments that the build knows. Returns (width, height) in pixels.

    options may contain "dir" too, a value for lcd.direction().
    """
    global _unlike
    import lcd

    options = options.copy()
    direction = options.pop("dir", None)
    _unlike = 0
    while True:
        try:
            lcd.init(**options)
            break
        except TypeError:
            refused = [name for name in _LCD_LATEST_FIRST if name in options]
            if not refused:
                raise
            refused = refused[0]
        except ValueError:
            if not 1 < options.get("type", 1) <= _LCD_TYPES:
                raise
            refused = "type"
        del options[refused]
        _took("lcd.init() without %s" % refused)
    if direction is None and lcd.width() == _AMIGO_WIDTH:
        direction = _AMIGO_DIRECTION
        if "width" not in options:  # the board was not recognized
            _took('on an Amigo set "board" in settings.json to amigo_tft, or to amigo_ips if the colours are negative')
    if direction is not None:
        lcd.direction(direction)
        _unlike = direction ^ _DIRECTIONS[0]
    gc.collect()
    return lcd.width(), lcd.height()


def rotate_lcd(rotation):
    """lcd.rotation() on an LCD whose direction start_lcd() has set, which MaixPy then forgets."""
    import lcd

    lcd.rotation(rotation)
    if _unlike:
        lcd.direction(_DIRECTIONS[rotation] ^ _unlike)
