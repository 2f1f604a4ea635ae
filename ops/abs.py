"""Abs: |x|."""

from __future__ import annotations

import numpy as np

from .elementwise import unary
from .inference import numbers

OPERATOR = unary("Abs", np.abs, numbers)
