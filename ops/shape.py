"""Shape: the operand's sizes as int64, from the attribute "start" to "end" (None: the last)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import plain
from .types import Array, Attrs, Operator, TensorType


def sizes(shape: tuple[int, ...], attrs: Attrs) -> Array:
    """What Shape gives for any operand of `shape`."""
    return np.array(shape[attrs["start"] : attrs["end"]], np.int64)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [TensorType(sizes(kinds[0].shape, attrs).shape, "int64")]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [sizes(arrays[0].shape, attrs)]


OPERATOR = Operator("Shape", _infer, _evaluate, (1, 1))
