"""Dequantize: int8 back to float32 on the host, one float32 multiplication by the scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .quantize import check_scale
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """float32 of the same shape; ValueError unless x is plain int8 of this very scale."""
    (x,) = kinds
    check_scale(attrs["scale"])
    if x.dtype != "int8" or x.layout.packed or x.zero_point:
        raise ValueError(f"takes a plain int8 tensor with zero point 0, got {x}")
    if x.scale is not None and x.scale != attrs["scale"]:
        raise ValueError(f"scale {attrs['scale']!r} is not the tensor's scale {x.scale!r}")
    return [TensorType(x.shape, "float32")]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """float32(x) * float32(scale)."""
    return [arrays[0].astype(np.float32) * np.float32(attrs["scale"])]


OPERATOR = Operator("Dequantize", _infer, _evaluate, (1, 1))
