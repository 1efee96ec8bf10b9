"""Started by MaixPy after power-on. Ctrl-C during the start delay, or holding the board's button, gives the REPL."""

import gc
import sys

from utime import sleep_ms


def _escape():
    """Wait for the start delay; True if somebody holds the button."""
    from boards import DEFAULTS, load_settings
    from maixpy_api import button

    try:
        settings = load_settings()
    except ValueError:
        settings = DEFAULTS  # app.py shows what is wrong
    print("posenet: starts in %d ms, Ctrl-C or the button gives the REPL" % settings["start_delay_ms"])
    pressed = None
    if settings["button"] is not None:
        pressed = button(settings["button"])
    for _ in range(0, settings["start_delay_ms"], 50):
        sleep_ms(50)
    return bool(pressed) and not pressed.value()


def main():
    """The delay, then the application."""
    try:
        if _escape():
            print("posenet: button held, not started")
            return
        # Loading leaves much garbage between the objects that stay. If it is collected often, those objects lie
        # together, and the heap keeps a gap that is large enough for a picture; app.py ends this once frames come.
        gc.threshold(16384)
        from app import App

        App().run()
    except KeyboardInterrupt:
        pass
    except Exception as error:
        # A file is missing or damaged, or the heap is too small to load them; the LCD says so even then.
        title, text = type(error).__name__, "%s. Copy the files again: flash.py" % error
        if isinstance(error, MemoryError):
            total = gc.mem_free() + gc.mem_alloc()
            text = "MaixPy's heap of %d bytes is too small for posenet. Set it: flash.py --reset-heap" % total
        print("posenet: did not start: %s: %s" % (title, text))
        sys.print_exception(error)
        import lcd

        lcd.init()
        lcd.clear(lcd.BLACK)
        lcd.draw_string(8, 16, "posenet did not start:", lcd.ORANGE, lcd.BLACK)
        lcd.draw_string(8, 40, title, lcd.WHITE, lcd.BLACK)
        for i in range(0, len(text), 38):
            lcd.draw_string(8, 56 + i // 38 * 16, text[i : i + 38], lcd.WHITE, lcd.BLACK)


# Where boot.py has imported it (M5Stack's and LilyGO's builds), MaixPy may execute it once more when it has ended.
if __name__ == "main" or "main" not in sys.modules:
    main()
