"""Exp: the exponential of x."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Exp", np.exp)
