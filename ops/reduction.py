"""The builder of reductions over the attribute `axes`, kept with size 1 if `keepdims` says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .inference import axes_within, floats
from .types import Array, Attrs, Operator, TensorType


def reduced(shape: tuple[int, ...], axes: Sequence[int], keep: bool) -> tuple[int, ...]:
    """`shape` without `axes`, or with size 1 there; ValueError if an axis does not exist."""
    gone = axes_within(axes, len(shape))
    if keep:
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def reduction(
    name: str, function: Callable[..., Any], check: Callable[..., str] = floats
) -> Operator:
    """`function` has the signature of NumPy's reductions."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        shape = reduced(kinds[0].shape, attrs["axes"], attrs["keepdims"])
        return [TensorType(shape, check(*kinds))]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        (x,), axes = arrays, tuple(attrs["axes"])
        with np.errstate(all="ignore"):
            result = function(x, axis=axes, keepdims=bool(attrs["keepdims"]))
        return [np.asarray(result, x.dtype)]

    return Operator(name, infer, evaluate, (1, 1))
