"""Quantize: float32 to int8 on the host, the same bytes on every CPU.

One float32 multiplication by the stored factor float32(1 / scale), round half to even, add the
attribute `zero_point` if there is one, clip to -128..127.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .types import Array, Attrs, Operator, TensorType

# Beyond these the factor, or a dequantised value, leaves float32's normal range.
SMALLEST_SCALE, LARGEST_SCALE = 1e-30, 2.0**120


def check_scale(scale: float) -> None:
    """Raise ValueError unless float32 can multiply by `scale` and by its inverse."""
    if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
        raise ValueError(
            f"scale {scale:.6g} is not within {SMALLEST_SCALE:.6g}..{LARGEST_SCALE:.6g}"
        )


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 of the same shape, carrying the scale; ValueError unless x is plain float32."""
    (x,) = kinds
    zero_point = attrs.get("zero_point", 0)
    check_scale(attrs["scale"])
    if type(zero_point) is not int or not -128 <= zero_point <= 127:
        raise ValueError(f"zero point {zero_point!r} is not an integer within -128..127")
    if x.dtype != "float32" or x.layout.packed:
        raise ValueError(f"takes a plain float32 tensor, got {x}")
    scale = float(attrs["scale"])
    return [TensorType(x.shape, "int8", scale=scale, zero_point=zero_point)]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """x * float32(1 / scale), rounded half to even, plus the zero point, clipped."""
    factor = np.float32(1.0 / attrs["scale"])
    with np.errstate(over="ignore", under="ignore"):  # infinity clips like any large value
        steps = np.rint(arrays[0] * factor) + np.float32(attrs.get("zero_point", 0))
    return [np.clip(steps, -128, 127).astype(np.int8)]


OPERATOR = Operator("Quantize", _infer, _evaluate, (1, 1))
