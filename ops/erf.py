"""Erf: the Gauss error function."""

from __future__ import annotations

import math

import numpy as np

from .elementwise import unary
from .types import Array

_ERF = np.frompyfunc(math.erf, 1, 1)  # NumPy has none of its own


def erf(x: Array) -> Array:
    """The error function of every element, in x's dtype."""
    return np.asarray(_ERF(x), x.dtype)


OPERATOR = unary("Erf", erf)
