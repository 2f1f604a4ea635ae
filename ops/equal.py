"""Equal: whether a and b are equal, broadcast."""

from __future__ import annotations

import numpy as np

from .elementwise import comparison

OPERATOR = comparison("Equal", np.equal)
