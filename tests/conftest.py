"""Fixtures and the rules that keep skipped tests honest."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on how busy the machine is, so no test is judged by it. In CI every run draws the
# same examples; HYPOTHESIS_PROFILE=explore draws new and many more of them, as a run at night may.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("explore", settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def _required(kind: str) -> bool:
    """MAIX_POSENET_REQUIRE=weights,browser,… names what the machine must have: then nothing may be skipped."""
    return kind in os.environ.get("MAIX_POSENET_REQUIRE", "").split(",")


def pytest_configure() -> None:
    """Tests of a package that has no wheel for this platform skip themselves; where it is required, stop at once."""
    for package in ("nncase", "tensorflow"):
        if _required(package) and importlib.util.find_spec(package) is None:
            raise pytest.UsageError(f"{package} is required here (MAIX_POSENET_REQUIRE names it) and not installed")


def absent(kind: str, what: str) -> None:
    """Skip the test because `what` is not on this machine; where `kind` is required, fail instead."""
    if _required(kind):
        pytest.fail(f"{what} is required here (MAIX_POSENET_REQUIRE names {kind}) and absent")
    pytest.skip(what + " is absent")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real weights, photos and ground truth."""
    folder = os.environ.get("MAIX_POSENET_DATA")
    if not folder or not Path(folder).is_dir():
        absent("weights", "the folder MAIX_POSENET_DATA")
    assert folder
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def weights_dir(data_dir: Path) -> Path:
    """Real PoseNet weights."""
    return data_dir / "weights"


@pytest.fixture(scope="session")
def photos_dir(data_dir: Path) -> Path:
    """Real photos."""
    return data_dir / "photos"
