"""Softplus: log(1 + exp(x))."""

from __future__ import annotations

import numpy as np

from .elementwise import unary
from .types import Array


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return np.asarray(np.logaddexp(x, x.dtype.type(0)))


OPERATOR = unary("Softplus", softplus)
