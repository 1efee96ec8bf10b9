"""Fixtures for all tests, the choice between quick and long tests, and rules about tests that are skipped."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from benchmarks.browser import Browser

# How long an example takes depends on how busy the machine is, so no test is judged by it. In CI every run draws the
# same examples; HYPOTHESIS_PROFILE=explore draws new and many more of them, as a run at night may.
settings.register_profile("quick", deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
settings.register_profile("ci", settings.get_profile("quick"), derandomize=True)
# For benchmarks/mutants.py, which wants to know whether a test fails and not by what smallest example.
settings.register_profile("verdict", settings.get_profile("ci"), phases=(Phase.explicit, Phase.generate))
settings.register_profile("explore", settings.get_profile("quick"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long tests (marked slow) in place of the quick ones")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --long the quick tests run, with it the long ones; a marker expression (-m) of the user's own rules."""
    if config.option.markexpr:
        return
    wanted = config.getoption("--long")
    left_out = [item for item in items if (item.get_closest_marker("slow") is not None) != wanted]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _required(kind: str) -> bool:
    """Whether MAIX_POSENET_REQUIRE (weights,browser,…) names this kind, whose tests may then not be skipped."""
    return kind in os.environ.get("MAIX_POSENET_REQUIRE", "").split(",")


def pytest_configure(config: pytest.Config) -> None:
    """Stop at once if a package that is required is not installed. Otherwise the tests of that package are skipped."""
    _share_bytecode(config)
    for package in ("nncase", "tensorflow"):
        if _required(package) and importlib.util.find_spec(package) is None:
            raise pytest.UsageError(f"{package} is required here (MAIX_POSENET_REQUIRE names it) and not installed")


def _share_bytecode(config: pytest.Config) -> None:
    """Every Python that a test starts, and every process of pytest-xdist, uses what an earlier one compiled.

    Many containers forbid bytecode files (PYTHONDONTWRITEBYTECODE). Hundreds of processes would then each compile NumPy
    and everything else again. This gives them a folder in pytest's cache. Without that cache (-p no:cacheprovider)
    nothing is changed.
    """
    cache = getattr(config, "cache", None)
    if sys.dont_write_bytecode and cache is not None:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))


LETS_RUN = {
    "weights": "name a folder with weights/, photos/ and kmodels/",
    "browser": "install chromium",
    "curl": "install curl",
    "riscv": "install binutils-riscv64-unknown-elf",
    "node": "install node and run .ci/run",
    "micropython": "on x86-64 Linux the package comes with `uv sync`",
    "firmware_image": "`flash.py --board emu` downloads one",
}
"""Kind of thing that may be absent → what would let its tests run."""


def absent(kind: str, what: str) -> NoReturn:
    """Skip the test because `what` is not on this machine; if `kind` is required, fail instead."""
    if _required(kind):
        pytest.fail(f"{what} is required here (MAIX_POSENET_REQUIRE names {kind}) and absent")
    pytest.skip(f"{what} is absent" + (f" ({LETS_RUN[kind]})" if kind in LETS_RUN else ""))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line that names what was skipped and what would let it run."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.write_line("skipped: " + "; ".join(f"{count} × {reason}" for reason, count in reasons.items()))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real weights, photos and ground truth."""
    folder = os.environ.get("MAIX_POSENET_DATA")
    if not folder or not Path(folder).is_dir():
        absent("weights", "the folder MAIX_POSENET_DATA")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def weights_dir(data_dir: Path) -> Path:
    """Real PoseNet weights."""
    return data_dir / "weights"


@pytest.fixture(scope="session")
def photos_dir(data_dir: Path) -> Path:
    """Real photos."""
    return data_dir / "photos"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium whose camera sees two rendered people.

    Tests that use it bear the mark xdist_group("browser"): one process starts it for all.
    """
    from benchmarks.browser import CHROMIUM, open_browser
    from benchmarks.scene_video import write

    if CHROMIUM is None:
        absent("browser", "Chromium")
    camera = tmp_path_factory.mktemp("camera") / "scene.y4m"
    write(camera, 7, 2, (320, 240))
    with open_browser(camera) as browser:
        yield browser


@pytest.fixture
def chromium(browser: Browser) -> Browser:
    """That browser with a new page."""
    browser.new_page()
    return browser
