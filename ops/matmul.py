"""MatMul: matrix product over the last two axes, the others broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import broadcast, floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    left, right = (kind.shape for kind in kinds)
    if not left or not right:
        raise ValueError("takes no scalars")
    inner = right[-2] if len(right) > 1 else right[0]
    if left[-1] != inner:
        raise ValueError(f"inner sizes of {text(left)} and {text(right)} differ")
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()
    return [TensorType((*broadcast(left[:-2], right[:-2]), *rows, *columns), dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(np.matmul(arrays[0], arrays[1]))]


OPERATOR = Operator("MatMul", _infer, _evaluate, (2, 2))
