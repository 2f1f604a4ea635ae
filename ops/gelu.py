"""Gelu: x times the normal distribution function of x.

The attribute `approximate` is "none", or "tanh" for the approximation by a hyperbolic tangent.
"""

from __future__ import annotations

import math

import numpy as np

from .elementwise import parametric
from .erf import erf
from .types import Array, Attrs


def _gelu(x: Array, attrs: Attrs) -> Array:
    if attrs["approximate"] == "tanh":
        inner = np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3))
    else:
        inner = erf(x / x.dtype.type(math.sqrt(2)))
    return np.asarray(x * (1 + inner) / 2)


OPERATOR = parametric("Gelu", _gelu)
