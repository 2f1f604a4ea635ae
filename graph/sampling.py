"""Sampled positions: the few places of an activation at which layers are compared.

Means and correlations over some thousand positions say what those over all of them would. The
same places are taken of the float reference and, later, of what the integer layer computes.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..ops.types import Array

MOST_ROWS = 8192
_SHIFT = 7  # from one sample to the next, so that not all look at the same columns


def positions(area: int, start: int, count: int, total: int) -> Array:
    """int64 (count, places): which of `area` positions are taken of samples `start` and on.

    `total` samples share MOST_ROWS; every sample gives at least one position.
    """
    places = min(area, -(-MOST_ROWS // total))
    first = np.arange(places) * area // places
    shifts = (start + np.arange(count)) * _SHIFT
    return np.asarray((first[None, :] + shifts[:, None]) % area)


def rows_of(values: Array, start: int, total: int) -> Array:
    """(n, channels, ...) of samples `start` and on -> (rows, channels) at sampled positions."""
    count, channels = values.shape[:2]
    flat = values.reshape(count, channels, prod(values.shape[2:]))
    places = positions(flat.shape[2], start, count, total)
    rows: Array = flat[np.arange(count)[:, None], :, places]
    return rows.reshape(-1, channels)
