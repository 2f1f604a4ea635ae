"""HardSigmoid: alpha * x + beta within 0 and 1."""

from __future__ import annotations

import numpy as np

from .elementwise import parametric
from .types import Array, Attrs


def _hard_sigmoid(x: Array, attrs: Attrs) -> Array:
    number = x.dtype.type
    line = number(attrs["alpha"]) * x + number(attrs["beta"])
    return np.asarray(np.clip(line, number(0), number(1)))


OPERATOR = parametric("HardSigmoid", _hard_sigmoid)
