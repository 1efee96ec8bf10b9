"""The stand-ins behave like MaixPy's modules. What programs can meet there they meet here, down to the messages."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np

from benchmarks.scripted_network import devices, flash_dir, kmodel, person, picture
from benchmarks.showcase import run_until
from common import rgb565
from sim.boards import imlib
from sim.boards.bridge import Bridge
from sim.boards.devices import GC_HEAP_BYTES, Devices, SystemHeap
from sim.boards.vm import RESET_EXIT, MicroPythonVm
from sim.parts.camera_source import FunctionCamera
from tests.support.until import says


def run(tmp_path, program: str, board: Devices | None = None, **options) -> list[str]:
    """The lines that a program printed until it ended."""
    (tmp_path / "main.py").write_text(program)
    with MicroPythonVm(tmp_path, board or devices(lambda frame: []), **options) as vm:
        said = vm.output()
        assert vm.poll() is not None, said
    return said.splitlines()[1:]


ERRORS = """
import KPU as kpu, sensor, lcd, image
from machine import UART
def refused(what, *a, **k):
    try:
        what(*a, **k)
        print("accepted")
    except Exception as e:
        print(type(e).__name__ + ": " + str(e))
refused(sensor.snapshot)
sensor.reset()
refused(sensor.snapshot)
sensor.set_pixformat(sensor.RGB565)
print(sensor.set_framesize(sensor.QVGA))
refused(sensor.set_windowing, (4, 4))
refused(sensor.set_windowing, (225, 224))
refused(sensor.set_windowing, (328, 224))
refused(kpu.load, 0)
refused(kpu.load, "x.bin")
refused(kpu.load, 1.5)
refused(kpu.load, 0x400000)
refused(kpu.load, "/flash/absent.kmodel")
refused(lcd.init, type=9)
refused(lcd.rotation, 4)
refused(UART, UART.UART1, 0x500001)
net = kpu.load(0x300000)
refused(kpu.get_output, net, 4)
refused(kpu.get_output, net, "0")
refused(kpu.forward, net, (1, 2))
print(kpu.forward(3, 4))
img = sensor.snapshot()
f = kpu.forward(net, img)
print(f.w(), f.h(), f.ch(), f.size(), len(memoryview(f)), f[0:2], type(f[0]))
refused(lambda: f[f.size()])
refused(lambda: f[0:4:2])
nets = [kpu.load(0x300000) for _ in range(4)]
refused(kpu.load, 0x300000)
print(kpu.deinit(net), kpu.deinit(net))
"""


def test_exceptions_have_maixpys_texts(tmp_path):
    """A program may depend on them. They are those of the documented API, word for word where its source has them."""
    lines = run(tmp_path, ERRORS)
    kinds = [
        "TypeError: not found sensor",
        "[MAIXPY]: find ov2640",
        "RuntimeError: Not init!",
        "None",
        "ValueError: The selected window is too small",
        "ValueError: value must be multiple of 8",
        "ValueError: The selected window is outside the bounds of the frame",
        "ValueError: [MAIXPY]kpu: model_addr must > 0 ",
        "ValueError: [MAIXPY]kpu: model format don't match, only supply .kmodel ",
        "TypeError: [MAIXPY]kpu: only accept int or string",
        "ValueError: [MAIXPY]kpu: load error:2002,",
        "ValueError: [MAIXPY]kpu: load error:2005,",
        "ValueError: type error",
        "ValueError: value:[0,3]",
        "ValueError: [MAIXPY]UART:invalid baudrate",
        "OSError: 2001",
        "ValueError: get_output arg format error",
        "ValueError: [MAIXPY]kpu: input not support",
        "None",
        "20 15 32 5100 5100 (28, 28) <class 'int'>",
        "IndexError",
        "OSError: only slices with step=1 (aka None) are supported",
        "ValueError: [MAIXPY]kpu: load error:2009,",
        "True True",
    ]
    assert len(lines) == len(kinds), lines
    for line, kind in zip(lines, kinds, strict=True):
        assert line.startswith(kind)


PIXELS = """
import sensor, image, lcd
sensor.reset(); sensor.set_pixformat(sensor.RGB565); sensor.set_framesize(sensor.QQVGA)
img = sensor.snapshot()
with open("camera.raw", "wb") as f:
    f.write(img.to_bytes())
img.draw_line(0, 0, 159, 119, color=(255, 0, 0), thickness=2)
with open("line.raw", "wb") as f:
    f.write(bytes(img))
b = img.to_bytes()
b[0:2] = b"\\x07\\xe0"
print(img.get_pixel(0, 0), len(b), img.get_pixel(200, 0))
own = image.Image(size=(64, 32))
own.draw_rectangle(8, 8, 4, 4, color=(0, 0, 255), fill=True)
print(own.get_pixel(8, 8), own.get_pixel(7, 8), own.width(), own.height())
small = img.resize(40, 30)
print(small.width(), small.height(), small.get_pixel(0, 0))
lcd.init()
lcd.display(small)
"""


def test_pixels_through_the_board(tmp_path):
    """A frame's bytes, a line on it, a write through an alias and a program's own picture must all be right."""
    rgb = np.random.default_rng(3).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    board = Devices(camera=FunctionCamera(lambda n, w, h: rgb))
    lines = run(tmp_path, PIXELS, board)
    assert lines == [
        "[MAIXPY]: find ov2640", "(0, 255, 0) 38400 None", "(0, 0, 255) (0, 0, 0) 64 32", "40 30 (0, 255, 0)",
    ]  # fmt: skip
    words = rgb565.pack(rgb)
    assert (tmp_path / "camera.raw").read_bytes() == words.tobytes()
    imlib.draw_line(words, 0, 0, 159, 119, rgb565.pack_color(255, 0, 0), 2)
    assert (tmp_path / "line.raw").read_bytes() == words.tobytes()
    words[0, 0] = 0xE007
    assert (board.lcd.screen[105:135, 140:180] == words[::4, ::4]).all()
    assert not board.lcd.screen[:105].any() and not board.lcd.screen[:, :140].any()


def test_kpu_sees_the_cameras_bytes(tmp_path):
    """The engine gets the camera's 8 bits, and after pix_to_ai() those of the tables for 5 and 6 bits."""
    rgb = np.random.default_rng(4).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    seen = []

    class Spy:
        def run(self, planes):
            seen.append(planes.copy())
            return [np.zeros((c, 15, 20), np.uint8) for c in (17, 34, 32, 32)]

    board = Devices(camera=FunctionCamera(lambda n, w, h: rgb), cache_kpu=False)
    board.load_model = lambda data: Spy()
    data = kmodel(320, 240)
    board.flash[0x300000 : 0x300000 + len(data)] = data
    run(
        tmp_path,
        "import sensor, KPU as kpu\nsensor.reset()\nsensor.set_pixformat(sensor.RGB565)\n"
        "sensor.set_framesize(sensor.QVGA)\nnet = kpu.load(0x300000)\nimg = sensor.snapshot()\n"
        "kpu.forward(net, img)\nimg.draw_circle(50, 50, 20, fill=True)\nkpu.forward(net, img)\n"
        "img.pix_to_ai()\nkpu.forward(net, img)\n",
        board,
    )
    assert (seen[0] == rgb.transpose(2, 0, 1)).all()
    assert (seen[1] == seen[0]).all(), "drawing never changes pix_ai"
    words = rgb565.pack(rgb)
    imlib.draw_circle(words, 50, 50, 20, 0xFFFF, fill=True)
    assert (seen[2] == rgb565.to_planes(words)).all()


def test_a_program_has_the_heap_of_a_board(tmp_path):
    """The free heap is as large as on a MaixPy board, and a program's own pictures are taken from it."""
    lines = run(
        tmp_path,
        "import gc, image\nfrom Maix import utils\ngc.collect()\nprint(gc.mem_free(), gc.mem_alloc())\n"
        "a = image.Image()\ngc.collect()\nprint(gc.mem_alloc(), utils.heap_free())\ntry:\n"
        "    b = [image.Image() for _ in range(4)]\n"
        "except MemoryError:\n    print('full')\n",
    )
    free, used = map(int, lines[0].split())
    assert 0.95 * GC_HEAP_BYTES < free + used <= GC_HEAP_BYTES and used < 16384
    after, system = map(int, lines[1].split())
    assert 320 * 240 * 2 <= after - used < 320 * 240 * 2 + 4096
    assert system == SystemHeap().size
    assert lines[2] == "full"


def test_frames_and_models_take_system_memory(tmp_path):
    """set_framesize takes w·h·5 bytes and a model its size and main memory. deinit and a new size give them back."""
    lines = run(
        tmp_path,
        "import sensor, KPU as kpu\nfrom Maix import utils\ndef free(): print(utils.heap_free())\nfree()\n"
        "sensor.reset()\nsensor.set_pixformat(sensor.RGB565)\nsensor.set_framesize(sensor.QVGA)\nfree()\n"
        "net = kpu.load(0x300000)\nfree()\nkpu.deinit(net)\nfree()\nsensor.set_framesize(sensor.QQVGA)\nfree()\n",
    )
    start, qvga, loaded, unloaded, qqvga = (int(line) for line in lines if line.isdigit())
    assert 320 * 240 * 5 <= start - qvga < 320 * 240 * 5 + 2048
    assert unloaded == qvga > loaded
    assert qqvga > qvga


def test_files_behave_as_on_spiffs(tmp_path):
    """There are no folders, nothing can be appended to a missing file, and imports come only from /flash."""
    lines = run(
        tmp_path,
        "import uos\ndef refused(f, *a):\n    try:\n        f(*a)\n        print('ok')\n    except Exception as e:\n"
        "        print(type(e).__name__, e)\nrefused(uos.mkdir, 'x')\nrefused(open, 'new.txt', 'a')\n"
        "refused(open, 'new.txt', 'w')\nrefused(open, 'new.txt', 'a')\nrefused(open, 'a/b.txt', 'w')\n"
        "print(uos.getcwd(), sorted(uos.listdir()))\nrefused(lambda: __import__('io'))\nimport uio, json, binascii\n",
    )
    assert lines == [
        "NotImplementedError SPIFFS not support", "OSError [Errno 2] ENOENT", "ok", "ok", "OSError [Errno 2] ENOENT",
        "/flash ['main.py', 'new.txt']", "ImportError no module named 'io'",
    ]  # fmt: skip


def test_interrupts_are_delivered_everywhere(tmp_path):
    """Ctrl-C in a bare loop, while waiting for the camera and while sleeping is one KeyboardInterrupt each.

    Afterwards requests and answers must still belong together.
    """
    program = (
        "import sensor, utime\nsensor.reset()\nsensor.set_pixformat(sensor.RGB565)\nsensor.set_framesize(sensor.QVGA)\n"
        "def loop():\n    while True: pass\ndef film():\n    while True: sensor.snapshot()\n"
        "def sleep(): utime.sleep(60)\nfor what in (loop, film, sleep, film, loop):\n    try:\n        print('in')\n"
        "        what()\n    except KeyboardInterrupt:\n        print('out', sensor.snapshot().width())\n"
    )
    (tmp_path / "main.py").write_text(program)
    with MicroPythonVm(tmp_path, devices(lambda frame: [])) as vm:
        said = ""
        for count in range(1, 6):
            said += run_until(vm, says("in\n", count, said))
            vm.write(b"\x03")
            said += run_until(vm, says("out 320", count, said))
        assert said.count("out 320") == 5, said


def test_a_reset_is_told_from_an_end(tmp_path):
    """After machine.reset() the same devices can be switched on again."""
    (tmp_path / "main.py").write_text("import machine\nprint('before')\nmachine.reset()\nprint('after')\n")
    board = devices(lambda frame: [])
    for _ in range(2):
        with MicroPythonVm(tmp_path, board) as vm:
            said = vm.output()
            assert vm.poll() == RESET_EXIT
        assert "before" in said and "after" not in said


def test_a_frame_waits_for_few_answers(tmp_path, monkeypatch):
    """Each answer costs two changes between processes, so drawing must not wait for one."""
    asked: Counter[str] = Counter()
    answer = Bridge._answer

    def counting(bridge, name, numbers, payload):
        asked[name] += 1
        return answer(bridge, name, numbers, payload)

    monkeypatch.setattr(Bridge, "_answer", counting)
    run(
        tmp_path,
        "import sensor, lcd\nsensor.reset()\nsensor.set_pixformat(sensor.RGB565)\n"
        "sensor.set_framesize(sensor.QVGA)\nlcd.init()\nfor _ in range(30):\n"
        "    img = sensor.snapshot()\n    for i in range(16):\n        img.draw_line(i, 0, 100 + i, 100, thickness=2)\n"
        "    lcd.display(img)\n",
    )
    assert asked["!line"] == 16 * 30
    assert {name: count for name, count in asked.items() if not name.startswith("!") and count >= 30} == {
        "snapshot": 30,
        "lcd_display": 30,
    }


def test_the_scripted_network_decodes_to_its_people(tmp_path):
    """Other tests rely on it: the real decoder must find the people of the script."""
    points = person(160, 130)
    board = devices(lambda frame: [points])
    with MicroPythonVm(flash_dir(tmp_path, repl=True, smooth=False), board) as vm:
        said = run_until(vm, lambda said: said.count("seq") >= 3)
    # A person is reported from its second frame on.
    line = [line for line in said.splitlines() if line.startswith("{")][1]
    found = np.array(__import__("json").loads(line)["poses"][0]["keypoints"])[:, :2]
    assert np.abs(found - points).max() <= 1
    assert picture(5, 8, 8)[0, 0, 0] == 5


def test_a_program_that_has_ended_is_heard_out(tmp_path):
    """Its last words can still be in the pipe when the process has gone.

    Whoever took the program for ended then lost them ("no prompt after the soft reset" on a busy computer).
    """
    (tmp_path / "main.py").write_text("print('last words')")
    with MicroPythonVm(tmp_path, devices(lambda frame: [])) as vm:
        with vm._said_more:  # This stops the thread that collects the output.
            vm._running.wait(20)
            assert vm.poll() is None
        said = vm.output()
        assert "last words" in said and vm.poll() is not None


LINGERS = """
import os, subprocess, sys, time
interpreter = subprocess.Popen(sys.argv[1:], close_fds=False)
os.close(1)
os.close(2)
code = interpreter.wait()
time.sleep(0.3)
sys.exit(code)
"""
"""Starts an interpreter and ends a little later than its output."""


def test_a_program_whose_output_has_ended_is_waited_for(tmp_path, monkeypatch):
    """An interpreter ends a moment after its output does.

    The board's clock ran on at full speed until then, so that its host timed out within a few milliseconds ("no prompt
    after the soft reset", in four of 1,800 tests).
    """
    start = MicroPythonVm._popen

    def start_lingering(command, *arguments, **more):
        return start([sys.executable, "-c", LINGERS, *command], *arguments, **more)

    monkeypatch.setattr(MicroPythonVm, "_popen", staticmethod(start_lingering))
    (tmp_path / "main.py").write_text("print('last words')")
    with MicroPythonVm(tmp_path, devices(lambda frame: [])) as vm:
        with vm._said_more:
            assert vm._said_more.wait_for(lambda: vm._ended, 60)
        assert vm.poll() == 0 and b"last words" in vm.read(0)
