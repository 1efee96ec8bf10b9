"""The page in a headless Chromium whose camera shows rendered people: its pictures in the docs, and what it costs.

    python -m benchmarks.page --pictures docs/pictures
    python -m benchmarks.page --emulated docs/pictures      (stock MaixPy in the emulator; needs its image)
    python -m benchmarks.page --frames 1000 [--network posenet-075] [--size 320x240]

The cost is told in processor seconds a frame, which other work on the machine hardly changes: of this process (server,
engine, decoder), of the engine alone on the same pictures in the same run, and the resident memory on the way.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks import scene_video
from benchmarks.browser import Browser, open_browser
from common.cli import guarded, parse_size, positive
from common.errors import UserError
from common.pictures import to_planes
from host_tools import package
from host_tools.flashing import Ui
from host_tools.page.boards import Boards
from host_tools.page.server import Page
from host_tools.payload import build_folder, payload_of
from model_build import catalog
from model_build.build_folder import BuildFolder
from model_build.engines import open_engine
from model_build.scene import Scene
from sim.k210.emulated_session import EmulatedSession
from sim.live.board_page import WebView
from sim.live.line_server import LiveBoard
from sim.parts.camera_source import open_camera

FRAMES = "Number(document.querySelector('.panel').dataset.frames ?? 0)"
COLOURS = 96
MAIXPY = "maixpy-minimum"


def resident_mib() -> float:
    """This process's resident memory now; on a system that does not tell, the most that it has been so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def set_value(browser: Browser, selector: str, value: str) -> None:
    """Choose an entry of a list, as a person would."""
    browser.run(
        f"(() => {{ const one = document.querySelector({selector!r}); one.value = {value!r}; "
        "one.dispatchEvent(new Event('change')); one.dispatchEvent(new Event('input')); })()"
    )


def measure(page: Page, camera: Path, network: str, size: str, frames: int) -> None:
    """Print what `frames` frames of the camera cost."""
    with open_browser(camera) as browser:
        browser.open(page.url)
        set_value(browser, ".network", network)
        set_value(browser, ".size", size)
        browser.click("#use-camera")
        browser.wait(f"{FRAMES} >= 20", 300)
        first, before, used_s, started = browser.run(FRAMES), resident_mib(), time.process_time(), time.monotonic()
        memory = [before]
        for part in range(1, 11):
            browser.wait(f"{FRAMES} >= {first + frames * part // 10}", 60 + frames)
            memory.append(resident_mib())
        done, wall_s = browser.run(FRAMES) - first, time.monotonic() - started
        used_s = time.process_time() - used_s
        people = browser.run("document.querySelector('.panel').dataset.people")
    width, height = parse_size(size)
    engine = open_engine("kpu", BuildFolder(build_folder(network, (width, height), None, Ui())), threads=2)
    planes = to_planes(Scene(7).frame(0.0, width, height))
    engine.run(planes)
    alone_s = time.process_time()
    for _ in range(50):
        engine.run(planes)
    alone_s = (time.process_time() - alone_s) / 50
    print(
        f"{network} {size}: {done} frames in {wall_s:.0f} s, {done / wall_s:.1f} frames/s; {people} people at the end"
    )
    print(f"processor time a frame: {1000 * used_s / done:.1f} ms in all, {1000 * alone_s:.1f} ms the engine alone")
    print("resident memory, MiB: " + " ".join(f"{value:.0f}" for value in memory))


def picture(browser: Browser, path: Path) -> None:
    """The window as a small PNG."""
    browser.screenshot(path)
    with Image.open(path) as shown:
        half = shown.convert("RGB").resize((shown.width * 3 // 4, shown.height * 3 // 4), Image.Resampling.LANCZOS)
        small = half.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def pictures(page: Page, camera: Path, folder: Path) -> None:
    """Every view, by day, by night and on a phone."""
    with open_browser(camera, (1100, 760)) as browser:
        browser.size(1100, 720)
        browser.open(page.url)
        set_value(browser, ".network", "demo")
        browser.click("#use-camera")
        browser.wait(f"{FRAMES} >= 25", 300)
        picture(browser, folder / "page-try.png")
        browser.size(1300, 600, dark=True)
        browser.click("#compare")
        set_value(browser, ".panel:nth-of-type(2) .network", "people-k210")
        set_value(browser, "#heat", "0")
        browser.wait("Number(document.querySelectorAll('.panel')[1].dataset.frames ?? 0) >= 5", 300)
        picture(browser, folder / "page-compare.png")
        browser.click("#compare")
        browser.click("#stop")
        browser.size(1100, 720)
        page.boards.add_simulated()
        page.boards.add_simulated(("full-flash",))
        page.boards.add_simulated()
        browser.click("#tab-flash")
        browser.wait(
            "document.getElementById('flash').dataset.ready && document.querySelectorAll('.board').length === 3"
        )
        set_value(browser, "#flash-network", "demo")
        browser.wait("document.getElementById('plan').textContent.startsWith('Will be')", 300)
        browser.click("#flash-go")
        browser.wait(
            "['live', 'failed'].map(state => document.querySelectorAll('.board.' + state).length).join() === '2,1'",
            300,
        )
        picture(browser, folder / "page-flash.png")
        browser.click(".board.live .watch-it")
        browser.wait("Number(document.body.dataset.frames) > 10 && document.getElementById('lcd').naturalWidth > 0")
        browser.wait("document.getElementById('poses').innerText.includes('person')")
        picture(browser, folder / "page-watch.png")
        browser.size(360, 640, dark=True)
        time.sleep(0.5)
        picture(browser, folder / "page-phone.png")


def emulated(scratch: Path, folder: Path) -> None:
    """Show the page of an emulated board with stock MaixPy, whose flash a package has filled."""
    firmware = catalog.find(MAIXPY, "firmware")
    if firmware is None or catalog.locate(firmware) is None:
        raise UserError(f"the image {MAIXPY} is not on this computer; put it into {catalog.cache_dir()}")
    made = scratch / "poses.kfpkg"
    package.write(made, payload_of("demo", None, MAIXPY, None, Ui()), "auto")
    session = EmulatedSession(scratch / "board", made, open_camera("scene:7"))
    live = LiveBoard(session.board)
    view = WebView(live, session.page())
    live.start()
    try:
        with open_browser(size=(1100, 760)) as browser:
            browser.size(1100, 720)
            browser.open(view.url)
            browser.wait("document.getElementById('poses').innerText.includes('person 2')", 400)
            shown = browser.run("Number(document.body.dataset.frames)")
            browser.wait(f"Number(document.body.dataset.frames) > {shown + 5}", 400)
            time.sleep(1)  # The LCD's picture comes after the count of frames.
            picture(browser, folder / "emulator-page.png")
    finally:
        view.close()
        live.stop()
        session.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write the docs' pictures there")
    parser.add_argument("--emulated", type=Path, metavar="DIR", help="write the emulated board's picture there")
    parser.add_argument("--frames", type=positive, default=1000)
    parser.add_argument("--network", default="posenet-075")
    parser.add_argument("--size", default="320x240")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        camera = Path(folder) / "people.y4m"
        scene_video.write(camera, 7, 10, (640, 480))
        page = Page(boards=Boards(Path(folder), list))
        try:
            if arguments.emulated:
                emulated(Path(folder), arguments.emulated)
            elif arguments.pictures:
                pictures(page, camera, arguments.pictures)
            else:
                measure(page, camera, arguments.network, arguments.size, arguments.frames)
        finally:
            page.close()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
