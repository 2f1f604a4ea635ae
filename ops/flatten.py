"""Flatten: a matrix of the axes before the attribute "axis" by those from it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from .inference import plain
from .types import Array, Attrs, Operator, TensorType


def _shape(shape: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    axis = attrs["axis"]
    if not -len(shape) <= axis <= len(shape):
        raise ValueError(f"axis {axis} is outside a tensor of rank {len(shape)}")
    axis += len(shape) if axis < 0 else 0
    return (prod(shape[:axis]), prod(shape[axis:]))


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [replace(kinds[0], shape=_shape(kinds[0].shape, attrs))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [arrays[0].reshape(_shape(arrays[0].shape, attrs))]


OPERATOR = Operator("Flatten", _infer, _evaluate, (1, 1))
