"""Python 3.11 and later refuse data classes that Python 3.10 accepts. The default Python's tests find them here."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Hashable

PACKAGES = ("common", "model_build", "sim", "host_tools")


def test_defaults_of_data_classes_can_be_hashed():
    """From Python 3.11 on, a default that cannot be hashed, such as an array, makes the import of its module fail."""
    for name in ("flash", "model_build.build", "model_build.importers", "model_build.evaluate"):
        importlib.import_module(name)
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in PACKAGES]
    classes = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    fields = [(one, each) for one in classes if dataclasses.is_dataclass(one) for each in dataclasses.fields(one)]
    assert len(fields) > 200
    for one, each in fields:
        assert isinstance(each.default, Hashable), f"{one.__module__}.{one.__name__}.{each.name}: use default_factory"
