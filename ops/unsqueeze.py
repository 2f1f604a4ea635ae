"""Unsqueeze: insert axes of size 1 so that they stand where the attribute "axes" says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .inference import axes_within, plain
from .types import Array, Attrs, Operator, TensorType


def _shape(shape: tuple[int, ...], attrs: Attrs) -> tuple[int, ...]:
    rank = len(shape) + len(attrs["axes"])
    axes = axes_within(attrs["axes"], rank)
    sizes = iter(shape)
    return tuple(1 if axis in axes else next(sizes) for axis in range(rank))


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [replace(kinds[0], shape=_shape(kinds[0].shape, attrs))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [arrays[0].reshape(_shape(arrays[0].shape, attrs))]


OPERATOR = Operator("Unsqueeze", _infer, _evaluate, (1, 1))
