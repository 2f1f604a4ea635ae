"""Mish: x * tanh(softplus(x))."""

from __future__ import annotations

import numpy as np

from .elementwise import unary
from .softplus import softplus

OPERATOR = unary("Mish", lambda x: np.asarray(x * np.tanh(softplus(x))))
