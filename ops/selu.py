"""Selu: gamma * x, and gamma * alpha * (exp(x) - 1) where x is not positive."""

from __future__ import annotations

import numpy as np

from .elementwise import parametric
from .types import Array, Attrs


def _selu(x: Array, attrs: Attrs) -> Array:
    alpha, gamma = x.dtype.type(attrs["alpha"]), x.dtype.type(attrs["gamma"])
    return np.asarray(gamma * np.where(x > 0, x, alpha * np.expm1(x)))


OPERATOR = parametric("Selu", _selu)
