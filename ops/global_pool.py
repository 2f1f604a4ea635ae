"""The builder of global pools: one value a channel, all spatial axes kept with size 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .inference import floats, text
from .types import Array, Attrs, Operator, TensorType


def global_pool(name: str, reduce: Callable[[Array, tuple[int, ...]], Array]) -> Operator:
    """`reduce` takes an array and the axes to reduce, which it keeps with size 1."""

    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        dtype = floats(*kinds)
        shape = kinds[0].shape
        if len(shape) < 3:
            raise ValueError(f"takes a batch, a channel and spatial axes, not {text(shape)}")
        return [TensorType((*shape[:2], *(1 for _ in shape[2:])), dtype)]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        axes = tuple(range(2, arrays[0].ndim))
        with np.errstate(all="ignore"):
            return [np.asarray(reduce(arrays[0], axes))]

    return Operator(name, infer, evaluate, (1, 1))
