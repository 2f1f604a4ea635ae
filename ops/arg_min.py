"""ArgMin: where along the attribute `axis` the smallest value is."""

from __future__ import annotations

import numpy as np

from .arg_reduction import arg_reduction

OPERATOR = arg_reduction("ArgMin", np.argmin)
