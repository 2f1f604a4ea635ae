"""LayerNormalization: x over the attribute `axes` to mean 0 and deviation 1, scaled and shifted.

The scale and, where there is one, the shift broadcast to x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import axes_within, broadcast, floats, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    shape = kinds[0].shape
    axes_within(attrs["axes"], len(shape))
    for name, kind in zip(("scale", "B"), kinds[1:], strict=False):
        if broadcast(shape, kind.shape) != shape:
            raise ValueError(f"{name} {text(kind.shape)} does not broadcast to {text(shape)}")
    return [TensorType(shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axes = arrays[0], tuple(attrs["axes"])
    with np.errstate(all="ignore"):
        centred = x - x.mean(axis=axes, keepdims=True)
        variance = np.mean(centred * centred, axis=axes, keepdims=True)
        result = centred / np.sqrt(variance + x.dtype.type(attrs["epsilon"])) * arrays[1]
        return [np.asarray(result + arrays[2] if len(arrays) == 3 else result)]


OPERATOR = Operator("LayerNormalization", _infer, _evaluate, (2, 3))
