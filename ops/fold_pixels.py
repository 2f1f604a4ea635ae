"""FoldPixels: neighbouring pixels of an int8 image become channels, on the host.

Channel (row*kw + column)*C + c of the result's position (y, x) is channel c of the input's pixel
(y*stride + row - top, x*stride + column - left) for every row and column of a window `kernel_shape`
= (kh, kw): what a convolution would read there. Attributes are ONNX's `kernel_shape`, `strides`,
`pads` and `dilations`; `value` stands in the padding and must be the input's zero point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .convolution import output_shape
from .taps import windows
from .types import Array, Attrs, Operator, TensorType


def _shape(shape: tuple[int, ...], attrs: Attrs) -> tuple[int, int, int, int]:
    height, width = attrs["kernel_shape"]
    return output_shape(shape, shape[1] * height * width, windows(attrs, (height, width)))


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 (N, kh*kw*C, H, W); ValueError unless x is plain int8 with that zero point."""
    (x,) = kinds
    if len(x.shape) != 4 or x.dtype != "int8" or x.layout.packed:
        raise ValueError(f"takes a plain int8 (N, C, H, W), got {x}")
    if attrs["value"] != x.zero_point:
        raise ValueError(f"pads with {attrs['value']}, the zero point is {x.zero_point}")
    return [replace(x, shape=_shape(x.shape, attrs))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """One rectangle of pixels for every place in the window."""
    (x,) = arrays
    height, width = attrs["kernel_shape"]
    out = np.full(_shape(x.shape, attrs), attrs["value"], np.int8)
    rows, columns = windows(attrs, (height, width))
    for row in rows.taps(x.shape[2]):
        for column in columns.taps(x.shape[3]):
            first = (row.kernel * width + column.kernel) * x.shape[1]
            lanes = slice(first, first + x.shape[1])
            out[:, lanes, row.out_slice, column.out_slice] = x[
                :, :, row.inp_slice, column.inp_slice
            ]
    return [out]


OPERATOR = Operator("FoldPixels", _infer, _evaluate, (1, 1))
