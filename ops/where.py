"""Where: the second operand where the first is true, else the third, all broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import broadcast, plain
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    condition, yes, no = kinds
    if condition.dtype != "bool":
        raise ValueError(f"the condition is {condition.dtype}, not bool")
    if (yes.dtype, yes.scale) != (no.dtype, no.scale):
        raise ValueError(f"mixes {yes} and {no}")
    return [TensorType(broadcast(*(kind.shape for kind in kinds)), yes.dtype, scale=yes.scale)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [np.where(*arrays)]


OPERATOR = Operator("Where", _infer, _evaluate, (3, 3))
