"""Error-compensating weight rounding: a weight's rounding error is made good by those after it.

The method of GPTQ (E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023): columns of the weight matrix are rounded one after the
other, and what one rounding does to the layer's output is taken back, as far as the inputs are
correlated, by the columns that are still free.
"""

from __future__ import annotations

import numpy as np

from ..ops.taps import SECTIONS, windows
from ..ops.types import Array, Attrs
from .sampling import positions
from .shift_grid import WEIGHT_LIMIT, ShiftGrid

_DAMPING = 0.01  # of the mean diagonal, so that few samples do not overfit
_ROWS = 4  # for each input, or the correlations found would be those of the samples alone
_BLOCK = 64  # columns whose errors reach the later ones in one product
_ELEMENTS = 2**22  # of correlation matrices at a time


def compensated(grid: ShiftGrid, weight: Array, rows: Array) -> Array:
    """Real weights (O, ...) -> int8 on the grid, for inputs `rows` (groups, rows, depth)."""
    groups, _, depth = rows.shape
    exact = grid.steps(weight).reshape(groups, -1, depth)
    result = np.empty(exact.shape, np.int8)
    at_once = max(1, _ELEMENTS // depth**2)
    for start in range(0, groups, at_once):
        part = slice(start, start + at_once)
        result[part] = _compensated(exact[part], rows[part])
    return result.reshape(weight.shape)


def can_compensate(rows: Array) -> bool:
    """Whether `rows` (groups, rows, depth) are enough to tell how inputs are correlated."""
    return bool(rows.shape[1] >= _ROWS * rows.shape[2])


def is_exact(grid: ShiftGrid, weight: Array) -> bool:
    """Whether there is nothing to round."""
    steps = grid.steps(weight)
    return bool((np.abs(steps - np.rint(steps)) < 1e-6).all())


def patches(
    x: Array, kernel: tuple[int, ...], attrs: Attrs, total: int
) -> Array | None:
    """What `x`, integers whose zero is 0, feeds to sampled outputs: float32 (groups, rows, depth).

    None for transposed convolutions, and those whose weights belong to sections.
    """
    if x.ndim == 2:
        return x.astype(np.float32)[None]
    if attrs.get("transposed", False) or SECTIONS in attrs:
        return None
    along = windows(attrs, kernel)
    ends = [(max(one.pad_begin, 0), max(one.pad_end, 0)) for one in along]
    padded = np.pad(x, ((0, 0), (0, 0), *ends))
    height, width = (one.outputs(size) for one, size in zip(along, x.shape[2:], strict=True))
    places = positions(height * width, 0, len(x), total)
    samples = np.broadcast_to(np.arange(len(x))[:, None], places.shape).ravel()
    row, column = (places // width).ravel(), (places % width).ravel()
    taps = [
        padded[
            samples,
            :,
            row * along[0].stride + i * along[0].dilation,
            column * along[1].stride + j * along[1].dilation,
        ]
        for i in range(along[0].kernel)
        for j in range(along[1].kernel)
    ]
    gathered = np.stack(taps, axis=-1).astype(np.float32)
    return gathered.reshape(len(samples), attrs["group"], -1).swapaxes(0, 1)


def _compensated(exact: Array, rows: Array) -> Array:
    """Steps (groups, outputs, depth), rounded; columns with the strongest inputs come first."""
    order = np.argsort(-np.einsum("grk,grk->k", rows, rows), kind="stable")
    rows = rows[:, :, order]
    products = np.matmul(rows.swapaxes(1, 2), rows) / np.float32(rows.shape[1])
    rounded = np.empty_like(exact)
    rounded[:, :, order] = _round_columns(exact[:, :, order], _inverse_root(products))
    return rounded


def _inverse_root(products: Array) -> Array:
    """The upper Cholesky factor of the inverse, for every group.

    With P = V V', where V is upper too, that is the inverse of V.
    """
    diagonal = np.einsum("gkk->gk", products)
    damping = _DAMPING * diagonal.mean(axis=1, dtype=np.float64) + 1e-6
    damped = products + damping[:, None, None] * np.eye(products.shape[1])
    return _upper_inverse(np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1])


def _upper_inverse(upper: Array) -> Array:
    """The inverses of upper triangular matrices (groups, k, k), by quarters."""
    size = upper.shape[1]
    if size <= _BLOCK:
        return np.triu(np.linalg.inv(upper))
    half = size // 2
    first, last = _upper_inverse(upper[:, :half, :half]), _upper_inverse(upper[:, half:, half:])
    inverse = np.zeros_like(upper)
    inverse[:, :half, :half], inverse[:, half:, half:] = first, last
    inverse[:, :half, half:] = -np.matmul(np.matmul(first, upper[:, :half, half:]), last)
    return inverse


def _round_columns(weight: Array, root: Array) -> Array:
    """Round (groups, outputs, depth) to whole steps, column by column."""
    weight = weight.copy()
    depth = weight.shape[2]
    for start in range(0, depth, _BLOCK):
        stop = min(start + _BLOCK, depth)
        errors = np.empty((*weight.shape[:2], stop - start))
        for column in range(start, stop):
            exact = weight[:, :, column]
            whole = np.clip(np.rint(exact), -WEIGHT_LIMIT, WEIGHT_LIMIT)
            error = (exact - whole) / root[:, column, column, None]
            weight[:, :, column] = whole
            rest = slice(column + 1, stop)
            weight[:, :, rest] -= error[:, :, None] * root[:, None, column, rest]
            errors[:, :, column - start] = error
        weight[:, :, stop:] -= np.matmul(errors, root[:, start:stop, stop:])
    return weight
