"""Min: the smallest of all operands, element by element, broadcast."""

from __future__ import annotations

import numpy as np

from .elementwise import variadic

OPERATOR = variadic("Min", np.minimum)
