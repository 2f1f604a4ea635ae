"""The arithmetic of two-dimensional convolutions, tap by tap, for floats and exact integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .taps import Tap, Window
from .types import Array

EXACT_PRODUCTS = 1024
"""Sums of up to this many int8 products are exact in float32: 1024 * 2^14 = 2^24."""


def output_shape(
    x: tuple[int, ...], channels: int, windows: Sequence[Window]
) -> tuple[int, int, int, int]:
    """(N, channels, H, W) of the result; ValueError if the kernel does not fit the input."""
    height, width = (window.outputs(size) for window, size in zip(windows, x[2:], strict=True))
    if height < 1 or width < 1:
        raise ValueError(f"the kernel does not fit the input of {x[2]}x{x[3]}")
    return x[0], channels, height, width


def convolve(x: Array, weight: Array, windows: Sequence[Window], group: int = 1) -> Array:
    """Sum over taps of x (N, C, H, W) with weight (O, C/group, kh, kw).

    The result has x's dtype, float32 or float64. Padding counts as zero.
    """
    out = np.zeros(output_shape(x.shape, weight.shape[0], windows), x.dtype)
    _add_taps(out, x, weight, taps_of(x.shape, windows), group)
    return out


def convolve_integers(
    x: Array, weight: Array, windows: Sequence[Window], group: int = 1
) -> Array:
    """The same for int8 operands: int32, exact, wrapping."""
    depth = weight.shape[1]
    shape = output_shape(x.shape, weight.shape[0], windows)
    taps = taps_of(x.shape, windows)
    if depth > EXACT_PRODUCTS:
        total = np.zeros(shape, np.float64)
        _add_taps(total, x.astype(np.float64), weight.astype(np.float64), taps, group)
        return total.astype(np.int64).astype(np.int32)
    data, kernel = x.astype(np.float32), weight.astype(np.float32)
    at_once = EXACT_PRODUCTS // depth
    out = np.zeros(shape, np.int32)
    for start in range(0, len(taps), at_once):
        part = np.zeros(shape, np.float32)
        _add_taps(part, data, kernel, taps[start : start + at_once], group)
        out += part.astype(np.int32)
    return out


def taps_of(x: tuple[int, ...], windows: Sequence[Window]) -> list[tuple[Tap, Tap]]:
    """Every pair of taps along H and W that reads some input of shape x."""
    return [
        (row, column) for row in windows[0].taps(x[2]) for column in windows[1].taps(x[3])
    ]


def _add_taps(
    out: Array, x: Array, weight: Array, taps: Sequence[tuple[Tap, Tap]], group: int
) -> None:
    for row, column in taps:
        patch = x[:, :, row.inp_slice, column.inp_slice]
        products = _products(patch, weight[:, :, row.kernel, column.kernel], group)
        out[:, :, row.out_slice, column.out_slice] += products


def _products(patch: Array, weight: Array, group: int) -> Array:
    """patch (N, C, h, w) by weight (O, C/group): (N, O, h, w)."""
    count, channels, height, width = patch.shape
    outputs, depth = weight.shape
    if depth == 1:
        repeated = np.repeat(patch, outputs // channels, axis=1) if outputs != channels else patch
        scaled: Array = repeated * weight.reshape(1, outputs, 1, 1)
        return scaled
    flat = np.ascontiguousarray(patch).reshape(count, group, channels // group, height * width)
    kernel = weight.reshape(group, outputs // group, depth)
    return np.matmul(kernel, flat).reshape(count, outputs, height, width)
