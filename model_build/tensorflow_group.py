"""TensorFlow, which only training and a few importers need."""

from __future__ import annotations

import os
from types import ModuleType
from typing import cast

from common.errors import UserError


def tensorflow(wanted_for: str) -> ModuleType:
    """Import TensorFlow without its messages; UserError with one line if it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError:
        raise UserError(
            f"{wanted_for} needs TensorFlow: `uv sync --group train`, on x86-64 with Python 3.10 or 3.11"
        ) from None
    return cast(ModuleType, tensorflow)
