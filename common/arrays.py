"""Names for numpy arrays by the kind of number that they hold, for annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""Uint8: what the camera gives and the KPU computes."""

Picture = NDArray[np.uint8]
"""Uint8 (height, width, 3), RGB."""

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

Numbers = NDArray[Any]
"""Whole or real numbers: the caller knows, or it does not matter."""
