"""The arithmetic of two-dimensional convolutions, for floats and exact integers.

Three ways lead to the same sums: tap by tap (depthwise, and transposed with strides), and as
matrix products with patches, in pieces that stay in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .taps import Tap, Window
from .types import Array

Taps = Sequence[tuple[Tap, Tap]]

_EXACT_SUM = 2**24
"""float32 holds every integer up to here, so that sums within it are exact in any order."""

_PATCH_ELEMENTS = 2**18
_CHANNEL_ELEMENTS = 2**16


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
    _add_products(out, x, weight, taps_of(x.shape, windows), group)
    return out


def convolve_integers(
    x: Array, weight: Array, windows: Sequence[Window], group: int = 1
) -> Array:
    """The same for int8 operands: int32, exact, wrapping."""
    out = np.zeros(output_shape(x.shape, weight.shape[0], windows), np.int32)
    parts = _exact_parts(weight, taps_of(x.shape, windows))
    if parts is None:
        wide = np.zeros(out.shape, np.float64)
        _add_products(
            wide, x, weight.astype(np.float64), taps_of(x.shape, windows), group
        )
        return wide.astype(np.int64).astype(np.int32)
    for part in parts:
        _add_products(out, x, weight.astype(np.float32), part, group)
    return out


def taps_of(x: tuple[int, ...], windows: Sequence[Window]) -> list[tuple[Tap, Tap]]:
    """Every pair of taps along H and W that reads some input of shape x."""
    return [
        (row, column) for row in windows[0].taps(x[2]) for column in windows[1].taps(x[3])
    ]


def _exact_parts(weight: Array, taps: Taps) -> list[Taps] | None:
    """The taps in parts whose products with int8 sum up exactly in float32, if there are such."""
    sums = 128.0 * np.abs(weight.astype(np.float64)).sum(axis=1)
    parts: list[list[tuple[Tap, Tap]]] = [[]]
    total = np.zeros(len(weight))
    for row, column in taps:
        one = sums[:, row.kernel, column.kernel]
        if one.max() > _EXACT_SUM:
            return None
        total = total + one
        if total.max() > _EXACT_SUM:
            parts.append([])
            total = one
        parts[-1].append((row, column))
    return list(parts)


def _add_products(out: Array, x: Array, weight: Array, taps: Taps, group: int) -> None:
    """out += products of x with a weight in floats; x and out may be integers.

    The arithmetic is that of the weight's dtype.
    """
    positions = out.shape[2] * out.shape[3]
    if any(tap.out_step > 1 for pair in taps for tap in pair):
        _add_taps(out, x, weight, taps, group)
    elif weight.shape[1] == 1 and positions >= len(taps):
        _add_depthwise(out, x, weight, taps, group)
    elif taps:
        _add_patches(out, x, weight, taps, group)


def _add_patches(out: Array, x: Array, weight: Array, taps: Taps, group: int) -> None:
    """Matrix products with a column of taps a position, for a run of samples or of output rows."""
    outputs, height, width = out.shape[1:]
    kernel = np.stack([weight[:, :, row.kernel, column.kernel] for row, column in taps], axis=-1)
    kernel = np.ascontiguousarray(kernel).reshape(group, outputs // group, -1)
    room = max(1, _PATCH_ELEMENTS // (x.shape[1] * len(taps) * width))
    rows, samples = min(height, room), max(1, room // height)
    for low in range(0, height, rows):
        count = min(rows, height - low)
        parts = _within(taps, low, low + count)
        for start in range(0, len(x), samples):
            data = x[start : start + samples].swapaxes(0, 1)
            patches = np.zeros((x.shape[1], len(taps), data.shape[1], count, width), weight.dtype)
            for place, lines, row, column in parts:
                patches[:, place, :, lines, column.out_slice] = data[
                    :, :, row.inp_slice, column.inp_slice
                ]
            products = np.matmul(kernel, patches.reshape(group, kernel.shape[2], -1))
            shape = (outputs, data.shape[1], count, width)
            result = out[start : start + samples, :, low : low + count]
            result += products.reshape(shape).swapaxes(0, 1).astype(out.dtype, copy=False)


def _within(taps: Taps, low: int, high: int) -> list[tuple[int, slice, Tap, Tap]]:
    """The parts of taps on output rows [low, high): place in the list, rows from low, taps."""
    found = []
    for place, (row, column) in enumerate(taps):
        part = row.within(low, high)
        if part is not None:
            rows = slice(part.out_slice.start - low, part.out_slice.stop - low)
            found.append((place, rows, part, column))
    return found


def _add_depthwise(out: Array, x: Array, weight: Array, taps: Taps, group: int) -> None:
    """Tap by tap for a few channels of a sample at a time."""
    channels, many = x.shape[1], out.shape[1] // group
    at_once = max(1, _CHANNEL_ELEMENTS // (x.shape[2] * x.shape[3]))
    for sample, result in zip(x, out, strict=True):
        for low in range(0, channels, at_once):
            data = sample[low : low + at_once].astype(weight.dtype, copy=False)
            for number in range(many):
                mine = slice(low * many + number, (low + len(data)) * many, many)
                factors = weight[mine, 0, :, :, None, None]
                total = np.zeros((len(data), *out.shape[2:]), weight.dtype)
                for row, column in taps:
                    patch = data[:, row.inp_slice, column.inp_slice]
                    products = patch * factors[:, row.kernel, column.kernel]
                    total[:, row.out_slice, column.out_slice] += products
                result[mine] += total.astype(out.dtype, copy=False)


def _add_taps(out: Array, x: Array, weight: Array, taps: Taps, group: int) -> None:
    """One product a tap, for taps that feed outputs a step apart."""
    data = x.astype(weight.dtype, copy=False)
    for row, column in taps:
        patch = data[:, :, row.inp_slice, column.inp_slice]
        products = _products(patch, weight[:, :, row.kernel, column.kernel], group)
        out[:, :, row.out_slice, column.out_slice] += products.astype(out.dtype, copy=False)


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
    products: Array = np.matmul(kernel, flat).reshape(count, outputs, height, width)
    return products
