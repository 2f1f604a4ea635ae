"""InstanceNormalization: every channel of every image to mean B and deviation scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    shape = kinds[0].shape
    if len(shape) < 3:
        raise ValueError(f"takes a batch, a channel and spatial axes, not {text(shape)}")
    for name, kind in zip(("scale", "B"), kinds[1:], strict=True):
        if kind.shape != shape[1:2]:
            raise ValueError(f"{name} {text(kind.shape)} does not fit {shape[1]} channels")
    return [TensorType(shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = arrays[0]
    axes = tuple(range(2, x.ndim))
    scale, offset = (array.reshape(-1, *(1,) * (x.ndim - 2)) for array in arrays[1:])
    with np.errstate(all="ignore"):
        centred = x - x.mean(axis=axes, keepdims=True)
        variance = np.mean(centred * centred, axis=axes, keepdims=True)
        deviation = np.sqrt(variance + x.dtype.type(attrs["epsilon"]))
        return [np.asarray(centred / deviation * scale + offset)]


OPERATOR = Operator("InstanceNormalization", _infer, _evaluate, (3, 3))
