"""What makes the products of an integer layer: its weights and the values that they multiply.

A layer with a shortcut multiplies two values. Its weights are kept as one matrix (O, columns),
those of the shortcut behind the others, so that the shift grid, the biases and the rounding of
weights see one layer. A *gain* is what a column's products are multiplied by on their way into the
accumulator: a power of two for those of a shortcut, 1 for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..ops import shortcut
from ..ops.types import Array, Attrs
from .layers import Layer


@dataclass(frozen=True)
class Operand:
    """A value that weights of `shape` multiply, by its name, and its zero point."""

    name: str
    zero_point: int
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])


@dataclass(frozen=True)
class Products:
    """The operands of a layer: x, and the image of a shortcut if there is one."""

    kind: Layer
    attrs: Attrs
    x: Operand
    image: Operand | None = None

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.x,) if self.image is None else (self.x, self.image)

    @property
    def gains(self) -> Array:
        """The gain of every column of the weights."""
        gains = [1, 1 << self.attrs.get(shortcut.SHIFT, 0)][: len(self.operands)]
        return np.repeat(gains, [one.columns for one in self.operands])

    @property
    def zero_points(self) -> Array:
        """The zero point of what each column of the weights multiplies."""
        points = [one.zero_point for one in self.operands]
        return np.repeat(points, [one.columns for one in self.operands])

    def parts(self, weights: Array) -> tuple[Array, ...]:
        """The weights of each operand."""
        if self.image is None:
            return (weights,)
        first, second = np.split(weights, [self.x.columns], axis=1)
        return first.reshape(self.x.shape), second.reshape(self.image.shape)

    def of(self, values: Mapping[str, Array], weights: Array) -> Array:
        """The int32 products (N, channels, ...) of int8 `values` and `weights`."""
        first, *rest = self.parts(weights)
        if self.image is not None:
            rest = [values[self.image.name], *rest]
        return self.kind.accumulate(values[self.x.name], first, self.attrs, *rest)


def side_by_side(weight: Array, other: Array, ratio: float) -> Array:
    """The weights of a layer and of its shortcut as one real matrix (O, columns).

    All are then weights of what the layer itself reads: `ratio` is the scale of the shortcut's
    image over that of x, its gain taken off.
    """
    first, second = (one.reshape(len(one), -1).astype(np.float64) for one in (weight, other))
    return np.concatenate([first, second * ratio], axis=1)
