"""Mul: a * b, broadcast; integers wrap."""

from __future__ import annotations

import numpy as np

from .elementwise import binary

OPERATOR = binary("Mul", np.multiply)
