"""TensorFlow and the modules that import it, loaded when a test first uses them and not while tests are collected.

Loading takes seconds, and every process of a test run collects every file. The names at the end are used as if they had
been imported. Without TensorFlow, a test that uses one is skipped. Tests that use them have the mark
xdist_group("tensorflow"), so that one process loads it for all of them.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


class _Later:
    """The names of a module. TensorFlow is limited to one thread first, so that every run computes the same sums."""

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
