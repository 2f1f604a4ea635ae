"""Ceil: x rounded up."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Ceil", np.ceil)
