"""Relu: max(x, 0)."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Relu", lambda x: np.maximum(x, x.dtype.type(0)))
