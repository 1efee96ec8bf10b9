"""TensorFlow and the modules that import it, loaded where a test first uses them and not where tests are collected.

It takes seconds, and every process of a session collects every file. The names at the end are used as if they had been
imported; where TensorFlow is absent, the test that uses one is skipped. Tests that use them bear the mark
xdist_group("tensorflow"): one process loads it for all.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


class _Later:
    """A module's names. TensorFlow is set to one thread before its first operation: the same sums in every run."""

    ready = False

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # pytest looks for its marks on every name of a file
        if not _Later.ready:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            pytest.importorskip("tensorflow")
            importlib.import_module("model_build.train.trainer").limit_threads(1)
            _Later.ready = True
        return getattr(importlib.import_module(self._name), name)


tf: Any = _Later("tensorflow")
trainer: Any = _Later("model_build.train.trainer")
model: Any = _Later("model_build.train.model")
grow: Any = _Later("model_build.train.grow")
machines: Any = _Later("model_build.train.machines")
