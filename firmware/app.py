"""The application: camera → KPU → decoder → skeletons on the LCD, for hours.

    from app import App
    App().run()

    def on_poses(app, poses, img): …     # called for every frame, before it is shown; may draw on img
    App(on_poses=on_poses).run()

If something fails, the LCD and the serial line say so, and the application tries again after settings["retry_ms"].
Ctrl-C ends the application and returns to the REPL.
"""

import gc
import sys

import maixpy_api
from boards import DEFAULTS, load_settings
from posenet import ModelError, PoseNet, read_manifest
from screen import Screen
from utime import sleep_ms, ticks_diff, ticks_ms, ticks_us

# The highest rates of CPU and KPU that Sipeed documents, and those that MaixPy starts with.
_TURBO_MHZ = 600
_STOCK_MHZ = 400


class App:
    """The application. on_poses(app, poses, img): the user's part. settings: a dictionary that overrides settings.json.

    Figures (docs/firmware.md): frames: pictures processed since the start. dropped: pictures taken but not used.
    fps: pictures processed in the last second. latency_ms: longest possible time from light to LCD of the newest one.
    """

    def __init__(self, on_poses=None, settings=None):
        self._on_poses = on_poses
        self._given = settings or {}
        self.settings = DEFAULTS
        self.screen = None
        self.net = None
        self.frames = 0
        self.dropped = 0
        self.fps = 0
        self.latency_ms = 0
        self.double_buffer = False  # the camera fills one frame buffer while the program works on the other
        self.note = ""  # a line of the user's program, shown in the corner
        self._button = None
        self._was_pressed = False
        self._overlay = True
        self._watchdog = None
        self._uart = None
        self._failed = False
        self._lines = ("",)
        self._dropped_before = 0  # frames dropped before the camera was last started
        self._waiting_us = 0  # the time since which the camera may have been taking the next picture
        self._second_ms = 0
        self._second_frames = 0

    def run(self, frames=None):
        """Run until Ctrl-C, or for a number of frames. After an error it is shown and everything starts again."""
        try:
            while True:
                try:
                    self._start()
                    while frames is None or self.frames < frames:
                        self.step()
                    return
                except Exception as error:  # any error is shown on the LCD
                    self._fail(error)
        except KeyboardInterrupt:
            self._stop()
            print("posenet: stopped, %d frames" % self.frames)
            raise
        finally:
            # From here on nothing feeds the watchdog: it would reset the board at the prompt or during an update.
            if self._watchdog:
                self._watchdog.stop()
                self._watchdog = None

    def _start(self):
        """Everything before the first frame; first of all the LCD, so that it can show what fails."""
        problem = self._read_settings()
        settings = self.settings
        if settings["watchdog_ms"] and self._watchdog is None:
            from machine import WDT

            self._watchdog = WDT(id=1, timeout=settings["watchdog_ms"])
        self._feed()
        if self.screen is None or not self.screen.ready:
            self._start_screen()
        if problem:
            raise problem
        if settings["turbo"] is not None:
            self._set_clocks(_TURBO_MHZ if settings["turbo"] else _STOCK_MHZ)
        if not self._failed:  # a failure's message stays on the LCD until frames come again
            self._message("PoseNet", "Checking the network, starting the camera")
        self._start_button()
        if self.net is None:
            self.net = self._open_network()
        self._start_camera()
        if settings["uart"] is not None and self._uart is None:
            from lines import UartLines

            self._uart = UartLines(settings["uart"])
        gc.collect()
        gc.threshold(-1)
        self._overlay = settings["overlay"]
        self._second_ms = ticks_ms()
        self._waiting_us = ticks_us()
        self._second_frames = 0
        self._print_start()

    def _read_settings(self):
        """Set the settings; returns what is wrong with settings.json, None if nothing is."""
        problem = None
        try:
            settings = load_settings()
        except ValueError as error:
            problem = error
            settings = DEFAULTS.copy()
        settings.update(self._given)
        self.settings = settings
        return problem

    def _set_clocks(self, mhz):
        refused = maixpy_api.set_clocks(mhz, mhz)
        if refused:
            print("posenet: turbo %s: %s" % (self.settings["turbo"], refused))

    def _open_network(self):
        settings = self.settings
        tracker = None
        if settings["track"]:
            from tracker import Tracker

            tracker = Tracker(smooth=settings["smooth"])
        return PoseNet(
            model=settings["model"],
            single=settings["single"],
            max_poses=settings["max_poses"],
            threshold=settings["threshold"],
            tracker=tracker,
            check=settings["check"],
            progress=self._progress,
        )

    def _start_camera(self):
        """Start the camera, and fit the LCD to its frames."""
        settings = self.settings
        net = self.net
        framing = settings["framing"]
        self._dropped_before = self.dropped
        self.double_buffer = net.setup_camera(
            settings["mirror"],
            settings["flip"],
            settings["camera"],
            settings["double_buffer"],
            False if framing == "off" else framing,
        )
        if framing != "off" and not net.framing:
            print("posenet: framing is off: this camera cannot show a part of its field")
        if framing == "each" and not settings["track"]:
            print("posenet: framing is auto: to look at people one by one, track must be true")
        if self.screen:
            self.screen.prepare(net.width, net.height, net.field_width, net.height)

    def _print_start(self):
        """Say what runs here: network, board, MaixPy, and whether the kmodel was checked."""
        net = self.net
        what = "%s %dx%d" % (net.name, net.width, net.height)
        self._lines = (what,)  # until a second has been counted
        print("posenet: %s on %s" % (what, self.settings["board"]))
        if self.settings["check"] and not net.checked and not self.note:
            self.note = "kmodel not checked"
        how = ["kmodel checked " + net.checked if net.checked else "kmodel not checked"] + maixpy_api.ways
        print("posenet: MaixPy %s: %s" % (maixpy_api.build(), ", ".join(how)))

    def _start_screen(self):
        """Start the LCD. Without one everything else runs, and the serial line says so."""
        if self.settings["lcd"] is None:
            self.screen = None
            print("posenet: no LCD on %s" % self.settings["board"])
            return
        try:
            self.screen = Screen(self.settings, _mount())
        except Exception as error:
            self.screen = None
            print("posenet: no LCD: %s: %s" % (type(error).__name__, error))

    def _start_button(self):
        pin = self.settings["button"]
        if pin is not None and self._button is None:
            self._button = maixpy_api.button(pin)

    def step(self):
        """Process one frame."""
        net = self.net
        begin = ticks_us()
        img = net.snapshot()
        snapped = ticks_us()
        # With two buffers the camera may have begun this picture when the last one was taken, otherwise just now.
        light = self._waiting_us if self.double_buffer else begin
        self._waiting_us = snapped
        poses = net.poses(img)
        self.frames += 1
        self.dropped = self._dropped_before + net.frames_lost
        now = ticks_ms()
        taken = self.frames + self.dropped
        if self._uart:
            self._uart.send(taken, now, poses, self.latency_ms)
        if self.settings["repl"]:
            from lines import format_line

            print(format_line(taken, now, poses, self.latency_ms))
        if self._on_poses:
            self._on_poses(self, poses, img)
        decoded = ticks_us()
        screen = self.screen
        if screen:
            canvas = screen.canvas(img)
            screen.draw(canvas, poses, net.edges)
            self._corner(canvas)
            drawn = ticks_us()
            screen.show(canvas)
        else:
            drawn = decoded
        self._failed = False
        shown = ticks_us()
        self.latency_ms = ticks_diff(shown, light) // 1000
        self._count(now, begin, snapped, drawn, decoded, shown)
        self._poll_button()
        self._feed()

    def _count(self, now, begin, snapped, drawn, decoded, shown):
        """Count the frame; once a second make new texts for the corner and collect garbage."""
        self._second_frames += 1
        passed = ticks_diff(now, self._second_ms)
        if passed < 1000:
            return
        self.fps = self._second_frames * 1000 // passed
        self._second_ms = now
        self._second_frames = 0
        net = self.net
        self._lines = (
            "%d fps %d ms %d lost #%d" % (self.fps, self.latency_ms, self.dropped, self.frames),
            "cam %d kpu %d dec %d drw %d lcd %d ms"
            % (
                ticks_diff(snapped, begin) // 1000,
                net.forward_us // 1000,
                net.decode_us // 1000,
                ticks_diff(drawn, decoded) // 1000,
                ticks_diff(shown, drawn) // 1000,
            ),
        )
        gc.collect()

    def _corner(self, canvas):
        """Write the figures and the user's note into the corner, unless the button has hidden them."""
        if self._overlay:
            lines = self._lines if canvas.width() > 240 and not self.screen.turned else self._lines[:1]
            texts = [(line, (255, 255, 255), 1) for line in lines]
            if self.note:
                texts.append((self.note, (255, 255, 0), 2))
            self.screen.write(canvas, texts)

    def _poll_button(self):
        if self._button:
            pressed = not self._button.value()
            if pressed and not self._was_pressed:
                self._overlay = not self._overlay
            self._was_pressed = pressed

    def _feed(self):
        if self._watchdog:
            self._watchdog.feed()

    def _progress(self, percent):
        self._feed()

    def _message(self, title, text):
        if self.screen:
            self.screen.message(title, text)

    def _fail(self, error):
        """Show an error on the LCD and the serial line, and wait before run() starts again."""
        title, text = explain(error)
        print("posenet: %s: %s" % (title, text))
        if not isinstance(error, (ModelError, MemoryError)):
            sys.print_exception(error)
        self._failed = True
        wait_ms = self.settings["retry_ms"]
        self._message(title, text + "\nTrying again. Ctrl-C on the serial line gives the REPL.")
        self._stop()
        gc.collect()
        while wait_ms > 0:
            sleep_ms(min(wait_ms, 100))
            wait_ms -= 100
            self._feed()

    def _stop(self):
        if self.net is not None:
            self.net.deinit()
            self.net = None


def _mount():
    """By how many degrees the board is turned; 0 if posenet.json cannot be read, which is reported later."""
    try:
        return read_manifest()["mount"]
    except ModelError:
        return 0


def explain(error):
    """(title, text) of an error, for a person in front of the board."""
    text = " ".join([str(a) for a in error.args])
    if isinstance(error, ModelError):
        return "Network", text
    if isinstance(error, MemoryError):
        return "Out of memory", "%s. %d bytes of the heap are free." % (text, gc.mem_free())
    if text == "Reset Failed" or text == "not found sensor":
        return "No camera", "No sensor answers. Is the camera's cable in, contacts down?"
    if text == "Sensor timeout!":
        return "Camera", "No frame came in 300 ms. Check the cable."
    if isinstance(error, OSError) and text == "12":
        return "Out of memory", "The system heap has no room for the camera or the network."
    if isinstance(error, OSError) and text == "28":
        return "SD card full", "No room left on the card."
    if isinstance(error, ValueError) and text.startswith("settings.json"):
        return "Settings", text
    return type(error).__name__, text or "no details"
