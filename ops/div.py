"""Div: a / b, broadcast; integers divide towards zero."""

from __future__ import annotations

import numpy as np

from .elementwise import binary
from .types import Array


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind == "f":
        return np.asarray(np.divide(left, right))
    quotient = np.floor_divide(left, right)
    inexact = np.multiply(quotient, right) != left
    return np.asarray(quotient + (inexact & ((left < 0) != (right < 0))))


OPERATOR = binary("Div", _divide)
