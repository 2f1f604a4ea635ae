"""Squeeze: drop the axes of size 1 that the attribute "axes" names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .inference import axes_within, plain, text
from .types import Array, Attrs, Operator, TensorType


def _shape(shape: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    axes = axes_within(attrs["axes"], len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise ValueError(f"axes {text(axes)} of {text(shape)} are not all of size 1")
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [replace(kinds[0], shape=_shape(kinds[0].shape, attrs))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [arrays[0].reshape(_shape(arrays[0].shape, attrs))]


OPERATOR = Operator("Squeeze", _infer, _evaluate, (1, 1))
