"""Dropout at inference: the value itself."""

from __future__ import annotations

from .identity import same_type, same_value
from .types import Operator

OPERATOR = Operator("Dropout", same_type, same_value, (1, 1))
