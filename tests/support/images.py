"""MaixPy's own images for tests on the emulated chip. They must be on this machine; no test downloads one."""

from __future__ import annotations

from pathlib import Path

from model_build import catalog
from tests.conftest import absent


def firmware_image(name: str = "maixpy-minimum") -> Path:
    """The file of a MaixPy release by its name in the catalogue.

    Without the file the test is skipped or, if required, fails.
    """
    entry = catalog.find(name, "firmware")
    path = catalog.locate(entry) if entry else None
    if path is None:
        absent("firmware_image", f"the MaixPy image {name} (in MAIX_POSENET_DATA or {catalog.cache_dir()})")
    assert path is not None
    return path
