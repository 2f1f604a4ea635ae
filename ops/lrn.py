"""LRN: x / (bias + alpha / size * s) ** beta, s the sum of squares of `size` channels around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    shape = kinds[0].shape
    if len(shape) < 2 or attrs["size"] < 1:
        raise ValueError(f"a size of {attrs['size']} does not fit {text(shape)}")
    return [TensorType(shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, size, number = arrays[0], attrs["size"], arrays[0].dtype.type
    channels, before = x.shape[1], (size - 1) // 2
    total = np.zeros_like(x)
    with np.errstate(all="ignore"):
        for offset in range(-before, size - before):
            low, high = max(0, -offset), min(channels, channels - offset)
            if low < high:
                total[:, low:high] += x[:, low + offset : high + offset] ** 2
        factor = number(attrs["bias"]) + number(attrs["alpha"] / size) * total
        return [np.asarray(x / factor ** number(attrs["beta"]))]


OPERATOR = Operator("LRN", _infer, _evaluate, (1, 1))
