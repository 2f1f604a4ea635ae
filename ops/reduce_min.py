"""ReduceMin: the smallest value over axes."""

from __future__ import annotations

import numpy as np

from .inference import numbers
from .reduction import reduction

OPERATOR = reduction("ReduceMin", np.min, numbers)
