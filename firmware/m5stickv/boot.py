# maix-posenet: M5Stack's MaixPy starts only boot.py. The boot.py that was here before is in boot_factory.py;
# flash.py --restore restores it.
try:
    from pmu import axp192

    axp192().enablePMICSleepMode(True)  # the power button works, as in the factory's program
except Exception:  # a UnitV has no such chip
    pass
import main  # noqa: F401
