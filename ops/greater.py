"""Greater: whether a > b, broadcast."""

from __future__ import annotations

import numpy as np

from .elementwise import comparison

OPERATOR = comparison("Greater", np.greater)
