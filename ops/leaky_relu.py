"""LeakyRelu: x, and alpha * x where x is negative."""

from __future__ import annotations

import numpy as np

from .elementwise import parametric
from .types import Array, Attrs


def _leaky(x: Array, attrs: Attrs) -> Array:
    return np.asarray(np.where(x < 0, x.dtype.type(attrs["alpha"]) * x, x))


OPERATOR = parametric("LeakyRelu", _leaky)
