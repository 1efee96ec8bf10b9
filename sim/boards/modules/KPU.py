# MaixPy's KPU module for V3 kmodels (Maix_kpu.c). Runs in MicroPython.
import _bridge
import image as _image
import uctypes


class kpu_net:
    def __init__(self):
        self._task = 0

    def model_addr(self):
        return self._address

    def model_size(self):
        return self._size

    def model_path(self):
        return self._path

    def __repr__(self):
        return '{"model_addr":%d, "model_size":%d, "model_path":"%s"}' % (self._address, self._size, self._path)


def load(source):
    net = kpu_net()
    net._address, net._path = 0, ""
    if type(source) is int:
        if source <= 0:
            raise ValueError("[MAIXPY]kpu: model_addr must > 0 ")
        net._address = source
        _bridge.call(b"kpu_flash", source)
    elif type(source) is str:
        if not (".kmodel" in source or ".smodel" in source or ".emodel" in source):
            raise ValueError("[MAIXPY]kpu: model format don't match, only supply .kmodel ")
        net._path = source
        _bridge.call(b"kpu_begin")
        try:
            with open(source, "rb") as file:
                block = bytearray(4096)
                view = memoryview(block)
                while True:
                    count = file.readinto(block)
                    if not count:
                        break
                    _bridge.call(b"kpu_data", payload=view[:count])
        except OSError:
            _bridge.call(b"kpu_begin")
        _bridge.call(b"kpu_file")
    else:
        raise TypeError("[MAIXPY]kpu: only accept int or string")
    net._task, net._size, net._outputs, net._w, net._h, net._c = _bridge.values[:6]
    return net


def deinit(net):
    if not isinstance(net, kpu_net):
        raise TypeError("[MAIXPY]kpu: not kpu_net")
    if net._task:
        _bridge.call(b"kpu_deinit", net._task)
        net._task = 0
    return True


class fmap(uctypes.struct):
    # A view of the model's main buffer, which the next forward() overwrites.
    def __init__(self, at, size, index, w, h, ch):
        self._at, self._size, self._index = at, size, index
        self._w, self._h, self._ch = w, h, ch
        super().__init__(_bridge.memory_address + at, _image._descriptor(size))

    def size(self):
        return self._size

    def index(self):
        return self._index

    def w(self):
        return self._w

    def h(self):
        return self._h

    def ch(self):
        return self._ch

    def _data(self):
        return uctypes.bytearray_at(_bridge.memory_address + self._at, self._size)

    def __getitem__(self, index):
        if isinstance(index, slice):
            start, stop = index.start or 0, self._size if index.stop is None else index.stop
            if index.step not in (None, 1):
                raise OSError("only slices with step=1 (aka None) are supported")
            return tuple(self._data()[start:stop])
        return self._data()[index]

    def __setitem__(self, index, value):
        data = self._data()
        if isinstance(index, slice):
            start, stop = index.start or 0, self._size if index.stop is None else index.stop
            for i in range(start, stop):
                data[i] = value[i - start] if isinstance(value, list) else value
        else:
            data[index] = value

    def __repr__(self):
        return '{"fmap": "data"=0x%x, "size"=%d, "index": %d, "w"=%d, "h"=%d, "ch"=%d, "typecode"=B}' % (
            _bridge.memory_address + self._at, self._size, self._index, self._w, self._h, self._ch,
        )  # fmt: skip


def _crash():
    # The chip would follow a null pointer and hang or restart, without an exception.
    print("core dump: misaligned load")
    _bridge.call(b"reset")


def forward(kpu_net_object=None, img=None, out_index=0, dma=-1, kpu_net=None):
    net = kpu_net_object
    if not isinstance(net, globals()["kpu_net"]):
        return None
    if not net._task:
        _crash()
    if isinstance(img, list):
        raise ValueError("[MAIXPY]kpu: list input is not simulated")
    if not isinstance(img, _image.Image):
        raise ValueError("[MAIXPY]kpu: input not support")
    if img._ai is None and img._ai_at < 0:
        print("[MAIXPY]kpu: pix_ai is NULL!")
    elif img._w != net._w or img._h != net._h:
        print("[MAIXPY]kpu: img w=%d,h=%d, but model w=%d,h=%d" % (img._w, img._h, net._w, net._h))
    elif img._bpp == 1 and net._c != 1:
        print("[MAIXPY]kpu: grayscale img, but model channel=%d" % net._c)
    elif img._bpp == 2 and net._c != 3:
        print("[MAIXPY]kpu: RGB img, but model channel=%d" % net._c)
    else:
        _bridge.call(b"kpu_run", net._task, img._push_planes())
        return _output(net, out_index, 1)
    raise ValueError("[MAIXPY]kpu: check img format err!\r\n")


def _output(net, index, in_forward):
    _bridge.call(b"kpu_output", net._task, index, in_forward)
    at, size, w, h, ch = _bridge.values[:5]
    return fmap(at, size, index, w, h, ch)


def get_output(net, index):
    if not isinstance(net, kpu_net) or type(index) is not int:
        raise ValueError("get_output arg format error")
    if not net._task:
        _crash()
    return _output(net, index, 0)


def set_outputs(net, index, w, h, ch):
    return False  # V3 models


def fmap_free(*args):
    return None


def memtest():
    import gc

    _bridge.call(b"heap_free")
    print("fb: gc heap %d KB, system heap %d KB" % (gc.mem_free() // 1024, _bridge.values[0] // 1024))
