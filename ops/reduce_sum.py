"""ReduceSum: the sum over axes."""

from __future__ import annotations

import numpy as np

from .inference import numbers
from .reduction import reduction

OPERATOR = reduction("ReduceSum", np.sum, numbers)
