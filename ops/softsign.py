"""Softsign: x / (1 + |x|)."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Softsign", lambda x: np.asarray(x / (1 + np.abs(x))))
