"""Reciprocal: 1 / x."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Reciprocal", lambda x: np.divide(x.dtype.type(1), x))
