"""A small build for tests of what a board says about one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic_kmodel import write_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with random weights for 64×48."""
    return write_build(tmp_path_factory.mktemp("build") / "small")


@pytest.fixture(scope="module")
def manifest(build: Path) -> dict[str, Any]:
    """The posenet.json of that build."""
    manifest: dict[str, Any] = json.loads((build / "posenet.json").read_text())
    return manifest
