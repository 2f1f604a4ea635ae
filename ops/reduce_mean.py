"""ReduceMean: the mean over axes."""

from __future__ import annotations

import numpy as np

from .reduction import reduction

OPERATOR = reduction("ReduceMean", np.mean)
