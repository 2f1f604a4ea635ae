"""Log: the natural logarithm of x."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Log", np.log)
