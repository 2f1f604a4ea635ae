"""Max-pooling of floats and integers: padding takes no part in the maximum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .convolution import output_shape, taps_of
from .taps import Window
from .types import Array


def max_pool(x: Array, windows: Sequence[Window]) -> Array:
    """The greatest of x (N, C, H, W) in every window; the least number where it sees none."""
    least = np.finfo(x.dtype).min if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    out = np.full(output_shape(x.shape, x.shape[1], windows), least, x.dtype)
    for row, column in taps_of(x.shape, windows):
        part = out[:, :, row.out_slice, column.out_slice]
        np.maximum(part, x[:, :, row.inp_slice, column.inp_slice], out=part)
    return out
