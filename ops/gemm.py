"""Gemm: alpha * A' @ B' + beta * C, where ' transposes if asked to and C broadcasts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import broadcast, floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    for kind in kinds[:2]:
        if len(kind.shape) != 2:
            raise ValueError(f"takes matrices, not {text(kind.shape)}")
    left = kinds[0].shape[::-1] if attrs["transA"] else kinds[0].shape
    right = kinds[1].shape[::-1] if attrs["transB"] else kinds[1].shape
    if left[1] != right[0]:
        raise ValueError(f"inner sizes of {text(left)} and {text(right)} differ")
    shape = (left[0], right[1])
    if len(kinds) == 3 and broadcast(shape, kinds[2].shape) != shape:
        raise ValueError(f"C {text(kinds[2].shape)} does not broadcast to {text(shape)}")
    return [TensorType(shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    left = arrays[0].T if attrs["transA"] else arrays[0]
    right = arrays[1].T if attrs["transB"] else arrays[1]
    number = arrays[0].dtype.type
    with np.errstate(all="ignore"):
        result = np.matmul(left, right) * number(attrs["alpha"])
        if len(arrays) == 3:
            result = result + arrays[2] * number(attrs["beta"])
    return [np.asarray(result)]


OPERATOR = Operator("Gemm", _infer, _evaluate, (2, 3))
