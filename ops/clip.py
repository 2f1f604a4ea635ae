"""Clip: min(max(x, min), max); a bound that is None does not limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import numbers
from .types import Array, Attrs, Operator, TensorType


def clip(x: Array, attrs: Attrs) -> Array:
    """`x` within attrs "min" and "max", as Clip and every fused layer mean it."""
    if attrs.get("min") is not None:
        x = np.maximum(x, x.dtype.type(attrs["min"]))
    if attrs.get("max") is not None:
        x = np.minimum(x, x.dtype.type(attrs["max"]))
    return np.asarray(x)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return [TensorType(kinds[0].shape, numbers(*kinds))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [clip(arrays[0], attrs)]


OPERATOR = Operator("Clip", _infer, _evaluate, (1, 1))
