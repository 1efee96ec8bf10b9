# MaixPy's fpioa_manager: which function a pin has. Runs in MicroPython.
import _bridge
from Maix import FPIOA


class _Fm:
    fpioa = FPIOA()

    def __init__(self):
        self._pin_of = {}

    def register(self, pin, function, force=False):
        if not 0 <= pin < 48:
            raise ValueError("pin must be in 0 to 47")
        if not force and pin in self._pin_of.values():
            raise Exception("[Warning] pin%d is used" % pin)
        self._pin_of[function] = pin
        _bridge.call(b"pin_register", pin, function)

    def unregister(self, pin):
        for function in list(self._pin_of):
            if self._pin_of[function] == pin:
                del self._pin_of[function]

    def get_pin_by_function(self, function):
        return self._pin_of.get(function)


fm = _Fm()
