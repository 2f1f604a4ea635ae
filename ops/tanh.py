"""Tanh: hyperbolic tangent."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Tanh", np.tanh)
