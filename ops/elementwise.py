"""Builders for operators that act on each element alone, of one operand or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .inference import broadcast, floats, numbers
from .types import Array, Attrs, Operator, TensorType


def binary(name: str, function: Callable[[Array, Array], Array]) -> Operator:
    """`function` of two broadcast operands of one numeric dtype."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        dtype = numbers(*kinds)
        return [TensorType(broadcast(*(kind.shape for kind in kinds)), dtype)]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(function(arrays[0], arrays[1]), arrays[0].dtype)]

    return Operator(name, infer, evaluate, (2, 2))


def unary(name: str, function: Callable[[Array], Array]) -> Operator:
    """`function` of one floating-point operand."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        return [TensorType(kinds[0].shape, floats(*kinds))]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(function(arrays[0]), arrays[0].dtype)]

    return Operator(name, infer, evaluate, (1, 1))
