"""Elu: x, and alpha * (exp(x) - 1) where x is negative."""

from __future__ import annotations

import numpy as np

from .elementwise import parametric
from .types import Array, Attrs


def _elu(x: Array, attrs: Attrs) -> Array:
    return np.asarray(np.where(x < 0, x.dtype.type(attrs["alpha"]) * np.expm1(x), x))


OPERATOR = parametric("Elu", _elu)
