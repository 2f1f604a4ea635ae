"""Transpose: axes in the order of the attribute "perm"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .inference import plain, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    shape, perm = kinds[0].shape, tuple(attrs["perm"])
    if sorted(perm) != list(range(len(shape))):
        raise ValueError(f"perm {text(perm)} is no order of the axes of {text(shape)}")
    return [replace(kinds[0], shape=tuple(shape[axis] for axis in perm))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [arrays[0].transpose(tuple(attrs["perm"])).copy()]


OPERATOR = Operator("Transpose", _infer, _evaluate, (1, 1))
