"""What differs between MaixPy builds, behind one interface.

Everything is found by asking the build, never by its version number:

    heads    KPU.get_output() (0.5.0-21 and later), else KPU.forward() once for each head; CanMV: canmv.py
    kmodel   checked in flash by Maix.utils.flash_read() (0.5.1 and later), else in memory after it was loaded
    camera   sensor.reset(choice=…, dual_buff=…), else what the build takes of it
    LCD      lcd.init(…), less what the build does not know

`ways` lists which way was taken; app.py prints it.
"""

import gc
import os

_TRIED = "clocks.tried"  # the rates asked for last, until the board runs at them
_SRAM = (0x80000000, 0x80600000)
_NET_CONTEXT = 8  # where a kpu_net object keeps the library's pointer, behind the pointer to its type
_BLOCK_BYTES = 4096
_BESIDE_BYTES = 512
_SCCB_CLOCK_PIN = 41
_SCCB_DATA_PIN = 40
_SCCB_HZ = 100000
_WIDE_SENSOR = 0x3C  # I2C address of the sensors whose registers have 16-bit addresses
_KMODEL_V3 = b"\x03\0\0\0\x01\0\0\0\0\0\0\0"  # version, flags (8-bit weights), chip

# Arguments of lcd.init() from the latest to the earliest; a build that refuses one gets the others.
_LCD_LATEST_FIRST = (
    "lcd_type", "rst", "dcx", "ss", "clk", "offset_w0", "offset_h0", "offset_w1", "offset_h1", "invert",
)  # fmt: skip
_LCD_TYPES = 5  # that some build knows; older ones drive their own board's LCD as type 1

ways = []


def _took(way):
    if way not in ways:
        ways.append(way)


def _maix(name):
    """Something of the module Maix, which CanMV spells maix; None where there is none."""
    try:
        import Maix as module
    except ImportError:
        try:
            import maix as module
        except ImportError:
            return None
    return getattr(module, name, None)


def build():
    """The build's own words: version, commit, date."""
    return os.uname()[3]


def board_of_build():
    """The name of the board that this build was made for, None where it was made for several.

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
    """Maix.utils.flash_read(address, length), or None where the build has none."""
    return getattr(_maix("utils"), "flash_read", None)


def heap_free():
    """Bytes left of the system heap, from which frame buffers and kmodels are taken; 0 where a build does not say."""
    ask = getattr(_maix("utils"), "heap_free", None)
    return ask() if ask else 0


def button(pin):
    """A button's pin as an input: its value() is 0 while the button is pressed."""
    from fpioa_manager import fm

    gpio = _maix("GPIO")
    fm.register(pin, fm.fpioa.GPIOHS0, force=True)
    return gpio(gpio.GPIOHS0, gpio.IN, gpio.PULL_UP)


def pixels_at(img):
    """Address of an image's pixels, or None where the build does not tell."""
    try:
        from uctypes import addressof

        return addressof(img.to_bytes())
    except (ImportError, AttributeError):
        return None


def open_model(source, size):
    """A kmodel V3 on the KPU. source: flash address, or path of a file; size: its bytes. ValueError: why it cannot be.

    Both kinds of model have run(), heads(), loaded(), deinit().
    """
    if os.uname()[0] != "CanMV":
        return Model(source)
    _took("heads from CanMV's memory")
    from canmv import CanmvModel

    return CanmvModel(source, size)


class Model:
    """A kmodel V3 on the KPU. source: flash address, or path of a file. ValueError, OSError: the loader's own."""

    def __init__(self, source):
        import KPU

        self._kpu = KPU
        self._task = None
        self._task = KPU.load(source)

    def run(self, img):
        """One picture through the network, from the image's R, G and B planes."""
        self._kpu.forward(self._task, img)

    def heads(self, outputs, img):
        """A view of each output. They stay where they are while the model is loaded: asked for once, after run(img)."""
        if hasattr(self._kpu, "get_output"):
            return [memoryview(self._kpu.get_output(self._task, output)) for output in outputs]
        _took("heads by KPU.forward()")
        return [memoryview(self._kpu.forward(self._task, img, output)) for output in outputs]

    def loaded(self):
        """The kmodel's bytes as the KPU library holds them, or None where they cannot be found.

        A kpu_net object leads to the library's memory for it; the kmodel lies there or behind, and beside it the
        library keeps a pointer to it. Nothing is followed that has not been checked.
        """
        try:
            from uctypes import bytearray_at, bytes_at

            size = self._task.model_size()
        except (ImportError, AttributeError):
            return None
        begin = int.from_bytes(bytes_at(id(self._task) + _NET_CONTEXT, 8), "little")
        while _SRAM[0] <= begin and begin + size <= _SRAM[1]:
            at = bytes_at(begin, _BLOCK_BYTES).find(_KMODEL_V3)
            start = begin + at
            if at < 0:
                begin += _BLOCK_BYTES - len(_KMODEL_V3)
            elif start + size > _SRAM[1]:
                break
            else:
                pointer = start.to_bytes(8, "little")
                before = bytes_at(start - _BESIDE_BYTES, _BESIDE_BYTES)
                after = bytes_at(start + size, min(_BESIDE_BYTES, _SRAM[1] - start - size))
                if pointer in before or pointer in after:
                    return bytearray_at(start, size)
                begin = start + 1
        return None

    def deinit(self):
        """Give the model's memory back.

        KPU.deinit() of builds before get_output() jumps into nowhere; there the collected object frees its memory.
        """
        if self._task is not None:
            if hasattr(self._kpu, "get_output"):
                self._kpu.deinit(self._task)
            self._task = None
            gc.collect()


def reset_camera(choice=0, double=False):
    """sensor.reset() with as much of what is asked for as the build knows."""
    import sensor

    options = {}
    if choice:
        options["choice"] = choice
    if double:
        options["dual_buff"] = True
    if options:
        try:
            sensor.reset(**options)
            return
        except TypeError:
            _took("sensor.reset() without %s" % " ".join(sorted(options)))
    sensor.reset()


def write_sensor(pairs):
    """(register, value) pairs into the sensor, the last of its settings: those of 16-bit addresses take its bus over.

    sensor.__write_reg() takes addresses of 8 bits. Longer ones go through machine.I2C, on the bus and pins of MaixPy's
    own driver; where that fails the camera shows the top left of what it sees.
    """
    import sensor

    write = getattr(sensor, "__write_reg", None)
    bus = None
    for register, value in pairs:
        if register > 0xFF:
            try:
                if bus is None:
                    from machine import I2C

                    bus = I2C(I2C.I2C2, freq=_SCCB_HZ, scl=_SCCB_CLOCK_PIN, sda=_SCCB_DATA_PIN)
                bus.writeto(_WIDE_SENSOR, bytes((register >> 8, register & 255, value)))
            except (ImportError, AttributeError, TypeError, ValueError, OSError):
                _took("camera at its top left")
                return
        elif write:
            write(register, value)


def set_clocks(cpu_mhz, kpu_mhz):
    """Run the CPU and the KPU at these rates from now on. Returns "" if they do so, else why not.

    Maix.freq.set() writes the rates to /flash/freq.conf and restarts the board, so this returns only where nothing is
    to be done, or cannot be. _TRIED keeps a board that does not take them from starting again and again.
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
    """lcd.init() with these arguments, less those that the build does not know. Returns (width, height) in pixels."""
    import lcd

    options = options.copy()
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
    gc.collect()
    return lcd.width(), lcd.height()
