"""AveragePool: the mean of the values under a window.

One or two spatial axes; attributes `kernel_shape`, `strides`, `pads`, `dilations` (see
planar.py), `ceil_mode` and `count_include_pad`: whether padding counts as zeros. What a window
reaches beyond the padding (with ceil_mode) never counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .convolution import output_shape, taps_of
from .inference import floats
from .planar import flat, planar, planar_windows, slid_shape
from .taps import Window
from .types import Array, Attrs, Operator, TensorType


def counts(inputs: int, window: Window, include_pad: bool) -> Array:
    """How many values every output along one axis is the mean of: float64 [outputs]."""
    starts = np.arange(window.outputs(inputs)) * window.stride - window.pad_begin
    places = starts[:, None] + np.arange(window.kernel) * window.dilation
    low, high = (-window.pad_begin, inputs + window.pad_end) if include_pad else (0, inputs)
    return np.asarray(((places >= low) & (places < high)).sum(axis=1), np.float64)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    dtype = floats(*kinds)
    shape = kinds[0].shape
    return [TensorType((*shape[:2], *slid_shape(shape, attrs["kernel_shape"], attrs)), dtype)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = planar(arrays[0])
    along = planar_windows(attrs["kernel_shape"], attrs)
    total = np.zeros(output_shape(x.shape, x.shape[1], along), x.dtype)
    include = bool(attrs["count_include_pad"])
    rows, columns = (
        counts(size, window, include) for size, window in zip(x.shape[2:], along, strict=True)
    )
    with np.errstate(all="ignore"):
        for row, column in taps_of(x.shape, along):
            patch = x[:, :, row.inp_slice, column.inp_slice]
            total[:, :, row.out_slice, column.out_slice] += patch
        result = total / np.maximum(rows[:, None] * columns, 1).astype(x.dtype)
    return [flat(result, arrays[0].ndim)]


OPERATOR = Operator("AveragePool", _infer, _evaluate, (1, 1))
