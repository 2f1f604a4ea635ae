"""Reshape: the same elements in the shape of the attribute "shape".

An entry 0 copies the operand's size of that axis (so a leading 0 keeps the batch, whatever it
is) and one entry may be -1, the size that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from .inference import plain, text
from .types import Array, Attrs, Operator, TensorType


def reshaped(shape: tuple[int, ...], target: Sequence[int]) -> tuple[int, ...]:
    """`target` with its 0 and -1 resolved for an operand of `shape`."""
    failure = ValueError(f"{text(shape)} cannot become {text(tuple(target))}")
    if any(size == 0 and axis >= len(shape) for axis, size in enumerate(target)):
        raise failure
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    if min(sizes, default=0) < -1 or sizes.count(-1) > 1:
        raise failure
    if -1 in sizes:
        rest = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(shape) // rest if rest else 0
    if prod(sizes) != prod(shape):
        raise failure
    return tuple(sizes)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    plain(*kinds)
    return [replace(kinds[0], shape=reshaped(kinds[0].shape, attrs["shape"]))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [arrays[0].reshape(reshaped(arrays[0].shape, attrs["shape"]))]


OPERATOR = Operator("Reshape", _infer, _evaluate, (1, 1))
