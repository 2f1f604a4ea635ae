"""What every report is: one JSON-able object that carries the version of its schema."""

from __future__ import annotations

from math import isfinite
from typing import Any

SCHEMA_VERSION = 1

Json = dict[str, Any]


def finite(value: float) -> float | None:
    """JSON has no infinity: an error of zero has no finite SQNR."""
    return value if isfinite(value) else None
