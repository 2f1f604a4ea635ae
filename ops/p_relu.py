"""PRelu: x, and slope * x where x is negative; the slope broadcasts to x."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import broadcast, floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    shape, slope = (kind.shape for kind in kinds)
    if broadcast(shape, slope) != shape:
        raise ValueError(f"slope {text(slope)} does not broadcast to {text(shape)}")
    return [TensorType(shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, slope = arrays
    with np.errstate(all="ignore"):
        return [np.asarray(np.where(x < 0, slope * x, x))]


OPERATOR = Operator("PRelu", _infer, _evaluate, (2, 2))
