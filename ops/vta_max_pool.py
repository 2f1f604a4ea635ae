"""VtaMaxPool: two-dimensional max-pooling of VTA's integers; padding takes no part.

Input: x int8 (N, C, H, W). Attributes are ONNX's (`kernel_shape`, `strides`, `pads`, `dilations`,
`ceil_mode`), `layout` of the output and `in_layout` of x. The result has the scale of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .convolution import output_shape
from .layout import Layout
from .pooling import max_pool
from .taps import windows
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 (N, C, H, W); ValueError when shape, dtype or layout do not fit."""
    (x,) = kinds
    if len(x.shape) != 4 or x.dtype != "int8":
        raise ValueError(f"takes int8 (N, C, H, W), got {x}")
    if x.layout != attrs["in_layout"]:
        raise ValueError(f"takes x in layout {attrs['in_layout']}, got {x.layout}")
    shape = output_shape(x.shape, x.shape[1], windows(attrs, attrs["kernel_shape"]))
    return [replace(x, shape=shape, layout=attrs["layout"])]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """Storage to storage; lanes that pad the last block are pooled like the others."""
    layout: Layout = attrs["layout"]
    data = attrs["in_layout"].whole(arrays[0])
    return [layout.pack(max_pool(data, windows(attrs, attrs["kernel_shape"])))]


OPERATOR = Operator("VtaMaxPool", _infer, _evaluate, (1, 1))
