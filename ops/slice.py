"""Slice: along each of "axes" the elements from "starts" to "ends" by "steps", as Python slices.

Bounds beyond the operand are clamped, so that an end of 2**63 - 1 is "the rest".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .inference import axes_within, plain
from .types import Array, Attrs, Operator, TensorType


def _slices(rank: int, attrs: Attrs) -> tuple[slice, ...]:
    axes = axes_within(attrs["axes"], rank)
    bounds = [attrs["starts"], attrs["ends"], attrs["steps"]]
    if any(len(values) != len(axes) for values in bounds):
        raise ValueError("starts, ends, axes and steps have different lengths")
    if 0 in attrs["steps"]:
        raise ValueError("a step is 0")
    result = [slice(None)] * rank
    for axis, start, end, step in zip(axes, *bounds, strict=True):
        result[axis] = slice(start, end, step)
    return tuple(result)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape = kinds[0].shape
    slices = _slices(len(shape), attrs)
    sizes = (len(range(*cut.indices(size))) for cut, size in zip(slices, shape, strict=True))
    return [replace(kinds[0], shape=tuple(sizes))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [np.array(arrays[0][_slices(arrays[0].ndim, attrs)])]


OPERATOR = Operator("Slice", _infer, _evaluate, (1, 1))
