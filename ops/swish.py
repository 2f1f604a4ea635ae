"""Swish: x * sigmoid(alpha * x)."""

from __future__ import annotations

import numpy as np

from .elementwise import parametric
from .sigmoid import sigmoid
from .types import Array, Attrs


def _swish(x: Array, attrs: Attrs) -> Array:
    return np.asarray(x * sigmoid(x.dtype.type(attrs["alpha"]) * x))


OPERATOR = parametric("Swish", _swish)
