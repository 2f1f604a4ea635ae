"""What a value is: shape, dtype, layout and quantisation; and what an operator provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import PLAIN, Layout

Array = NDArray[Any]
Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class TensorType:
    """Type of one value.

    `shape` is logical (N, C, ...) whatever the layout; axis 0 is the batch for everything that
    is not a constant. `dtype` is NumPy's name. `scale` is set on quantised values: the real
    value is `scale * (integer - zero_point)`. What readers pad with zeros has `zero_point` 0.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout = PLAIN
    scale: float | None = None
    zero_point: int = 0

    @property
    def storage_shape(self) -> tuple[int, ...]:
        return self.layout.storage_shape(self.shape)

    def __str__(self) -> str:
        parts = [f"{self.dtype}[{','.join(map(str, self.shape))}]"]
        if self.layout.packed:
            parts.append(str(self.layout))
        if self.scale is not None:
            parts.append(f"scale={self.scale:.6g}")
        if self.zero_point:
            parts.append(f"zero_point={self.zero_point}")
        return " ".join(parts)


def type_of(array: Array) -> TensorType:
    """Plain type of a NumPy array."""
    return TensorType(tuple(array.shape), str(array.dtype))


@dataclass(frozen=True)
class Operator:
    """What one operator means.

    `infer` maps input types and attributes to output types and raises ValueError with a short
    reason when they do not fit. `evaluate` maps arrays (in storage shape) to arrays of exactly
    the inferred dtypes and storage shapes; it is the definition that everything else is
    compared with. `inputs` gives the least and the greatest number of inputs.
    """

    name: str
    infer: Callable[[Sequence[TensorType], Attrs], Sequence[TensorType]]
    evaluate: Callable[[Sequence[Array], Attrs], Sequence[Array]]
    inputs: tuple[int, int]


def bytes_of(kind: TensorType) -> int:
    """Bytes of a value as stored."""
    return prod(kind.storage_shape) * np.dtype(kind.dtype).itemsize
