"""The boards that can be emulated: their display, power management, camera and buttons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.cli import near
from common.errors import UserError
from model_build import catalog
from sim.k210.chips.axp import Axp, axp173, axp192, axp202
from sim.k210.chips.st7789 import MV, MX, Panel

LCD_DATA_PAD = 38


@dataclass(frozen=True)
class Power:
    """A power management chip and its I2C pads."""

    chip: Callable[[], Axp]
    clock_pad: int
    data_pad: int


@dataclass(frozen=True)
class Profile:
    """One kind of board. lcd_data_pad: the pad on the display's D/C line; panel None: no display.

    maixpy: the build on a new board, by its name in the catalogue.
    """

    name: str
    title: str
    panel: Panel | None = Panel()
    lcd_data_pad: int = LCD_DATA_PAD
    power: Power | None = None
    camera: str = "ov2640"
    maixpy: str = catalog.MINIMUM_MAIXPY


# Panels and pads: MaixPy's lcd.init() for each board, its board configuration files, the makers' builds and programs.
# A board whose maker sets MaixPy's direction 96, or lcd.rotation(2), has its glass mounted upside down.
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("bit", "Sipeed Maix Bit, Dock, Go, Maixduino"),
        Profile(
            "m5stickv",
            "M5Stack M5StickV",
            panel=Panel(first_column=52, columns=135, first_row=40, rows=240, upright=MX | MV, inverted=True),
            lcd_data_pad=20,
            power=Power(axp192, clock_pad=28, data_pad=29),
            camera="ov7740",
            maixpy=catalog.M5STICKV_MAIXPY,
        ),
        Profile("unitv", "M5Stack UnitV", panel=None, camera="ov7740", maixpy=catalog.M5STICKV_MAIXPY),
        Profile(
            "amigo_tft",
            "Sipeed Maix Amigo, TFT",
            panel=Panel(memory=(320, 480), columns=320, rows=480, upright=MV, bgr=True),
            power=Power(axp173, clock_pad=24, data_pad=27),
            maixpy=catalog.AMIGO_MAIXPY,
        ),
        Profile(
            "amigo_ips",
            "Sipeed Maix Amigo, IPS",
            panel=Panel(memory=(320, 480), columns=320, rows=480, upright=MV, inverted=True, bgr=True),
            power=Power(axp173, clock_pad=24, data_pad=27),
            maixpy=catalog.AMIGO_MAIXPY,
        ),
        Profile(
            "cube",
            "Sipeed Maix Cube",
            panel=Panel(columns=240, rows=240, upright=MX | MV, inverted=True),
        ),
        Profile(
            "twatch",
            "LilyGO T-Watch K210",
            panel=Panel(columns=240, rows=240, upright=MX | MV, inverted=True),
            power=Power(axp202, clock_pad=30, data_pad=31),
            maixpy=catalog.TWATCH_MAIXPY,
        ),
        Profile(
            "lilygo_m1",
            "LilyGO M1",
            panel=Panel(upright=MX | MV, inverted=True),
            power=Power(axp202, clock_pad=30, data_pad=31),
            maixpy=catalog.LILYGO_M1_MAIXPY,
        ),
        Profile("canmv", "CanMV K210 (01Studio, Yahboom)", panel=Panel(inverted=True), maixpy=catalog.CANMV),
        Profile(
            "canmv_dnk210",
            "ALIENTEK DNK210",
            panel=Panel(upright=MX | MV, inverted=True),
            maixpy=catalog.DNK210_CANMV,
        ),
    )
}


def profile_named(name: str) -> Profile:
    """The profile of this name; UserError lists the known ones."""
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise UserError(f"--profile {name}: not emulated{near(name, PROFILES)}; emulated are {known}", exit_code=2)
    return PROFILES[name]
