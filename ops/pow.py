"""Pow: the first operand to the power of the second, broadcast, in the first one's dtype."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import broadcast, floats, numbers
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    numbers(kinds[1])
    return [TensorType(broadcast(*(kind.shape for kind in kinds)), floats(kinds[0]))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(np.power(arrays[0], arrays[1]), arrays[0].dtype)]


OPERATOR = Operator("Pow", _infer, _evaluate, (2, 2))
