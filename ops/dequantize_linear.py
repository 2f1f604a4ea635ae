"""DequantizeLinear: (x - zero point) * scale, in the scale's dtype.

Inputs are x, the scale and, where it is not 0, the zero point: scalars, or a vector along the
attribute `axis`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import floats
from .quantize_linear import INTEGERS, along, check_parameters
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(kinds[1])
    check_parameters(kinds, attrs["axis"])
    if kinds[0].dtype not in INTEGERS:
        raise ValueError(f"takes {', '.join(INTEGERS)}, not {kinds[0].dtype}")
    if len(kinds) == 3 and kinds[2].dtype != kinds[0].dtype:
        raise ValueError(f"the zero point is {kinds[2].dtype}, x is {kinds[0].dtype}")
    return [TensorType(kinds[0].shape, dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axis = arrays[0].astype(np.int64), attrs["axis"]
    scale = along(arrays[1], axis, x.ndim)
    if len(arrays) == 3:
        x = x - along(arrays[2].astype(np.int64), axis, x.ndim)
    return [np.asarray(x.astype(scale.dtype) * scale)]


OPERATOR = Operator("DequantizeLinear", _infer, _evaluate, (2, 3))
