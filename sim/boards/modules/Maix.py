# MaixPy's Maix module. Runs in MicroPython.
import _bridge


class FPIOA:
    UART1_RX, UART1_TX, UART2_RX, UART2_TX, UART3_RX, UART3_TX = 64, 65, 66, 67, 68, 69


for _i in range(32):
    setattr(FPIOA, "GPIOHS%d" % _i, 24 + _i)
for _i in range(8):
    setattr(FPIOA, "GPIO%d" % _i, 56 + _i)


class GPIO:
    IN, OUT = 0, 1
    PULL_NONE, PULL_UP, PULL_DOWN = 0, 2, 1
    IRQ_RISING, IRQ_FALLING, IRQ_BOTH = 1, 2, 3

    def __init__(self, number, mode=0, pull=0, value=0):
        from fpioa_manager import fm

        self._pin = fm.get_pin_by_function(number)
        if self._pin is None:
            raise ValueError("[MAIXPY]: this gpio has not been registered, please use fm.register")
        self._out = mode == 1
        _bridge.call(b"pin_mode", self._pin, mode, int(pull == 2))
        if self._out:
            self.value(value)

    def value(self, level=None):
        if level is None:
            _bridge.call(b"pin_read", self._pin)
            return _bridge.values[0]
        _bridge.call(b"pin_write", self._pin, int(bool(level)))

    def disirq(self):
        return None

    def irq(self, *args, **named):
        raise NotImplementedError("GPIO.irq is not simulated")


for _i in range(32):
    setattr(GPIO, "GPIOHS%d" % _i, 24 + _i)
for _i in range(8):
    setattr(GPIO, "GPIO%d" % _i, 56 + _i)


class utils:
    @staticmethod
    def gc_heap_size(size=None):
        # Saved for the next start, as in MaixPy, whose file is binary.
        if size is not None:
            with open("/flash/freq.conf", "w") as file:
                file.write(str(size))
            return None
        try:
            with open("/flash/freq.conf") as file:
                return int(file.read())
        except (OSError, ValueError):
            return 512 << 10

    @staticmethod
    def heap_free():
        _bridge.call(b"heap_free")
        return _bridge.values[0]

    @staticmethod
    def flash_read(address, length):
        return bytes(_bridge.call(b"flash_read", address, length))


class freq:
    @staticmethod
    def get():
        return (400, 400)

    @staticmethod
    def get_cpu():
        return 400

    @staticmethod
    def get_kpu():
        return 400

    @staticmethod
    def set(**named):
        print("No change")


class config:
    @staticmethod
    def get_value(key, default):
        import json

        try:
            with open("/flash/config.json") as file:
                return json.load(file).get(key, default)
        except (OSError, ValueError):
            return default
