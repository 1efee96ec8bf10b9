"""Names for numpy arrays by the kind of number that they hold, for annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""Arrays of uint8, which the camera gives and the KPU computes."""

Picture = NDArray[np.uint8]
"""A picture is uint8 (height, width, 3), RGB."""

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

Numbers = NDArray[Any]
"""Arrays of whole or of real numbers; the caller knows which, or it does not matter."""
