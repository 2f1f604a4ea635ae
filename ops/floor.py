"""Floor: x rounded down."""

from __future__ import annotations

import numpy as np

from .elementwise import unary

OPERATOR = unary("Floor", np.floor)
