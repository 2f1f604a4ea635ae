"""Sigmoid: 1 / (1 + exp(-x))."""

from __future__ import annotations

import numpy as np

from .elementwise import unary
from .types import Array


def sigmoid(x: Array) -> Array:
    """The logistic function without overflow."""
    small = np.exp(-np.abs(x))  # at most 1, so nothing overflows and small results keep precision
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


OPERATOR = unary("Sigmoid", sigmoid)
