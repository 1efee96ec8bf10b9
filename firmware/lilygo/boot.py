# maix-posenet: LilyGO's older builds start boot.py and nothing else. What was here before is in boot_factory.py;
# flash.py --restore gives it back.
from fpioa_manager import fm
from Maix import GPIO

fm.register(17, fm.fpioa.GPIO0)
GPIO(GPIO.GPIO0, GPIO.OUT).value(1)  # the LCD's light, as LilyGO's own boot.py switches it on
import main  # noqa: E402, F401
