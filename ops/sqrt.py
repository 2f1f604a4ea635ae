"""Sqrt: the square root of x."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Sqrt", np.sqrt)
