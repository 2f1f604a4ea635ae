"""HardSwish: x times (x / 6 + 1 / 2 within 0 and 1)."""

from __future__ import annotations

import numpy as np

from .elementwise import unary
from .types import Array


def _hard_swish(x: Array) -> Array:
    number = x.dtype.type
    return np.asarray(x * np.clip(x / number(6) + number(0.5), number(0), number(1)))


OPERATOR = unary("HardSwish", _hard_swish)
