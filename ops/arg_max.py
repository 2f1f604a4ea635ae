"""ArgMax: where along the attribute `axis` the largest value is."""

from __future__ import annotations

import numpy as np

from .arg_reduction import arg_reduction

OPERATOR = arg_reduction("ArgMax", np.argmax)
