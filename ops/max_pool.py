"""MaxPool: the largest value under a window; padding never is.

One or two spatial axes; attributes `kernel_shape`, `strides`, `pads`, `dilations` (see
planar.py) and `ceil_mode`.
"""

from __future__ import annotations

from collections.abc import Sequence

from .inference import numbers
from .planar import flat, planar, planar_windows, slid_shape
from .pooling import max_pool
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = numbers(*kinds)
    shape = kinds[0].shape
    return [TensorType((*shape[:2], *slid_shape(shape, attrs["kernel_shape"], attrs)), dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    along = planar_windows(attrs["kernel_shape"], attrs)
    return [flat(max_pool(planar(arrays[0]), along), arrays[0].ndim)]


OPERATOR = Operator("MaxPool", _infer, _evaluate, (1, 1))
