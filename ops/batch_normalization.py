"""BatchNormalization at inference: (x - mean) / sqrt(var + epsilon) * scale + B along axis 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    shape = kinds[0].shape
    if len(shape) < 2:
        raise ValueError(f"takes a batch and a channel axis, not {text(shape)}")
    for name, kind in zip(("scale", "B", "mean", "var"), kinds[1:], strict=True):
        if kind.shape != shape[1:2]:
            raise ValueError(f"{name} {text(kind.shape)} does not fit {shape[1]} channels")
    return [TensorType(shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = arrays[0]
    scale, offset, mean, var = (array.reshape(-1, *(1,) * (x.ndim - 2)) for array in arrays[1:])
    with np.errstate(all="ignore"):
        deviation = np.sqrt(var + x.dtype.type(attrs["epsilon"]))
        return [(x - mean) / deviation * scale + offset]


OPERATOR = Operator("BatchNormalization", _infer, _evaluate, (5, 5))
