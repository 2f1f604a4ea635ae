"""Builders for operators that act on each element alone, of one operand, two, or any number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from .inference import broadcast, floats, numbers
from .types import Array, Attrs, Operator, TensorType


def binary(name: str, function: Callable[[Array, Array], Array]) -> Operator:
    """`function` of two broadcast operands of one numeric dtype."""
    return _folded(name, function, (2, 2))


def variadic(name: str, function: Callable[[Array, Array], Array]) -> Operator:
    """`function` of all broadcast operands, two at a time; one alone is itself."""
    return _folded(name, function, (1, sys.maxsize))


def comparison(name: str, function: Callable[[Array, Array], Array]) -> Operator:
    """`function` of two broadcast operands of one dtype: bool."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        if kinds[0].dtype != "bool" or kinds[1].dtype != "bool":
            numbers(*kinds)
        return [TensorType(broadcast(*(kind.shape for kind in kinds)), "bool")]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        return [np.asarray(function(arrays[0], arrays[1]), np.bool_)]

    return Operator(name, infer, evaluate, (2, 2))


def unary(
    name: str, function: Callable[[Array], Array], check: Callable[..., str] = floats
) -> Operator:
    """`function` of one operand, floating-point unless `check` allows others."""
    return parametric(name, lambda x, attrs: function(x), check)


def parametric(
    name: str, function: Callable[[Array, Attrs], Array], check: Callable[..., str] = floats
) -> Operator:
    """The same for a function that takes the attributes too."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        return [TensorType(kinds[0].shape, check(*kinds))]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(function(arrays[0], attrs), arrays[0].dtype)]

    return Operator(name, infer, evaluate, (1, 1))


def _folded(
    name: str, function: Callable[[Array, Array], Array], inputs: tuple[int, int]
) -> Operator:
    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        dtype = numbers(*kinds)
        return [TensorType(broadcast(*(kind.shape for kind in kinds)), dtype)]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(reduce(function, arrays), arrays[0].dtype)]

    return Operator(name, infer, evaluate, inputs)
